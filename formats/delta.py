"""What turns one release into the next: of an artifact, an exported folder, a package, or a file. DELTA.md beside this file says every byte.

    encode_delta(old, new)  ->  bytes       decode_delta(bytes, old)  ->  new

A delta is a safetensors file. For each file of the new release it says which old one it is made from, and how (`Way`). It
holds the digests of both, so that it is refused over another release, and what it makes is what it was made for.
"""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from maskpack.formats.checks import read_text, read_whole
from maskpack.formats.codec import decode_tensors, encode_tensors, header_text
from maskpack.formats.delta_masks import (
    AGAIN,
    Linears,
    coded_patch,
    expanded,
    linears_of,
    read_coded,
    squeezed,
)
from maskpack.formats.errors import ArtifactError
from maskpack.formats.files import half_letter, name_problem
from maskpack.formats.schema import BACKBONE, PATCH_FILE
from maskpack.formats.tensorfile import Arrays, Buffer
from maskpack.formats.waiting import announced
from maskpack.formats.writer import check_free, check_writable, new_folder, write_bytes

_LOG = logging.getLogger(__name__)

KIND = "delta"
_VERSION = 1
_WRONG = (
    *(KeyError, TypeError, ValueError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),  # numbers and depths that nobody wrote
)

_SPARE, _RATIO = 2**30, 16
"""A release has at most so many bytes more than so many times those of the old one and the delta: a small file must not fill the memory."""

Files = Mapping[str, Buffer]


class Way(StrEnum):
    """How a file of the new release is made."""

    SAME = "same"  # as the old file
    WHOLE = "whole"  # from nothing, under xz
    XOR = "xor"  # under xz, bit by bit over the end of the old file
    SUM = "sum"  # under xz, byte by byte modulo 256
    MASKS = "masks"  # a patch: masks coded over the backbone, and where the old task removed weights apart from the rest


@dataclass(frozen=True)
class DeltaFile:
    """A file of the new release.

    Attributes:
        name: inside the release.
        way: how it is made.
        base: name of the old file that it is made from; None: from nothing.
        bytes: of it.
        delta_bytes: of the delta.
    """

    name: str
    way: Way
    base: str | None
    bytes: int
    delta_bytes: int


@dataclass(frozen=True)
class Delta:
    """A written delta, or one that was applied.

    Attributes:
        out: what was written.
        bytes: of the delta.
        files: of the new release.
    """

    out: Path
    bytes: int
    files: tuple[DeltaFile, ...]

    @property
    def new_bytes(self) -> int:
        """Of the new release."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, eq=False)
class CodedFile:
    """A file of the new release as the delta holds it.

    Attributes:
        way: how it is made.
        uses_old: whether the old file is needed.
        arrays: its tensors.
        parts: what the header says of coded masks.
    """

    way: Way
    uses_old: bool
    arrays: Arrays
    parts: Sequence[Mapping[str, Any]] = ()

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(array.nbytes for array in self.arrays.values())


def difference_bytes(new: Buffer, old: Buffer, *, way: Way) -> bytes:
    """`new` over the end of `old`, byte by byte; what `old` is too short for stays. Inverse of `sum_bytes`.

    Ends lie side by side, because a header of another length moves all that is behind it.

    >>> difference_bytes(bytes([9, 5, 7]), bytes([5, 6]), way=Way.SUM).hex()
    '090001'
    """
    return _over_the_end(new, old, np.bitwise_xor if way is Way.XOR else np.subtract)


def sum_bytes(coded: Buffer, old: Buffer, *, way: Way) -> bytes:
    """Inverse of `difference_bytes`."""
    return _over_the_end(coded, old, np.bitwise_xor if way is Way.XOR else np.add)


def _over_the_end(data: Buffer, old: Buffer, change: np.ufunc) -> bytes:
    made, base = np.frombuffer(data, np.uint8).copy(), np.frombuffer(old, np.uint8)
    size = min(len(made), len(base))
    if size:
        part = made[-size:]
        change(part, base[-size:], out=part)
    return made.tobytes()


def encode_delta(old: Files, new: Files, *, single: bool = False) -> tuple[bytes, list[DeltaFile]]:
    """The delta from one release to another, and what it is made of. Inverse of `decode_delta`.

    Args:
        old: name of a file -> its bytes.
        new: the same of the new release.
        single: whether each release is one file, whatever it is called.
    """
    arrays: Arrays = {}
    told: list[dict[str, Any]] = []
    made: list[DeltaFile] = []
    linears = linears_of(new)
    for number, name in enumerate(sorted(new)):
        data, base = new[name], _base_of(name, old, single=single)
        coded = _smallest(data, None if base is None else old[base], name, linears)
        base = base if coded.uses_old else None
        about = {"name": name, "bytes": len(data), "sha256": _digest(data), "way": coded.way}
        about |= {"base": base, "base_sha256": None if base is None else _digest(old[base])}
        told.append({**about, "parts": coded.parts} if coded.parts else about)
        arrays |= {f"{number}.{key}": array for key, array in coded.arrays.items()}
        made.append(DeltaFile(name, coded.way, base, len(data), coded.size))
    meta = {"kind": KIND, "version": _VERSION, "single": single, "files": told}
    meta["sha256"] = _release_digest(told, single=single)
    return encode_tensors(arrays, meta), made


def decode_delta(data: Buffer, old: Files) -> tuple[dict[str, bytes], bool, list[DeltaFile]]:
    """The new release: name of a file -> its bytes; whether it is one file; and how each was made. Inverse of `encode_delta`.

    Raises:
        ArtifactError: damaged, of another version, or made from another release: the file that differs is named.
    """
    arrays, meta, _ = decode_tensors(data, KIND)
    if meta.get("version") != _VERSION:
        raise ArtifactError(
            f"version {meta.get('version')!r} of deltas is not readable, this release reads {_VERSION}",
            "upgrade with `pip install -U maskpack`",
        )
    new: dict[str, bytes] = {}
    made: list[DeltaFile] = []
    try:
        single, files = meta["single"] is True, meta["files"]
        if meta["sha256"] != _release_digest(files, single=single):
            raise ArtifactError("the header of a delta is damaged", AGAIN)
        named = [_checked_name(read_text(about["name"])) for about in files]
        if (problem := name_problem(named)) is not None or (single and len(named) != 1):
            raise ArtifactError(f"a delta whose files cannot be written: {problem or named}")
        sizes = [read_whole(about["bytes"]) for about in files]
        _check_total(sum(max(0, size) for size in sizes), data, old)
        if min(sizes, default=0) < 0:
            raise ArtifactError(f"a delta whose file has {min(sizes)} bytes", AGAIN)
        # a backbone first, because masks are read over it
        for number in sorted(range(len(files)), key=lambda one: named[one] != BACKBONE):
            about, name = files[number], named[number]
            start = f"{number}."
            own = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
            made.append(_told(about, sum(array.nbytes for array in own.values())))
            base = _checked_base(about, old, single=single)
            new[name] = _made(about, own, base, new)
            if _digest(new[name]) != about["sha256"]:
                raise ArtifactError(f"`{name}` is not what the delta was made for", AGAIN)
    except _WRONG as error:
        raise ArtifactError(f"the header of a delta is wrong: {error!r}", AGAIN) from error
    return new, single, sorted(made, key=lambda file: file.name)


def _told(about: Mapping[str, Any], size: int) -> DeltaFile:
    base = about["base"]
    return DeltaFile(about["name"], Way(about["way"]), base, read_whole(about["bytes"]), size)


def _base_of(name: str, old: Files, *, single: bool) -> str | None:
    """The old file that a new one is compared with: of its name, or the patch that it replaces (SPEC.md section 7)."""
    if single:
        return next(iter(old))
    if name in old:
        return name
    match = PATCH_FILE.fullmatch(name)
    if match is None:
        return None
    stem = [one for one in old if (m := PATCH_FILE.fullmatch(one)) and m[1] == match[1]]
    return max(stem, key=lambda one: (len(one), one), default=None)


def _smallest(data: Buffer, old: Buffer | None, name: str, linears: Linears) -> CodedFile:
    """A file in the fewest bytes, made from the old one or from nothing."""
    if old is not None and bytes(data) == bytes(old):
        return CodedFile(Way.SAME, True, {})
    sketches = {Way.WHOLE: bytes(data)}
    if old is not None:
        sketches |= {way: difference_bytes(data, old, way=way) for way in (Way.XOR, Way.SUM)}
    way = min(sketches, key=lambda one: len(zlib.compress(sketches[one], 1)))
    tries = [CodedFile(way, way is not Way.WHOLE, {"data": squeezed(sketches[way])})]
    if PATCH_FILE.fullmatch(name) is not None and linears:
        bases = [None] if old is None else [None, old]
        for base in bases:
            if (coded := coded_patch(data, base, linears)) is not None:
                parts, arrays = coded
                tries.append(CodedFile(Way.MASKS, base is not None, arrays, parts))
    return min(tries, key=lambda one: one.size)


# ---- reading


def _made(about: Mapping[str, Any], own: Arrays, base: Buffer | None, new: Files) -> bytes:
    """A file of the new release."""
    way, size = Way(about["way"]), read_whole(about["bytes"])
    if way is Way.SAME and base is not None:
        return bytes(base)
    if way is Way.MASKS:
        return read_coded(about["parts"], own, base, linears_of(new), size=size)
    data = expanded(own["data"], size)
    if way is Way.WHOLE:
        return data
    if base is None:
        raise ArtifactError(f"`{about['name']}` is made from no file", AGAIN)
    return sum_bytes(data, base, way=way)


def _check_total(total: int, data: Buffer, old: Files) -> None:
    """Raise ArtifactError if a delta says that it makes more than a delta of its size could."""
    given = len(data) + sum(len(file) for file in old.values())
    if total > _SPARE + _RATIO * given:
        raise ArtifactError(
            f"the delta says that it makes {total:,} bytes of {given:,}, more than a delta may",
            AGAIN,
        )


def _checked_name(name: str) -> str:
    hidden = any(part == "" or part.startswith(".") for part in name.split("/"))
    if hidden or half_letter(name):
        raise ArtifactError(f"a delta names the file `{name}`")
    return name


def _checked_base(about: Mapping[str, Any], old: Files, *, single: bool) -> Buffer | None:
    """The old file that a new one is made from.

    Raises:
        ArtifactError: it is missing, or another one.
    """
    name = about["base"]
    if name is None:
        return None
    if single and old:
        name = next(iter(old))
    if name not in old:
        raise ArtifactError(
            f"the delta is made from a release with `{name}`, which is not there",
            "apply it to the release that it was made from",
        )
    digest = _digest(old[name])
    if digest != about["base_sha256"]:
        raise ArtifactError(
            f"`{name}` has the SHA-256 {digest[:12]}, the delta was made from "
            f"{str(about['base_sha256'])[:12]}",
            "apply it to the release that it was made from",
        )
    return old[name]


def _release_digest(files: Sequence[Mapping[str, Any]], *, single: bool) -> str:
    """Digest of names and digests of a release's files."""
    named = {about["name"]: about["sha256"] for about in files}
    return _digest(header_text({"files": named, "single": single}).encode())


def _digest(data: Buffer) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- on disk


def read_release(path: Path) -> tuple[dict[str, bytes], bool]:
    """Files of a release, hidden ones left out: name -> bytes; and whether it is one file.

    Raises:
        ArtifactError: it cannot be read, or is empty.
    """
    try:
        if path.is_file():
            return {path.name: path.read_bytes()}, True
        found = {}
        for file in sorted(path.rglob("*")):
            parts = file.relative_to(path).parts
            if file.is_file() and not any(part.startswith(".") for part in parts):
                found["/".join(parts)] = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read `{error.filename}`: {error.strerror}") from error
    if not found:
        raise ArtifactError(f"no files at `{path}`", "give a folder or a file")
    return found, False


def write_delta(old: Path, new: Path, out: Path) -> Delta:
    """Write what turns one release into another. Both are folders (artifacts, exports, packages), or both files.

    Raises:
        ArtifactError: a folder beside a file, one that cannot be read, or `out` exists or cannot be written.
    """
    check_free(out)
    check_writable(out)
    (before, one), (after, other) = read_release(old), read_release(new)
    if one != other:
        raise ArtifactError(f"one of `{old}` and `{new}` is a file, the other a folder")
    with announced(_LOG, f"comparing {len(after)} file(s) of `{new}` with `{old}`"):
        data, files = encode_delta(before, after, single=one)
        made, _, _ = decode_delta(data, before)
    assert made == after, "a delta gives back what it was made from"
    write_bytes(out, data)
    return Delta(out, len(data), tuple(files))


def apply_delta(old: Path, delta: Path, out: Path) -> Delta:
    """Write the release that a delta makes of an old one; it is there whole or not at all.

    Raises:
        ArtifactError: the delta is damaged or made from another release, or `out` exists or cannot be written.
    """
    check_free(out)
    check_writable(out)
    try:
        data = delta.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read `{delta}`: {error.strerror}") from error
    with announced(_LOG, f"applying `{delta}`"):
        new, single, files = decode_delta(data, read_release(old)[0])
    if single:
        write_bytes(out, next(iter(new.values())))
        return Delta(out, len(data), tuple(files))
    with new_folder(out) as build:
        for name, content in new.items():
            (build / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(build / name, content)
    return Delta(out, len(data), tuple(files))
