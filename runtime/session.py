"""Exported tasks, ready to answer: graphs are loaded when they are asked for, the oldest let go.

`materialize` does once, at install, what a session would do each time: unpack, mask and fold a task's weights.
Folding takes several bytes a weight while a session is made, and frees them afterwards.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maskpack.formats.codec import file_sha256, read_tensors
from maskpack.formats.errors import ConfigError, ExportError
from maskpack.formats.lazy import renamed
from maskpack.formats.writer import new_folder, write_bytes
from maskpack.runtime.graph import (
    AGAIN,
    TaskRun,
    check_external,
    check_version,
    first_line,
    give_back,
    knows_adapters,
    open_graph,
    session_options,
    task_run,
)
from maskpack.runtime.outputs import Prediction
from maskpack.runtime.providers import CPU, Provider, find_providers
from maskpack.runtime.task import (
    FEEDS_SUFFIX,
    TOKENIZER,
    WEIGHTS,
    TaskConfig,
    TaskFiles,
    choose_task,
    find_tasks,
    pick_task,
)

Text = str | tuple[str, str]
"""A text, or a pair of texts for tasks on pairs."""


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A task in memory."""

    config: TaskConfig
    tokenizer: Any
    graph: Any
    own: TaskRun


class Session:
    """Answers with exported tasks.

    Args:
        folder: one that `compress export --onnx` wrote, or one that holds several of them.
        threads: of one operator; 0 leaves the choice to ONNX Runtime.
        keep: tasks held in memory at once.
        providers: where graphs run, the preferred one first: execution providers of ONNX Runtime by name (`cuda` or
            `CUDAExecutionProvider`), or name and options. The CPU computes what none of them takes.

    Raises:
        ConfigError: a provider that is not installed.
        ExportError: no exported task there.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int = 0,
        keep: int = 4,
        providers: Sequence[Provider] = (),
    ) -> None:
        if keep < 1 or threads < 0:
            raise ConfigError(
                f"`keep` is {keep} and `threads` {threads}, expected 1 and 0 at least"
            )
        self._places = find_tasks(Path(folder))
        self._threads, self._keep = threads, keep
        self._wanted = find_providers(providers)
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._graphs: WeakValueDictionary[Any, Any] = WeakValueDictionary()
        self._tokenizers: dict[tuple[Path, int], Any] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks at hand."""
        return tuple(self._places)

    card = renamed("card", "config")

    def config(self, task: str | None = None) -> TaskConfig:
        """What is known of a task."""
        return self._places[self._name(task)].read_config()

    def providers(self, task: str | None = None) -> tuple[str, ...]:
        """Execution providers that a task's graph runs on, the preferred one first; its graph is loaded."""
        return tuple(self._load(self._name(task)).graph.get_providers())

    def predict(
        self, texts: Sequence[Text], *, task: str | None = None, batch_size: int = 32
    ) -> list[Prediction]:
        """What a task says of each text, in their order.

        Texts of similar length share a batch. In an int8 graph what else is in a batch changes an
        answer a little: activations have one scale together. A batch of one depends on nothing.

        Args:
            texts: texts, or pairs of texts.
            task: which; needed where there are several.
            batch_size: texts a run.

        Raises:
            ConfigError: no such task, or none named of several.
            ExportError: the graph or the tokenizer cannot be loaded.
        """
        if batch_size < 1:
            raise ConfigError(f"`batch_size` is {batch_size}, expected 1 or more")
        loaded = self._load(self._name(task))
        config = loaded.config
        rows = loaded.tokenizer.encode_batch(list(texts))
        order = np.argsort([len(row.ids) for row in rows], kind="stable")
        found: dict[int, Prediction] = {}
        for start in range(0, len(order), batch_size):
            places = [int(place) for place in order[start : start + batch_size]]
            logits = _run(loaded, [rows[place] for place in places])
            answers = config.decoder.predictions(config.labels, logits)
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(rows))]

    def _name(self, task: str | None) -> str:
        return choose_task(self._places, task, "here")

    def _load(self, task: str) -> _Loaded:
        """The task, loaded now if it is not; the one used longest ago makes room."""
        if task not in self._loaded:
            place = self._places[task]
            config = place.read_config()
            same = (place.graph, config.weights, config.swap and config.swap.graph)
            graph = self._graphs.get(same) if config.swap else None  # what tasks share
            while len(self._loaded) >= self._keep:
                self._loaded.popitem(last=False)
            tokenizer = self._tokenizer(place.tokenizer, config.max_length)
            graph = graph or load_graph(
                place, config, threads=self._threads, providers=self._wanted
            )
            self._graphs[same] = graph
            own = load_inputs(place, config)
            self._loaded[task] = _Loaded(config, tokenizer, graph, own)
        self._loaded.move_to_end(task)
        return self._loaded[task]

    def _tokenizer(self, path: Path, length: int) -> Any:
        """The tokenizer of a file, cutting texts to a length; tasks that agree in both share it."""
        if (path, length) not in self._tokenizers:
            tokenizer = load_tokenizer(path)
            tokenizer.enable_truncation(length)
            tokenizer.no_padding()
            self._tokenizers[path, length] = tokenizer
        return self._tokenizers[path, length]


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a file.

    Raises:
        ExportError: the file is missing or damaged.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare `Exception`
        raise ExportError(f"cannot load `{path}`: {error}", AGAIN) from error


def load_graph(
    place: TaskFiles, config: TaskConfig, *, threads: int, providers: Sequence[Provider] = ()
) -> Any:
    """A task's graph in ONNX Runtime; arguments as of `open_graph`.

    Raises:
        ExportError: it is damaged, it names other weights than its configuration or those beside it are not
            those it was made for, or ONNX Runtime is too old.
    """
    check_task(place, config)
    try:
        graph = open_graph(place.graph, threads=threads, providers=providers)
    except Exception as error:
        raise ExportError(f"cannot load `{place.graph}`: {first_line(error)}", AGAIN) from error
    give_back()
    return graph


def check_task(place: TaskFiles, config: TaskConfig) -> None:
    """Raise ExportError if a task's files do not belong together, or the runtime is too old for them."""
    check_version()
    if (place.adapter is None) != (config.swap is None):
        raise ExportError(f"`{place.config}` is not the configuration of `{place.graph}`", AGAIN)
    if config.weights is not None:
        _check(place.weights, config.weights[1], place.graph.name)
    if config.swap is not None:
        _check(place.graph, config.swap.graph, config.name)
    check_external(place, config)


def load_inputs(place: TaskFiles, config: TaskConfig) -> TaskRun:
    """What a task feeds a graph that it shares: an adapter where the runtime knows them.

    Raises:
        ExportError: it is damaged, or not the one that was made for this graph.
    """
    if place.adapter is None or config.swap is None:
        return TaskRun()
    if not knows_adapters():
        feeds = place.adapter.with_suffix(FEEDS_SUFFIX)
        _check(feeds, config.swap.feeds, config.name)
        return TaskRun(feeds=dict(read_tensors(feeds.read_bytes())[0]))
    _check(place.adapter, config.swap.adapter, config.name)
    try:
        return task_run(place.adapter)
    except Exception as error:
        raise ExportError(f"cannot load `{place.adapter}`: {first_line(error)}", AGAIN) from error


def _check(path: Path, digest: str, owner: str) -> None:
    """Raise ExportError unless a file has the digest that is told of it."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise ExportError(f"cannot read `{path}`: {error.strerror}", AGAIN) from error
    if found != digest:
        raise ExportError(
            f"`{path}` is not what `{owner}` was made for: its SHA-256 is "
            f"{found[:12]}, expected {digest[:12]}",
            AGAIN,
        )


def _run(loaded: _Loaded, rows: Sequence[Any]) -> NDArray[np.float32]:
    """Logits `(b, c)` of tokenised texts; one of no tokens is one of padding, as in training."""
    width = max(1, *(len(row.ids) for row in rows))
    names = ("input_ids", "attention_mask", "token_type_ids")
    feeds = {name: np.zeros((len(rows), width), dtype=np.int64) for name in names}
    feeds["input_ids"][:] = loaded.config.pad[0]
    for place, row in enumerate(rows):
        size = max(1, len(row.ids))
        span = slice(width - size, width) if loaded.config.pad_left else slice(size)
        feeds["input_ids"][place, span] = row.ids or loaded.config.pad[0]
        feeds["attention_mask"][place, span] = 1
        feeds["token_type_ids"][place, span] = row.type_ids or 0
    told = {value.name: feeds[value.name] for value in loaded.graph.get_inputs()}
    own = loaded.own
    logits: NDArray[np.float32] = loaded.graph.run(["logits"], {**told, **own.feeds}, own.options)[
        0
    ]
    return logits


_LEAST = 1024  # bytes from which a constant lies in the file of weights


def materialize(folder: Path, out: Path, *, task: str | None = None) -> Path:
    """Write a task with its weights unpacked and masked; its graph.

    The result is a folder as any exported one, with a `backbone.bin` of the task's own. Only standard
    operators are in it: the folding is kept, fusions that depend on the machine are left to the session.

    Args:
        folder: an exported one, in the shared or folded layout.
        out: folder to make.
        task: which; needed where there are several.

    Raises:
        ConfigError: no such task, none named of several, or one of the swap layout.
        ExportError: its files do not belong together, or ONNX Runtime refuses the graph.
    """
    place = pick_task(folder, task)
    config = place.read_config()
    if place.adapter is not None:
        raise ConfigError(
            f"`{config.name}` is an adapter: its mask comes with every run and cannot be folded",
            "export it in the `shared` layout",
        )
    check_task(place, config)
    with new_folder(out) as build:
        graph = build / f"{config.name}.onnx"
        options = session_options(threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(graph)
        for key, value in (("file_name", WEIGHTS), ("min_size_in_bytes", str(_LEAST))):
            entry = f"session.optimized_model_external_initializers_{key}"
            options.add_session_config_entry(entry, value)
        try:
            onnxruntime.InferenceSession(str(place.graph), options, [CPU])
        except Exception as error:
            raise ExportError(f"cannot fold `{place.graph}`: {first_line(error)}") from error
        own = replace(config, weights=(WEIGHTS, file_sha256(build / WEIGHTS)))
        write_bytes(build / f"{config.name}.json", own.to_json().encode())
        shutil.copy(place.tokenizer, build / TOKENIZER)
    return out / f"{config.name}.onnx"
