"""A folder as an archive, byte for byte the same whenever and wherever it is packed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from maskpack.exporters.package.check import compare, read_checksums
from maskpack.exporters.package.target import ARCHIVES

_MODE = 0o644
_FIRST = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can hold


def archive_kind(out: Path) -> str | None:
    """The ending of an archive, or None for a folder."""
    return next((ending for ending in ARCHIVES if out.name.endswith(ending)), None)


def archive_bytes(folder: Path, kind: str, *, root: str) -> bytes:
    """The files of a folder, sorted, without times and owners, below one name. Inverse: `unpack`."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {f"{root}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}
    return _WRITE[kind](dict(sorted(files.items())))


def unpack(data: bytes, kind: str) -> dict[str, bytes]:
    """Name -> bytes of an archive, without the name that all are below."""
    return {name.partition("/")[2]: content for name, content in _READ[kind](data).items()}


def check_archive(data: bytes, kind: str, checksums: str) -> None:
    """Raise VerifyError unless the files of an archive are those that its checksums name."""
    files = unpack(data, kind)
    found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    compare(read_checksums(files[checksums].decode()), found, checksums)


def _zip(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _FIRST)
            entry.create_system, entry.external_attr = 3, _MODE << 16  # Unix, whatever this is
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 6)
    return target.getvalue()


def _unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _tar(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", 6, target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), _MODE
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _untar(data: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None, entry.name
            found[entry.name] = file.read()
    return found


_WRITE: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {".zip": _zip, ".tar.gz": _tar}
_READ: dict[str, Callable[[bytes], dict[str, bytes]]] = {".zip": _unzip, ".tar.gz": _untar}
