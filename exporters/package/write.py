"""An exported folder to one that can be handed on: graphs, tokenizer, cards, checksums, an example.

The files of a task are found through its card (`maskpack.runtime.task`) and keep their places. What is
built is checked before it gets its name: every packaged graph must give the logits of the graph it was
made from, and every file must have its checksum. Imports no torch.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from maskpack.exporters.package.archive import archive_bytes, archive_kind, check_archive
from maskpack.exporters.package.check import (
    answers,
    check_files,
    check_graph,
    folder_digests,
    judge,
)
from maskpack.exporters.package.example import example_files
from maskpack.exporters.package.mobile import convert, required_operators
from maskpack.exporters.package.source import Source, find_sources
from maskpack.exporters.package.target import PackageRequest, Target
from maskpack.exporters.package.web import check_tokenizer
from maskpack.formats import ExportError
from maskpack.formats.writer import check_free, new_folder, write_bytes
from maskpack.runtime.graph import open_graph

CHECKSUMS = "SHA256SUMS"
OPERATORS = "required_operators.config"


@dataclass(frozen=True)
class Package:
    """What was written.

    Attributes:
        out: folder or archive.
        target: who runs it.
        files: name inside the package -> bytes.
        differences: task -> largest difference of a logit to the graph it was made from.
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
        ArtifactError: the place is taken or cannot be written.
        VerifyError: a packaged graph does not answer as the one it was made from.
    """
    check_free(request.out)
    sources = find_sources(request.folder, request.tasks)
    with _building(request.out) as build:
        differences = {source.card.name: _pack(source, request, build) for source in sources}
        if request.target is Target.MOBILE:
            graphs = [build / source.graph_name(request.target) for source in sources]
            write_bytes(build / OPERATORS, required_operators(graphs))
        for name, data in example_files(sources, request.target).items():
            _write(build, name, data)
        digests = folder_digests(build)
        lines = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        _write(build, CHECKSUMS, lines.encode())
        check_files(build, CHECKSUMS)
        files = {name: (build / name).stat().st_size for name in [*digests, CHECKSUMS]}
        sha256 = None
        if archive_kind(request.out) is not None:
            sha256 = _archive(build, request, sources)
    return Package(request.out, request.target, files, differences, sha256)


def _pack(source: Source, request: PackageRequest, build: Path) -> float:
    """Put a task into the folder; return how far its logits are from those of its source.

    The source is opened first: that is where damaged files and foreign weights are noticed.
    """
    session = source.open(source.place)
    check_graph(session, source, request.target)
    if request.target is Target.WEB:
        check_tokenizer(source, {value.name for value in session.get_inputs()})
    for name, data in source.contents(request.target).items():
        if not (build / name).exists() or (build / name).read_bytes() != data:
            _write(build, name, data)
    graph = build / source.graph_name(request.target)
    if request.target is Target.MOBILE:
        _write(build, source.graph_name(request.target), convert(source.place.graph))
        packed = open_graph(graph, threads=1)
    else:
        packed = source.open(source.place_in(build))
    return judge(answers(session, source), answers(packed, source), source.card.name)


def _write(build: Path, name: str, data: bytes) -> None:
    """Write a file of the package, which must be the only one of its name."""
    if (build / name).exists():
        raise ExportError(f"two files of the package would be called `{name}`", "rename the task")
    (build / name).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(build / name, data)


def _archive(build: Path, request: PackageRequest, sources: list[Source]) -> str:
    """Write the folder as an archive, read it back, and return its digest."""
    kind = archive_kind(request.out)
    assert kind is not None
    some = sources[0].card.name if len(sources) == 1 else "tasks"
    data = archive_bytes(build, kind, root=f"{some}-{request.target}")
    check_archive(data, kind, CHECKSUMS)
    write_bytes(request.out, data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`; it becomes `out`, unless that is an archive."""
    if archive_kind(out) is None:
        with new_folder(out) as build:
            yield build
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        home = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)
    except OSError as error:
        raise ExportError(f"cannot write `{out}`: {error.strerror}") from error
    with home as folder:
        yield Path(folder)
