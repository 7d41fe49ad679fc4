"""The tasks of an exported folder as a package sees them: which files are theirs, found by their cards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskpack.exporters.package.target import Target
from maskpack.exporters.report import REPORT_FILE, Report
from maskpack.exporters.session import AdaptedSession
from maskpack.formats import ConfigError, ExportError
from maskpack.formats.schema import CONFIG
from maskpack.runtime.session import load_graph, load_inputs
from maskpack.runtime.task import FEEDS_SUFFIX, Place, TaskCard, find_tasks

TOKENIZER_CONFIG = "tokenizer_config.json"

_COMPANIONS = (  # what transformers may write beside tokenizer.json
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Source:
    """A task of the exported folder.

    Attributes:
        folder: the exported folder, or the one that holds it.
        place: where its files lie.
        card: what is known of it.
    """

    folder: Path
    place: Place
    card: TaskCard

    def name(self, path: Path) -> str:
        """The name of one of its files inside the package: where it lies in the folder."""
        return path.relative_to(self.folder).as_posix()

    def graph_name(self, target: Target) -> str:
        """The name of its graph inside the package."""
        graph = self.place.graph
        return self.name(graph.with_suffix(".ort") if target is Target.MOBILE else graph)

    def place_in(self, folder: Path) -> Place:
        """Where its files lie in a folder that holds them by the same names."""
        place = self.place
        return replace(
            place,
            graph=folder / self.name(place.graph),
            card=folder / self.name(place.card),
            tokenizer=folder / self.name(place.tokenizer),
            adapter=None if place.adapter is None else folder / self.name(place.adapter),
        )

    def open(self, place: Place) -> Any:
        """Its graph in ONNX Runtime, at one of its places, as this task.

        Raises:
            ExportError: it is damaged, or what lies beside it is not what it was made for.
        """
        graph = load_graph(place, self.card, threads=1)
        if place.adapter is None:
            return graph
        return AdaptedSession(graph, load_inputs(place, self.card).run)

    @property
    def companions(self) -> list[Path]:
        """Files of the tokenizer and the model beside those that the card names."""
        found = [self.place.tokenizer.with_name(name) for name in _COMPANIONS]
        return [path for path in found if path.is_file()]

    @property
    def report(self) -> Path | None:
        """The verdict on its graph, if one was written."""
        own = self.place.adapter or self.place.graph
        for name in (f"{own.stem}.{REPORT_FILE}", REPORT_FILE):
            if own.with_name(name).is_file():
                return own.with_name(name)
        return None

    def contents(self, target: Target) -> dict[str, bytes]:
        """Its files, unchanged but for what the target leaves out: name in the package -> bytes.

        A mobile graph holds its weights, so its card names none.

        Raises:
            ExportError: a file cannot be read.
        """
        files = [self.place.tokenizer, *self.companions]
        files += [] if self.report is None else [self.report]
        if target is not Target.MOBILE:
            config = self.place.graph.with_name(CONFIG)
            files += [self.place.graph, self.place.card, *([config] if config.is_file() else [])]
            files += [] if self.card.weights is None else [self.place.weights]
            adapter = self.place.adapter
            files += [] if adapter is None else [adapter, adapter.with_suffix(FEEDS_SUFFIX)]
        try:
            found = {self.name(path): path.read_bytes() for path in files}
        except OSError as error:
            raise ExportError(f"cannot read `{error.filename}`: {error.strerror}") from error
        if target is Target.MOBILE:
            found[self.name(self.place.card)] = replace(self.card, weights=None).to_json().encode()
        return found


def find_sources(folder: Path, names: Sequence[str]) -> list[Source]:
    """The tasks of an exported folder, or those of them that are named.

    Raises:
        ExportError: no exported task there, or one whose report refuses it.
        ConfigError: a task that is named is not there.
    """
    places = find_tasks(folder)
    for name in names:
        if name not in places:
            raise ConfigError(f"no task `{name}` at `{folder}`", f"tasks: {', '.join(places)}")
    chosen = sorted(names or places)
    sources = [Source(folder, places[name], places[name].read_card()) for name in chosen]
    for source in sources:
        _check_report(source)
    return sources


def _check_report(source: Source) -> None:
    """Raise ExportError if the verdict on a graph is bad, or is on another graph."""
    if source.report is None:
        return
    try:
        report = Report.from_json(source.report.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read `{source.report}`: {error}") from error
    if not report.ok:
        raise ExportError(
            f"`{source.report}` refuses `{source.card.name}`: {report.findings[0]}",
            "export it again; a graph outside its tolerance is not packaged",
        )
    size = source.place.graph.stat().st_size
    if (report.task, report.graph.bytes) != (source.card.name, size):
        raise ExportError(
            f"`{source.report}` is about a graph of `{report.task}` with {report.graph.bytes:,} bytes, "
            f"`{source.place.graph.name}` is of `{source.card.name}` and has {size:,}",
            "export the task again",
        )
