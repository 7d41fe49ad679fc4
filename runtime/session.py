"""Exported tasks, ready to answer: graphs are loaded when they are asked for, the oldest let go."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maskpack.formats.errors import ConfigError, ExportError
from maskpack.runtime.graph import first_line, give_back, open_graph
from maskpack.runtime.task import (
    Place,
    Prediction,
    TaskCard,
    find_tasks,
    predictions,
)

Text = str | tuple[str, str]
"""A text, or a pair of texts for tasks on pairs."""

_AGAIN = "export the task again"


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A task in memory."""

    card: TaskCard
    tokenizer: Any
    graph: Any

    @property
    def inputs(self) -> list[str]:
        return [value.name for value in self.graph.get_inputs()]


class Session:
    """Answers with exported tasks.

    Args:
        folder: one that `compress export --onnx` wrote, or one that holds several of them.
        threads: of one operator; 0 leaves the choice to ONNX Runtime.
        keep: tasks held in memory at once.

    Raises:
        ExportError: no exported task there.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0, keep: int = 4) -> None:
        if keep < 1 or threads < 0:
            raise ConfigError(
                f"`keep` is {keep} and `threads` {threads}, expected 1 and 0 at least"
            )
        self._places = find_tasks(Path(folder))
        self._threads, self._keep = threads, keep
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._tokenizers: dict[tuple[Path, int], Any] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks at hand."""
        return tuple(self._places)

    def card(self, task: str | None = None) -> TaskCard:
        """What is known of a task."""
        return self._places[self._name(task)].read_card()

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
        rows = loaded.tokenizer.encode_batch(list(texts))
        order = np.argsort([len(row.ids) for row in rows], kind="stable")
        found: dict[int, Prediction] = {}
        for start in range(0, len(order), batch_size):
            places = [int(place) for place in order[start : start + batch_size]]
            logits = _run(loaded, [rows[place] for place in places])
            found.update(zip(places, predictions(loaded.card, logits), strict=True))
        return [found[place] for place in range(len(rows))]

    def _name(self, task: str | None) -> str:
        if task is None and len(self._places) == 1:
            return next(iter(self._places))
        if task not in self._places:
            what = "several tasks are here" if task is None else f"no task `{task}` here"
            raise ConfigError(what, f"tasks: {', '.join(self._places)}")
        return task

    def _load(self, task: str) -> _Loaded:
        """The task, loaded now if it is not; the one used longest ago makes room."""
        if task not in self._loaded:
            while len(self._loaded) >= self._keep:
                self._loaded.popitem(last=False)
            place = self._places[task]
            card = place.read_card()
            tokenizer = self._tokenizer(place.tokenizer, card.max_length)
            graph = load_graph(place, card, threads=self._threads)
            self._loaded[task] = _Loaded(card, tokenizer, graph)
        self._loaded.move_to_end(task)
        return self._loaded[task]

    def _tokenizer(self, path: Path, length: int) -> Any:
        """The tokenizer of a file, cutting texts to a length; tasks that agree in both share it."""
        if (path, length) not in self._tokenizers:
            try:
                tokenizer = Tokenizer.from_file(str(path))
            except Exception as error:  # the library raises bare `Exception`
                raise ExportError(f"cannot load `{path}`: {error}", _AGAIN) from error
            tokenizer.enable_truncation(length)
            tokenizer.no_padding()
            self._tokenizers[path, length] = tokenizer
        return self._tokenizers[path, length]


def load_graph(place: Place, card: TaskCard, *, threads: int) -> Any:
    """A task's graph in ONNX Runtime.

    Raises:
        ExportError: it is damaged, or the weights beside it are not those it was made for.
    """
    _check_weights(place, card)
    try:
        graph = open_graph(place.graph, threads=threads)
    except Exception as error:
        raise ExportError(f"cannot load `{place.graph}`: {first_line(error)}", _AGAIN) from error
    give_back()
    return graph


def _check_weights(place: Place, card: TaskCard) -> None:
    """Raise ExportError unless the shared weights are those that the graph was made for."""
    if card.weights is None:
        return
    try:
        with place.weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ExportError(f"cannot read `{place.weights}`: {error.strerror}", _AGAIN) from error
    if found != card.weights[1]:
        raise ExportError(
            f"`{place.weights}` is not what `{place.graph.name}` was made for: its SHA-256 is "
            f"{found[:12]}, expected {card.weights[1][:12]}",
            _AGAIN,
        )


def _run(loaded: _Loaded, rows: Sequence[Any]) -> NDArray[np.float32]:
    """Logits `(b, c)` of tokenised texts."""
    width = max(len(row.ids) for row in rows)
    feeds = {
        "input_ids": np.full((len(rows), width), loaded.card.pad[0], dtype=np.int64),
        "attention_mask": np.zeros((len(rows), width), dtype=np.int64),
        "token_type_ids": np.zeros((len(rows), width), dtype=np.int64),
    }
    for place, row in enumerate(rows):
        size = len(row.ids)
        feeds["input_ids"][place, :size] = row.ids
        feeds["attention_mask"][place, :size] = 1
        feeds["token_type_ids"][place, :size] = row.type_ids
    outputs = loaded.graph.run(["logits"], {name: feeds[name] for name in loaded.inputs})
    logits: NDArray[np.float32] = outputs[0]
    return logits
