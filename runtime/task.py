"""One exported task: its configuration and the paths of its files. Only reading the configuration touches a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpack.formats.errors import ConfigError, ExportError, Hint
from maskpack.runtime.images import PROCESSOR
from maskpack.runtime.outputs import DECODERS, OutputDecoder

GRAPH = "model.onnx"
TASK_CONFIG = "task.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "backbone.bin"
GRAPH_DATA = "model.onnx_data"  # the weights of one large graph, as Optimum calls them
BASE = "base.onnx"
_BASES = re.compile(r"base(-[a-z][a-z-]*)?\.onnx")
TRUNK = "trunk.onnx"
HIDDEN = "hidden_states"
"""Output of a trunk, and input of a task's graph on top of it."""
ADAPTER_SUFFIX = ".onnx_adapter"
FEEDS_SUFFIX = ".safetensors"
_SEEN = "[!.]*"  # macOS puts `._x.onnx` beside `x.onnx` on disks of other systems

AGAIN = "export the task again"
_HINT = "give the folder of an exported task, or one that holds several of them"


@dataclass(frozen=True)
class SwapDigests:
    """SHA-256 of the files of a task of the swap layout.

    Attributes:
        graph: of the graph that all tasks share.
        adapter: of the task's adapter.
        feeds: of the same as plain inputs.
    """

    graph: str
    adapter: str
    feeds: str

    def __post_init__(self) -> None:
        for name, digest in vars(self).items():
            if len(digest) != 64:
                raise ExportError(f"`{TASK_CONFIG}` has the digest `{digest}` for `{name}`")


@dataclass(frozen=True)
class TaskConfig:
    """`task.json` of an exported folder.

    Attributes:
        name: of the task.
        kind: its type, one of `DECODERS`.
        labels: class names in the order of the logits; empty for a regression.
        max_length: tokens a text was cut to when the task was learned.
        pad: id and text of the padding token.
        weights: file beside the graph with weights that several tasks share, or with those of one large graph, and
            its SHA-256; None if the graph holds all weights.
        swap: digests, if the task is an adapter of a graph that it shares with others; else None.
        pad_left: whether padding stands before a text.
        columns: of the tables that it was learned from: of its texts and, last, of its label; empty if they have
            the names that are found without being told.
        separator: text between the labels of a cell of such a table, or None.
        texts: that a row has, 1 or 2; None: an older release wrote it and did not say.
        truncation_left: whether a row that is too long loses its beginning.
        split_special_tokens: whether the text of a special token is read as any other text.
        prefixes: what stands before the first and the second text of a row; empty: nothing.
        trunk: SHA-256 of the graph that computes the hidden states which the task's own graph reads; None: it reads
            tokens.
        base: file of the graph that the task shares, where masks are inputs: one for each type of head.
        stride: tokens that neighbouring windows of a long row share; None: rows are not cut into windows.
        no_answer: whether a row may have no answer.
        mask: id and text of the token that the task fills in; None: it fills in none.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    max_length: int
    pad: tuple[int, str]
    weights: tuple[str, str] | None = None
    swap: SwapDigests | None = None
    pad_left: bool = False
    columns: tuple[str, ...] = ()
    separator: str | None = None
    texts: int | None = None
    truncation_left: bool = False
    split_special_tokens: bool = False
    prefixes: tuple[str, ...] = ()
    trunk: str | None = None
    base: str = BASE
    stride: int | None = None
    no_answer: bool = False
    mask: tuple[int, str] | None = None

    def __post_init__(self) -> None:
        if not _BASES.fullmatch(self.base):
            raise ExportError(f"`{TASK_CONFIG}` has the graph `{self.base}`")
        if self.trunk is not None and len(self.trunk) != 64:
            raise ExportError(f"`{TASK_CONFIG}` has the digest `{self.trunk}` for `trunk`")
        if self.kind not in DECODERS:
            raise ExportError(
                f"`{TASK_CONFIG}` is of the unknown kind `{self.kind}`",
                f"this release answers: {', '.join(DECODERS)}",
            )
        if DECODERS[self.kind].labelled != (len(self.labels) > 1):
            raise ExportError(f"`{TASK_CONFIG}` has {len(self.labels)} labels for a {self.kind}")
        if type(self.max_length) is not int or self.max_length < 1:
            raise ExportError(f"`{TASK_CONFIG}` has the length {self.max_length!r}")
        if self.texts not in {None, 1, 2} or type(self.texts) is bool:
            raise ExportError(f"`{TASK_CONFIG}` has rows of {self.texts!r} texts")
        if (self.stride is not None) != DECODERS[self.kind].windows or (
            self.stride is not None and (type(self.stride) is not int or self.stride < 0)
        ):
            raise ExportError(f"`{TASK_CONFIG}` has the stride {self.stride!r} for a {self.kind}")
        if (self.mask is not None) != DECODERS[self.kind].fills:
            raise ExportError(f"`{TASK_CONFIG}` has the mask {self.mask!r} for a {self.kind}")
        if len(self.prefixes) not in {0, 2}:
            raise ExportError(f"`{TASK_CONFIG}` has {len(self.prefixes)} prefixes, expected 2")

    @property
    def requires(self) -> tuple[str, ...]:
        """Features without which the task would be answered otherwise, as `FEATURES` names them."""
        return tuple(
            name for name, (field, usual) in FEATURES.items() if getattr(self, field) != usual
        )

    @property
    def decoder(self) -> OutputDecoder:
        """Decodes its outputs."""
        return DECODERS[self.kind]

    def to_json(self) -> str:
        """Sorted, indented, with a final line feed. Inverse of `from_json`."""
        tree: dict[str, Any] = {
            "format": "maskpack-task",
            "format_version": 2 if self.requires else 1,
            "name": self.name,
            "kind": self.kind,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "pad_id": self.pad[0],
            "pad_token": self.pad[1],
        }
        if self.pad_left:
            tree["pad_side"] = "left"
        said = {
            "columns": list(self.columns) or None,
            "label_separator": self.separator,
            "texts": self.texts,
            "requires": list(self.requires) or None,
            "truncation_side": "left" if self.truncation_left else None,
            "split_special_tokens": self.split_special_tokens or None,
            "prefixes": list(self.prefixes) or None,
            "trunk_sha256": self.trunk,
            "base": None if self.base == BASE else self.base,
            "stride": self.stride,
            "no_answer": self.no_answer or None,
            "mask_id": None if self.mask is None else self.mask[0],
            "mask_token": None if self.mask is None else self.mask[1],
        }
        tree |= {name: value for name, value in said.items() if value is not None}
        if self.weights is not None:
            tree |= {"weights_file": self.weights[0], "weights_sha256": self.weights[1]}
        if self.swap is not None:
            tree |= {f"{name}_sha256": digest for name, digest in vars(self.swap).items()}
        return json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TaskConfig:
        """Read and check a configuration; inverse of `to_json`.

        Raises:
            ExportError: not a configuration, or one of another version.
        """
        try:
            tree = json.loads(text)
            _check_version(tree)
            separator = tree.get("label_separator")
            return cls(
                name=str(tree["name"]),
                kind=str(tree["kind"]),
                labels=tuple(str(label) for label in tree["labels"]),
                max_length=tree["max_length"],
                pad=(int(tree["pad_id"]), str(tree["pad_token"])),
                weights=_weights_of(tree),
                swap=_swap_of(tree),
                pad_left=_is_left(tree, "pad_side"),
                columns=tuple(str(column) for column in tree.get("columns", ())),
                separator=None if separator is None else str(separator),
                texts=tree.get("texts"),
                truncation_left=_is_left(tree, "truncation_side"),
                split_special_tokens=tree.get("split_special_tokens", False) is True,
                prefixes=tuple(str(prefix) for prefix in tree.get("prefixes", ())),
                trunk=str(tree["trunk_sha256"]) if "trunk_sha256" in tree else None,
                base=str(tree.get("base", BASE)),
                stride=tree.get("stride"),
                no_answer=tree.get("no_answer", False) is True,
                mask=(int(tree["mask_id"]), str(tree["mask_token"])) if "mask_id" in tree else None,
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ExportError(f"`{TASK_CONFIG}` is damaged: {error!r}", _HINT) from error


FEATURES: dict[str, tuple[str, Any]] = {
    "base": ("base", BASE),
    "mask": ("mask", None),
    "no-answer": ("no_answer", False),
    "prefix": ("prefixes", ()),
    "split-special-tokens": ("split_special_tokens", False),
    "stride": ("stride", None),
    "trunk": ("trunk", None),
    "truncation-left": ("truncation_left", False),
}
"""Feature that a configuration may require -> its field, and the field's value without the feature."""


def _check_version(tree: Mapping[str, Any]) -> None:
    """Raise ExportError unless this release reads a configuration.

    Version 2 is version 1 with features: releases that would ignore them refuse it.
    """
    if tree["format"] != "maskpack-task" or tree["format_version"] not in {1, 2}:
        raise ExportError(
            f"`{TASK_CONFIG}` is of format `{tree['format']}` {tree['format_version']!r}, "
            "this release reads `maskpack-task` 1 and 2"
        )
    unknown = [name for name in tree.get("requires", ()) if name not in FEATURES]
    if unknown:
        raise ExportError(
            f"`{TASK_CONFIG}` requires the feature `{unknown[0]}`, which this release does not know",
            "upgrade with `pip install -U maskpack`",
        )


def _weights_of(tree: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name and SHA-256 of a file of weights."""
    if "weights_file" not in tree:
        return None
    weights = (str(tree["weights_file"]), str(tree["weights_sha256"]))
    if weights[0] not in {WEIGHTS, GRAPH_DATA}:
        raise ExportError(f"`weights_file` is neither `{WEIGHTS}` nor `{GRAPH_DATA}`")
    return weights


def _swap_of(tree: Mapping[str, Any]) -> SwapDigests | None:
    """Digests of an adapter."""
    if "adapter_sha256" not in tree:
        return None
    return SwapDigests(*(str(tree[f"{part}_sha256"]) for part in ("graph", "adapter", "feeds")))


def _is_left(tree: Mapping[str, Any], key: str) -> bool:
    side = tree.get(key, "right")
    if side not in {"left", "right"}:
        raise ExportError(f"`{TASK_CONFIG}` has the {key.replace('_', ' ')} {side!r}")
    return bool(side == "left")


@dataclass(frozen=True)
class TaskFiles:
    """Paths of the files of a task.

    Attributes:
        graph: its own, or that of all tasks.
        config: its own.
        tokenizer: its own, or that of all tasks.
        adapter: the inputs by which a graph of all tasks computes this task; None where the graph is its own.
        trunk: the graph that computes the hidden states which its own reads; None where its own reads tokens.
    """

    graph: Path
    config: Path
    tokenizer: Path
    adapter: Path | None = None
    trunk: Path | None = None

    @property
    def weights(self) -> Path:
        """File beside the graph that holds weights, if the task has one: shared by tasks, or of a large graph."""
        own = self.graph.with_name(GRAPH_DATA)
        return own if self.graph.name == GRAPH and own.is_file() else self.graph.with_name(WEIGHTS)

    @property
    def processor(self) -> Path:
        """What says how images are read, of a task that reads them: beside where a tokenizer would lie."""
        return self.tokenizer.with_name(PROCESSOR)

    def read_config(self) -> TaskConfig:
        """The configuration.

        Raises:
            ExportError: it is missing or damaged.
        """
        try:
            text = self.config.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ExportError(f"cannot read `{self.config}`: {error}", _HINT) from error
        return TaskConfig.from_json(text)


def find_tasks(folder: Path) -> dict[str, TaskFiles]:
    """Exported tasks at `folder`: itself, tasks that share weights or a graph in it, or folders in it.

    Returns:
        Name of the task -> its files.

    Raises:
        ExportError: there is none, or two of one name.
    """
    try:
        adapters = sorted(folder.glob(f"{_SEEN}{ADAPTER_SUFFIX}"))
    except OSError as error:  # such as a name longer than the file system takes
        raise ExportError(f"cannot read `{folder}`: {error.strerror}") from error
    if adapters:
        candidates = [
            TaskFiles(base_beside(one), one.with_suffix(".json"), folder / TOKENIZER, one)
            for one in adapters
        ]
    elif (folder / WEIGHTS).is_file():
        trunk = find_trunk(folder)
        graphs = [one for one in sorted(folder.glob(f"{_SEEN}.onnx")) if one != trunk]
        candidates = [
            TaskFiles(one, one.with_suffix(".json"), folder / TOKENIZER, trunk=trunk)
            for one in graphs
        ]
    else:
        alone = [folder] if (folder / GRAPH).is_file() else []
        homes = alone or [graph.parent for graph in sorted(folder.glob(f"{_SEEN}/{GRAPH}"))]
        candidates = [
            TaskFiles(home / GRAPH, home / TASK_CONFIG, home / TOKENIZER) for home in homes
        ]
    tasks: dict[str, TaskFiles] = {}
    for files in candidates:
        name = files.read_config().name
        if name in tasks:
            raise ExportError(f"`{tasks[name].graph}` and `{files.graph}` both hold `{name}`")
        tasks[name] = files
    if not tasks:
        raise _no_task(folder)
    return tasks


def _no_task(folder: Path) -> ExportError:
    packed = [*folder.glob(f"{_SEEN}.onnx.gz"), *folder.glob(f"{_SEEN}/{GRAPH}.gz")]
    hint = f"they are under gzip: gunzip -r {folder}" if packed else Hint(_HINT, path=folder)
    return ExportError(f"no exported task at `{folder}`", hint)


def base_beside(adapter: Path) -> Path:
    """The graph that an adapter belongs to, as the configuration beside it says.

    Raises:
        ExportError: the configuration is damaged.
    """
    config = adapter.with_suffix(".json")
    if not config.is_file():
        return adapter.with_name(BASE)
    files = TaskFiles(adapter, config, adapter.with_name(TOKENIZER))
    return adapter.with_name(files.read_config().base)


def find_trunk(folder: Path) -> Path | None:
    """The graph that tasks of a folder share, if it has one; a graph with a configuration is a task of that name."""
    trunk = folder / TRUNK
    return trunk if trunk.is_file() and not trunk.with_suffix(".json").is_file() else None


def pick_task(folder: Path, task: str | None) -> TaskFiles:
    """The files of a task in an exported folder; of the only one, if none is named.

    Raises:
        ConfigError: no such task, or none named of several.
        ExportError: as `find_tasks`.
    """
    places = find_tasks(folder)
    return places[choose_task(places, task, f"at `{folder}`")]


def choose_task(names: dict[str, TaskFiles], task: str | None, where: str) -> str:
    """The task that is named, or the only one.

    Raises:
        ConfigError: no such task, or none named of several.
    """
    if task is None and len(names) == 1:
        return next(iter(names))
    if task not in names:
        what = "several tasks are" if task is None else f"no task `{task}` is"
        hint = Hint("name one as `task`: {names}", names=", ".join(sorted(names)))
        raise ConfigError(f"{what} {where}", hint)
    return task
