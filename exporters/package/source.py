"""The tasks of a package: their files, checks of their reports and tokenizers, and the example.

A task is packaged only if its report has no finding, and for the web only if the browser's library reads its tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnxruntime

from maskpack.exporters.options import Target
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
        folder: the exported folder, or its parent.
        place: paths of its files.
        config: its configuration.
    """

    folder: Path
    place: TaskFiles
    config: TaskConfig

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
        beside = [self.place.tokenizer.with_name(name) for name in _COMPANIONS]
        paths = [self.place.tokenizer, *(path for path in beside if path.is_file())]
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
        ExportError: no exported task there, or one whose report has findings.
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


KNOWN = {
    "model": {"WordPiece", "BPE"},
    "normalizer": {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Sequence"},
    "pre_tokenizer": {"BertPreTokenizer", "ByteLevel", "Sequence"},
    "post_processor": {
        *("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing")
    },
}
"""Part of tokenizer.json -> kinds of it for which the library gives the same tokens."""

_FRAMES = {"BertProcessing", "RobertaProcessing", "TemplateProcessing"}  # put texts between marks
_AGAIN = "export the task again"
_ELSEWHERE = "package it for the target `ort`, or give the graph tokens of your own"


def check_tokenizer(source: Source, inputs: Collection[str]) -> None:
    """Raise ExportError unless the example gives the tokens of the task's tokenizer.

    Args:
        source: the task.
        inputs: names of what its graph takes.
    """
    path = source.place.tokenizer
    if source.config.split_special_tokens:
        raise ExportError(
            "web packages read the text of special tokens as these tokens, "
            f"`{source.config.name}` reads it as any other text",
            _ELSEWHERE,
        )
    if not path.with_name(TOKENIZER_CONFIG).is_file():
        raise ExportError(f"no `{TOKENIZER_CONFIG}` beside `{path}`", _AGAIN)
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(tree, inputs)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"`{path}` is damaged: {error!r}", _AGAIN) from error
    if problem is not None:
        raise ExportError(f"web packages cannot cut texts as `{path}` does: {problem}", _ELSEWHERE)


def _problem(tree: dict[str, Any], inputs: Collection[str]) -> str | None:
    """The part of a tokenizer for which the library gives other tokens, if any."""
    kinds = {part: set(_kinds(tree[part])) for part in KNOWN}
    for part, known in KNOWN.items():
        if kinds[part] - known:
            return f"its {part} is `{min(kinds[part] - known)}`"
    frames = kinds["post_processor"] & _FRAMES
    if not frames:
        return "its post_processor puts no marks round a text"
    if "RobertaProcessing" in frames and "token_type_ids" in inputs:
        return "`RobertaProcessing` with a graph that takes `token_type_ids`"
    words = [token["content"] for token in tree["added_tokens"] if token["single_word"]]
    return f"`{words[0]}` is a `single_word`" if words else None


def _kinds(part: dict[str, Any] | None) -> Iterator[str]:
    """Kinds of a part of tokenizer.json and of the parts in it."""
    if part is None:
        return
    yield str(part["type"])
    for inner in ("normalizers", "pretokenizers", "processors"):
        for one in part.get(inner, ()):
            yield from _kinds(one)


EXAMPLES = {
    Target.ORT: {"predict.py": "predict.py.txt", "README.md": "ort.md"},
    Target.WEB: {
        "predict.mjs": "predict.mjs",
        "words.mjs": "words.mjs",
        "windows.mjs": "windows.mjs",
        "index.html": "index.html",
        "package.json": "package.json",
        "README.md": "web.md",
    },
    Target.MOBILE: {"predict.py": "predict.py.txt", "README.md": "mobile.md"},
}
"""Target -> name in the package -> template."""


def example_files(sources: Sequence[Source], target: Target) -> dict[str, bytes]:
    """The example and its page: name in the package -> bytes."""
    table = {source.config.name: _task_files(source, target) for source in sources}
    known = {
        "TASKS": json.dumps(table, indent=2, ensure_ascii=False),
        "TABLE": "\n".join(_row(source, target) for source in sources),
        "FIRST": sources[0].config.name,
        "MADE": f"maskpack {version('maskpack')}, checked in ONNX Runtime {onnxruntime.__version__}",
        "RUNTIME": onnxruntime.__version__,
        "OLDEST": shown(OLDEST),
    }
    made = {name: _filled(template, known) for name, template in EXAMPLES[target].items()}
    if target is not Target.WEB:
        modules = {name for one in sources for name in one.config.decoder.modules}
        runtime = files("maskpack.runtime")
        made |= {f"maskpack_{name}.py": (runtime / f"{name}.py").read_bytes() for name in modules}
    return made


def _task_files(source: Source, target: Target) -> dict[str, str]:
    """Role of a file -> its name in the package."""
    place = source.place
    names = {
        "graph": source.graph_name(target),
        "card": source.name(place.config),
        "tokenizer": source.name(place.tokenizer),
    }
    if (trunk := source.trunk_name(target)) is not None:
        names["trunk"] = trunk
    if place.adapter is not None and target is not Target.WEB:
        names["adapter"] = source.name(place.adapter)
    if target is Target.WEB:
        if source.feeds is not None:
            names["inputs"] = source.name(source.feeds)
        names["tokenizer_config"] = source.name(place.tokenizer.with_name(TOKENIZER_CONFIG))
        if source.config.weights is not None:
            names["weights"] = source.name(place.weights)
    return names


def _row(source: Source, target: Target) -> str:
    """A task in the page's table."""
    config, own = source.config, source.feeds if target is Target.WEB else source.place.adapter
    names = [source.graph_name(target)]
    if (trunk := source.trunk_name(target)) is not None:
        names.insert(0, trunk)
    if config.weights is not None and target is not Target.MOBILE:
        names.append(config.weights[0])
    if own is not None:
        names.append(source.name(own))
    graph = " + ".join(f"`{name}`" for name in names)
    return f"| {config.name} | {graph} | {_answers(config)} | {config.max_length} |"


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
