"""The tasks of a package: their files, checks of their reports, and the example.

A task is packaged only if its report has no finding. What texts and images differ in is in `inputs.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnxruntime

from maskpack.exporters.options import Target
from maskpack.exporters.package.inputs import PACKAGED, PackagedInputs
from maskpack.exporters.package.web import without_defaults
from maskpack.exporters.report import REPORT_FILE, Report
from maskpack.exporters.session import AdaptedSession
from maskpack.formats import ConfigError, ExportError
from maskpack.formats.schema import CONFIG
from maskpack.runtime.graph import OLDEST, shown
from maskpack.runtime.loading import load_graph, load_inputs
from maskpack.runtime.tags import kinds_of
from maskpack.runtime.task import FEEDS_SUFFIX, TaskConfig, TaskFiles, find_tasks
from maskpack.tasks.types import TASK_TYPES


@dataclass(frozen=True)
class Source:
    """A task of the exported folder.

    Attributes:
        folder: the exported folder, or its parent.
        place: paths of its files.
        config: its configuration.
    """

    folder: Path
    place: TaskFiles
    config: TaskConfig

    @property
    def reads(self) -> PackagedInputs:
        """What its package has because of what it reads."""
        return PACKAGED[self.config.decoder.reads]

    def name(self, path: Path) -> str:
        """The name of one of its files inside the package: its path relative to the folder."""
        return path.relative_to(self.folder).as_posix()

    def graph_name(self, target: Target) -> str:
        """The name of its graph inside the package."""
        graph = self.place.graph
        return self.name(graph.with_suffix(".ort") if target is Target.MOBILE else graph)

    def place_in(self, folder: Path) -> TaskFiles:
        """Paths of its files in a folder that has them under the same names."""
        own = {role: path for role, path in vars(self.place).items() if path is not None}
        return TaskFiles(**{role: folder / self.name(path) for role, path in own.items()})

    def open(self, files: TaskFiles, *, exact: bool = True) -> Any:
        """Its graph in ONNX Runtime, from given paths, as this task.

        With `exact` products of int8 do not overflow, see `open_graph`.

        Raises:
            ExportError: it is damaged, or a file beside it belongs to another graph.
        """
        graph = load_graph(files, self.config, threads=1, exact=exact)
        if files.adapter is None:
            return graph
        return AdaptedSession(graph, load_inputs(files, self.config))

    def trunk_name(self, target: Target) -> str | None:
        """The name of the trunk that its graph stands on inside the package; None where it reads tokens."""
        trunk = self.place.trunk
        if trunk is None:
            return None
        return self.name(trunk.with_suffix(".ort") if target is Target.MOBILE else trunk)

    @property
    def feeds(self) -> Path | None:
        """The task's inputs to a graph of all tasks as plain tensors; None where its graph is its own."""
        adapter = self.place.adapter
        return None if adapter is None else adapter.with_suffix(FEEDS_SUFFIX)

    @property
    def report(self) -> Path | None:
        """The report on its graph, if there is one."""
        own = self.place.adapter or self.place.graph
        for name in (f"{own.stem}.{REPORT_FILE}", REPORT_FILE):
            if own.with_name(name).is_file():
                return own.with_name(name)
        return None

    def contents(self, target: Target) -> dict[str, bytes]:
        """Its files, without those that the target does not need: name in the package -> bytes.

        A mobile graph holds its weights, so its configuration names none, nor the trunk, whose bytes are others there. A
        graph of all tasks is for the web another one, whose digest no configuration has.

        Raises:
            ExportError: a file cannot be read.
        """
        beside = self.place.tokenizer
        paths = [beside.with_name(name) for name in self.reads.files[target].values()]
        more = [beside.with_name(name) for name in self.reads.companions]
        paths += [path for path in more if path.is_file() and path not in paths]
        paths += [] if self.report is None else [self.report]
        if target is not Target.MOBILE:
            config = self.place.graph.with_name(CONFIG)
            paths += [self.place.graph, self.place.config, *([config] if config.is_file() else [])]
            paths += [] if self.config.weights is None else [self.place.weights]
            paths += [] if self.place.trunk is None else [self.place.trunk]
            adapter = None if target is Target.WEB else self.place.adapter
            paths += [path for path in (adapter, self.feeds) if path is not None]
        try:
            contents = {self.name(path): path.read_bytes() for path in paths}
        except OSError as error:
            raise ExportError(f"cannot read `{error.filename}`: {error.strerror}") from error
        if target is Target.MOBILE:
            own = replace(self.config, weights=None, trunk=None)
            contents[self.name(self.place.config)] = own.to_json().encode()
        if target is Target.WEB and self.feeds is not None:
            own = replace(self.config, swap=None)
            contents[self.name(self.place.config)] = own.to_json().encode()
            graph = self.name(self.place.graph)
            contents[graph] = without_defaults(contents[graph])
        return contents


def find_sources(folder: Path, names: Sequence[str]) -> list[Source]:
    """The tasks of an exported folder, or those of them that are named.

    Raises:
        ExportError: no exported task there, one whose report has findings, or tasks that read texts beside some that read images.
        ConfigError: a named task does not exist.
    """
    places = find_tasks(folder)
    for name in names:
        if name not in places:
            raise ConfigError(f"no task `{name}` at `{folder}`", f"tasks: {', '.join(places)}")
    chosen = sorted(names or places)
    sources = [Source(folder, places[name], places[name].read_config()) for name in chosen]
    for source in sources:
        _check_report(source)
    if len({source.config.decoder.reads for source in sources}) > 1:
        raise ExportError(
            f"some tasks at `{folder}` read texts, others images, and the example of a package reads one of them",
            "package them one after the other",
        )
    return sources


def _check_report(source: Source) -> None:
    """Raise ExportError if the report on a graph has findings, or is on another graph."""
    if source.report is None:
        return
    try:
        report = Report.from_json(source.report.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read `{source.report}`: {error}") from error
    if not report.ok:
        raise ExportError(
            f"`{source.report}` refuses `{source.config.name}`: {report.findings[0]}",
            "export it again; a graph outside its tolerance is not packaged",
        )
    size = source.place.graph.stat().st_size
    if (report.task, report.graph.bytes) != (source.config.name, size):
        raise ExportError(
            f"`{source.report}` is about a graph of `{report.task}` with {report.graph.bytes:,} bytes, "
            f"`{source.place.graph.name}` is of `{source.config.name}` and has {size:,}",
            "export the task again",
        )


def used_files(sources: Sequence[Source], target: Target) -> set[str]:
    """Names of the files that the example reads."""
    return {name for source in sources for name in _task_files(source, target).values()}


def example_files(
    sources: Sequence[Source], target: Target, stored: Mapping[str, str]
) -> dict[str, bytes]:
    """The example and its page: name in the package -> bytes.

    Args:
        sources: the tasks.
        target: who runs them.
        stored: name of a file -> the name that it is stored under, where that is another one.
    """
    reads = sources[0].reads
    table = {
        source.config.name: {
            role: stored.get(name, name) for role, name in _task_files(source, target).items()
        }
        for source in sources
    }
    known = {
        "TASKS": json.dumps(table, indent=2, ensure_ascii=False),
        "TABLE": "\n".join(_row(source, target, stored) for source in sources),
        "FIRST": sources[0].config.name,
        "MADE": f"maskpack {version('maskpack')}, checked in ONNX Runtime {onnxruntime.__version__}",
        "RUNTIME": onnxruntime.__version__,
        "OLDEST": shown(OLDEST),
        **(reads.values or {}),
    }
    made = {name: _filled(template, known) for name, template in reads.templates[target].items()}
    if target is not Target.WEB:
        modules = {name for one in sources for name in one.config.decoder.modules} | {
            *reads.modules
        }
        runtime = files("maskpack.runtime")
        made |= {f"maskpack_{name}.py": (runtime / f"{name}.py").read_bytes() for name in modules}
    return made


def _task_files(source: Source, target: Target) -> dict[str, str]:
    """Role of a file -> its name in the package."""
    place = source.place
    names = {
        "graph": source.graph_name(target),
        "card": source.name(place.config),
    }
    for role, name in source.reads.files[target].items():
        names[role] = source.name(place.tokenizer.with_name(name))
    if (trunk := source.trunk_name(target)) is not None:
        names["trunk"] = trunk
    if place.adapter is not None and target is not Target.WEB:
        names["adapter"] = source.name(place.adapter)
    if target is Target.WEB:
        if source.feeds is not None:
            names["inputs"] = source.name(source.feeds)
        if source.config.weights is not None:
            names["weights"] = source.name(place.weights)
    return names


def _row(source: Source, target: Target, stored: Mapping[str, str]) -> str:
    """A task in the page's table."""
    config, own = source.config, source.feeds if target is Target.WEB else source.place.adapter
    names = [source.graph_name(target)]
    if (trunk := source.trunk_name(target)) is not None:
        names.insert(0, trunk)
    if config.weights is not None and target is not Target.MOBILE:
        names.append(config.weights[0])
    if own is not None:
        names.append(source.name(own))
    graph = " + ".join(f"`{stored.get(name, name)}`" for name in names)
    size = source.reads.size(source.place, config)
    return f"| {config.name} | {graph} | {_answers(config)} | {size} |"


def _answers(config: TaskConfig) -> str:
    """What a task answers with: labels, the kinds of what it finds in a text, or what its type says."""
    per_token = config.decoder.per_token
    kinds = kinds_of(config.labels) if per_token else None
    if kinds is not None:
        return ", ".join(f"entities of `{kind}`" for kind in kinds)
    labels = () if per_token else config.labels
    return ", ".join(labels) or TASK_TYPES[config.kind].summary


def _filled(template: str, known: dict[str, str]) -> bytes:
    """A template with every `@NAME@` replaced."""
    folder = files("maskpack.exporters.package") / "templates"
    text = (folder / template).read_text(encoding="utf-8")
    for name, value in known.items():
        text = text.replace(f"@{name}@", value)
    return text.encode()
