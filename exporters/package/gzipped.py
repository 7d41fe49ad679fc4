"""Files of a web package under gzip, which browsers and Node unpack themselves.

A server sends files as they are unless it is told to compress them, and few are told so for weights. Other targets need none of this: an
archive of a package is compressed as a whole, and the application packages of phones are archives of ZIP.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

from maskpack.formats import VerifyError
from maskpack.formats.writer import write_bytes

SUFFIX = ".gz"

_LEVEL = 9
_LEAST = 4096  # bytes below which a request costs more than what is saved
_SHARE = 0.95  # of its bytes that a file under gzip may have at most
_MAGIC = b"\x1f\x8b"  # how gzip's own files begin


def gzipped(data: bytes) -> bytes | None:
    """A file under gzip, without a name or a time in it; None where that is not worth an unpacking.

    A file that begins as one of gzip does stays as it is: the example takes what does not begin so for a file that a server unpacked.

    >>> gzipped(b"short") is None, len(gzipped(bytes(100_000)))
    (True, 133)
    """
    if len(data) < _LEAST or data.startswith(_MAGIC):
        return None
    packed = gzip.compress(data, _LEVEL, mtime=0)
    return packed if len(packed) <= _SHARE * len(data) else None


def gzip_files(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Replace files of a package by `NAME.gz` where that saves enough; name -> name that it has now.

    Raises:
        VerifyError: a written file does not unpack to the old one, which stays then.
    """
    renamed = {}
    for name in sorted(set(names)):
        path, data = folder / name, (folder / name).read_bytes()
        packed = gzipped(data)
        if packed is None:
            continue
        target = path.with_name(path.name + SUFFIX)
        write_bytes(target, packed)
        if gzip.decompress(target.read_bytes()) != data:
            raise VerifyError(f"`{target}` does not unpack to `{path.name}`", "is the disk full?")
        path.unlink()
        renamed[name] = name + SUFFIX
    return renamed
