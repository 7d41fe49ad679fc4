"""Exported tasks, ready to answer: graphs are loaded when they are asked for, the oldest let go.

`materialize` does once, at install, what a session would do each time: unpack, mask and fold a task's weights.
Folding takes several bytes a weight while a session is made, and frees them afterwards.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from maskpack.formats.codec import file_sha256, read_tensors
from maskpack.formats.errors import ConfigError, ExportError, MaskpackError, first_line
from maskpack.formats.lazy import renamed
from maskpack.formats.writer import new_folder, write_bytes
from maskpack.runtime.graph import (
    TaskRun,
    check_external,
    check_version,
    give_back,
    knows_adapters,
    open_graph,
    session_options,
    task_run,
)
from maskpack.runtime.outputs import Prediction
from maskpack.runtime.providers import CPU, Provider, find_providers
from maskpack.runtime.task import (
    AGAIN,
    FEEDS_SUFFIX,
    TOKENIZER,
    WEIGHTS,
    TaskConfig,
    TaskFiles,
    choose_task,
    find_tasks,
    pick_task,
)
from maskpack.runtime.tokens import Text, TextReader, Tokens, batch_of, load_tokenizer


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A task in memory."""

    config: TaskConfig
    reader: TextReader
    graph: Any
    own: TaskRun


class Session:
    """Answers with exported tasks.

    Args:
        folder: one that `compress export --onnx` wrote, or one that holds several of them.
        threads: of one operator; 0: as many as this process may use.
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
        for name, value, least in (("keep", keep, 1), ("threads", threads, 0)):
            if value < least:
                raise ConfigError(f"`{name}` is {value}, expected {least} or more")
        self._places = find_tasks(Path(folder))
        self._threads, self._keep = threads, keep
        self._wanted = find_providers(providers)
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._graphs: WeakValueDictionary[Any, Any] = WeakValueDictionary()
        self._tokenizers: dict[tuple[Path, int, bool, bool], Any] = {}
        self._made = partial(Session, folder, threads=threads, keep=keep, providers=providers)

    def __reduce__(self) -> tuple[partial[Session], tuple[()]]:
        """A session is sent to another process as what it was made of: graphs in memory cannot be."""
        return self._made, ()

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
            ConfigError: no such task, or none named of several; a row of too few or too many texts.
            DataError: a row is no text.
            ExportError: the graph or the tokenizer cannot be loaded, or the graph fails.
        """
        found = self.predict_each(texts, task=task, batch_size=batch_size)
        for number, one in enumerate(found, start=1):
            if isinstance(one, MaskpackError):
                raise type(one)(f"row {number}: {one}", one.advice) from one
        return [one for one in found if isinstance(one, Prediction)]

    def predict_each(
        self, texts: Sequence[Text], *, task: str | None = None, batch_size: int = 32
    ) -> list[Prediction | MaskpackError]:
        """As `predict`, but a text that cannot be answered gets its error, and the others their answers."""
        if batch_size < 1:
            raise ConfigError(f"`batch_size` is {batch_size}, expected 1 or more")
        loaded = self._load(self._name(task))
        read = loaded.reader.encode_each(texts)
        found: dict[int, Prediction | MaskpackError] = {
            place: row for place, row in enumerate(read) if isinstance(row, MaskpackError)
        }
        rows = {place: row for place, row in enumerate(read) if isinstance(row, Tokens)}
        order = sorted(rows, key=lambda place: len(rows[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            answers = _answers(loaded, [rows[place] for place in places])
            found.update(zip(places, answers, strict=True))
        return [found[place] for place in range(len(read))]

    def logits(
        self, texts: Sequence[Text], *, task: str | None = None, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Outputs `(b, c)` for the texts, in their order, before they become answers; the rest as of `predict`."""
        loaded = self._load(self._name(task))
        rows = loaded.reader.encode(texts)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        starts = range(0, len(order), batch_size)
        batches = [[rows[place] for place in order[at : at + batch_size]] for at in starts]
        try:
            values = np.concatenate([_run(loaded, batch) for batch in batches])
        except Exception as error:  # the runtime's errors share no public base class
            raise ExportError(f"the graph fails: {first_line(error)}", AGAIN) from error
        found = np.empty_like(values)
        found[order] = values
        return found

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
            reader = self._reader(place.tokenizer, config)
            graph = graph or load_graph(
                place, config, threads=self._threads, providers=self._wanted
            )
            self._graphs[same] = graph
            own = load_inputs(place, config)
            self._loaded[task] = _Loaded(config, reader, graph, own)
        self._loaded.move_to_end(task)
        return self._loaded[task]

    def _reader(self, path: Path, config: TaskConfig) -> TextReader:
        """The reader of a task's texts; tasks whose texts are cut alike share a tokenizer."""
        how = (path, config.max_length, config.truncation_left, config.split_special_tokens)
        if how not in self._tokenizers:
            self._tokenizers[how] = load_tokenizer(path)
        return TextReader.of(self._tokenizers[how], config)


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


def _answers(loaded: _Loaded, rows: Sequence[Tokens]) -> list[Prediction | MaskpackError]:
    """The answers of a batch; where the graph fails, each row is asked alone, so that one stops no other."""
    config = loaded.config
    try:
        logits = _run(loaded, rows)
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no public base class
        if len(rows) > 1:
            return [answer for row in rows for answer in _answers(loaded, [row])]
        return [ExportError(f"the graph fails on {len(rows[0])} tokens: {first_line(error)}")]
    return [*config.decoder.predictions(config.labels, logits)]


def _run(loaded: _Loaded, rows: Sequence[Tokens]) -> NDArray[np.float32]:
    """Logits `(b, c)` of tokenised texts."""
    feeds = batch_of(rows, pad=loaded.config.pad[0], left=loaded.config.pad_left)
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
