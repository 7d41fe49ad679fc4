"""The recipe of a package: open the sources, fill a hidden folder, compare logits, write checksums, rename.

A package must give the logits of its folder, and its files must match the checksums. An archive of the same files is
byte for byte the same on every machine and at every time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.exporters.options import ARCHIVES, PackageRequest, Target
from maskpack.exporters.package.gzipped import gzip_files
from maskpack.exporters.package.mobile import convert, required_operators
from maskpack.exporters.package.source import Source, example_files, find_sources, used_files
from maskpack.exporters.package.web import open_fed
from maskpack.exporters.session import ort_predict
from maskpack.formats import ExportError, VerifyError
from maskpack.formats.codec import file_sha256
from maskpack.formats.files import name_problem, scratch_folder
from maskpack.formats.waiting import announced
from maskpack.formats.writer import check_free, check_space, check_writable, new_folder, write_bytes
from maskpack.runtime.graph import open_graph
from maskpack.runtime.trunk import OnTrunk

_LOG = logging.getLogger(__name__)

LARGEST_DIFFERENCE = 1e-5
"""Largest allowed difference of a logit between a packaged graph and its original."""

Logits = list[NDArray[np.float32]]


def check_graph(session: Any, source: Source, target: Target) -> None:
    """Raise ExportError unless the examples know a graph's inputs and outputs."""
    names = {value.name for value in session.get_inputs()}
    more = names - set(source.reads.inputs)
    if source.place.adapter is None or target is Target.MOBILE:
        more |= {value.name for value in session.get_overridable_initializers()}
    if more:
        raise ExportError(
            f"`{source.place.graph.name}` takes `{min(more)}` as an input, packages for {target} are "
            f"of graphs that take {source.reads.what} alone",
            "export in the `folded` or the `shared` layout",
        )
    given = {value.name for value in session.get_outputs()}
    for output in source.config.decoder.outputs:
        if output not in given:
            raise ExportError(f"`{source.place.graph.name}` has no output `{output}`")


def check_difference(wanted: Logits, packed: Logits, task: str) -> float:
    """The largest difference of a logit.

    Raises:
        VerifyError: it is too large, or NaN.
    """
    pairs = zip(wanted, packed, strict=True)
    largest = max(float(np.abs(first - second).max()) for first, second in pairs)
    if not largest <= LARGEST_DIFFERENCE:
        raise VerifyError(
            f"the packaged graph of `{task}` is off by {largest:.2g}, at most {LARGEST_DIFFERENCE} "
            "is allowed"
        )
    return largest


CHECKSUMS = "SHA256SUMS"
OPERATORS = "required_operators.config"


def check_files(folder: Path) -> None:
    """Raise VerifyError unless the files of a package match its checksums."""
    text = (folder / CHECKSUMS).read_text(encoding="utf-8")
    wanted = {line[66:]: line[:64] for line in text.splitlines()}
    found = {name: file_sha256(folder / name) for name in _names(folder) if name != CHECKSUMS}
    if wanted != found:
        wrong = min(name for name in wanted | found if wanted.get(name) != found.get(name))
        raise VerifyError(f"`{wrong}` is not what `{CHECKSUMS}` says", "is the disk full?")


def _names(folder: Path) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


_MODE = 0o644
_FIRST = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can hold


def _archive_kind(out: Path) -> str | None:
    """The ending of an archive, or None for a folder."""
    return next((ending for ending in ARCHIVES if out.name.endswith(ending)), None)


def _zip(files: Mapping[str, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _FIRST)
            entry.create_system, entry.external_attr = 3, _MODE << 16  # Unix, on every system
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 6)
    return target.getvalue()


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


def _read(data: bytes, kind: str) -> dict[str, bytes]:
    """Name -> bytes of an archive. Inverse of `_zip` and `_tar`."""
    if kind == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(fileobj=io.BytesIO(data)) as entries:
        return {one.name: file.read() for one in entries if (file := entries.extractfile(one))}


@dataclass(frozen=True)
class Package:
    """The written package.

    Attributes:
        out: folder or archive.
        target: who runs it.
        files: name inside the package -> bytes.
        differences: task -> largest difference of a logit to the original graph.
        sha256: of the archive; None for a folder.
    """

    out: Path
    target: Target
    files: Mapping[str, int]
    differences: Mapping[str, float]
    sha256: str | None = None


def write_package(request: PackageRequest) -> Package:
    """Package exported tasks for one target.

    Raises:
        ExportError: the folder or a task in it is damaged, or the target cannot run it.
        ArtifactError: `out` exists or cannot be written.
        VerifyError: a packaged graph does not give the logits of its original.
    """
    check_free(request.out)
    check_writable(request.out)
    sources, target = find_sources(request.folder, request.tasks), request.target
    check_space(request.out, sum(file.stat().st_size for file in {s.place.graph for s in sources}))
    with _building(request.out) as build:
        with announced(_LOG, f"packaging {len(sources)} task(s) for {target}"):
            differences = {source.config.name: _pack(source, target, build) for source in sources}
        if target is Target.MOBILE:
            trunks = {name for one in sources if (name := one.trunk_name(target)) is not None}
            names_of = sorted(trunks) + [source.graph_name(target) for source in sources]
            graphs = [build / name for name in names_of]
            write_bytes(build / OPERATORS, required_operators(graphs))
        stored = gzip_files(build, used_files(sources, target)) if request.gzip else {}
        for name, data in example_files(sources, target, stored).items():
            _write(build, name, data)
        names = _names(build)
        if (problem := name_problem(names)) is not None:
            raise ExportError(f"the package could not be unpacked: {problem}", "rename the task")
        lines = [f"{file_sha256(build / name)}  {name}\n" for name in names]
        _write(build, CHECKSUMS, "".join(lines).encode())
        check_files(build)
        files = {name: (build / name).stat().st_size for name in [*names, CHECKSUMS]}
        kind = _archive_kind(request.out)
        sha256 = None if kind is None else _archive(build, kind, request, sources)
    return Package(request.out, target, files, differences, sha256)


def _pack(source: Source, target: Target, build: Path) -> float:
    """Write a task into the folder; return the largest difference of its logits to those of its source.

    The source is opened first, which finds damaged files and weights of another export.
    """
    # an `.ort` file has the usual kernels, so that it is compared with those of its original
    session = source.open(source.place, exact=target is not Target.MOBILE)
    check_graph(session, source, target)
    if target is Target.WEB:
        inputs = {value.name for value in session.get_inputs()}
        source.reads.check_web(source.place, source.config, inputs)
    for name, data in source.contents(target).items():
        if not (build / name).exists() or (build / name).read_bytes() != data:
            _write(build, name, data)
    if target is Target.MOBILE:
        graph = source.graph_name(target)
        _write(build, graph, convert(source.place.graph))
        packed = open_graph(build / graph, threads=1, exact=False)
        if (trunk := source.trunk_name(target)) is not None and source.place.trunk is not None:
            if not (build / trunk).exists():
                _write(build, trunk, convert(source.place.trunk))
            below = open_graph(build / trunk, threads=1, exact=False)
            packed = OnTrunk(below, packed)
    elif target is Target.WEB and source.feeds is not None:
        packed = open_fed(build / source.graph_name(target), build / source.name(source.feeds))
    else:
        packed = source.open(source.place_in(build))
    feeds = source.reads.probes(source.place, source.config)
    wanted, given = ([ort_predict(one)(feed) for feed in feeds] for one in (session, packed))
    return check_difference(wanted, given, source.config.name)


def _write(build: Path, name: str, data: bytes) -> None:
    """Write a file of the package, which must be the only one of its name."""
    if (build / name).exists():
        raise ExportError(f"two files of the package would be called `{name}`", "rename the task")
    (build / name).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(build / name, data)


def _archive(build: Path, kind: str, request: PackageRequest, sources: list[Source]) -> str:
    """Write the folder as an archive, read it back, and return its digest."""
    some = sources[0].config.name if len(sources) == 1 else "tasks"
    root = f"{some}-{request.target}"
    files = {f"{root}/{name}": (build / name).read_bytes() for name in _names(build)}
    data = _zip(files) if kind == ".zip" else _tar(files)
    if _read(data, kind) != files:
        raise VerifyError(f"`{request.out}` reads otherwise than what was packed into it")
    write_bytes(request.out, data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`; it becomes `out`, unless that is an archive."""
    if _archive_kind(out) is None:
        with new_folder(out) as build:
            yield build
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        home = scratch_folder(f".{out.name}.", out.parent)
    except OSError as error:
        raise ExportError(f"cannot write `{out}`: {error.strerror}") from error
    with home as folder:
        yield Path(folder)
