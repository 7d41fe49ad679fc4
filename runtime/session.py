"""Exported tasks, ready to answer: graphs are loaded when they are asked for, the oldest let go."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ConfigError, Hint, MaskpackError
from maskpack.formats.lazy import renamed
from maskpack.formats.processors import usage_now
from maskpack.runtime.answers import (
    Loaded,
    answer_each,
    hidden_tokens,
    joined_logits_of,
    logits_of,
    passes,
    ways,
)
from maskpack.runtime.ensemble import ensemble_of
from maskpack.runtime.graph import suitable_threads
from maskpack.runtime.loading import load_graph, load_inputs
from maskpack.runtime.outputs import Answered
from maskpack.runtime.providers import Provider, find_providers
from maskpack.runtime.readers import READERS, Readable, text_reader
from maskpack.runtime.task import TaskConfig, TaskFiles, choose_task, find_tasks
from maskpack.runtime.trunk import OnTrunk
from maskpack.runtime.windows import usual_stride

_LOG = logging.getLogger(__name__)

Asked = str | Sequence[str] | None
"""A task by name; several as an ensemble, which answers with the mean of their outputs; None: the only one."""


class Session:
    """Answers with exported tasks.

    Args:
        folder: one that `compress export --onnx` wrote, or one that holds several of them.
        threads: of one operator; 0: one for each core that no other program keeps busy when the first graph is loaded.
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
        self._chosen: int | None = None
        self._wanted = find_providers(providers)
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._graphs: WeakValueDictionary[Any, Any] = WeakValueDictionary()
        self._read: dict[Hashable, Any] = {}
        self._noted: set[str] = set()
        self._made = partial(Session, folder, threads=threads, keep=keep, providers=providers)

    def __reduce__(self) -> tuple[partial[Session], tuple[()]]:
        """A session is sent to another process as what it was made of: graphs in memory cannot be."""
        return self._made, ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks at hand."""
        return tuple(self._places)

    card = renamed("card", "config")

    def config(self, task: Asked = None) -> TaskConfig:
        """What is known of a task; of an ensemble, of the first one in it."""
        first = task if task is None or isinstance(task, str) else next(iter(task), None)
        return self._places[self._name(first)].read_config()

    def providers(self, task: str | None = None) -> tuple[str, ...]:
        """Execution providers that a task's graph runs on, the preferred one first; its graph is loaded."""
        return tuple(self._load(self._name(task)).graph.get_providers())

    def predict(
        self,
        texts: Sequence[Readable],
        *,
        task: Asked = None,
        batch_size: int = 32,
        windows: bool = False,
        stride: int | None = None,
    ) -> list[Answered]:
        """What a task says of each text, in their order.

        Texts of similar length share a batch. In an int8 graph what else is in a batch changes an
        answer a little: activations have one scale together. A batch of one depends on nothing.

        Args:
            texts: texts, or pairs of texts; of a task of images paths, bytes of files, images of Pillow or arrays uint8 `(h, w, 3)`.
            task: which; needed where there are several. Several names are an ensemble: the mean of their outputs answers.
            batch_size: texts a run.
            windows: whether a text of more tokens than the task reads is cut into windows, whose answers are joined; else it is cut off. A task that
                answers questions always cuts contexts into windows.
            stride: tokens that neighbouring windows share; None: a quarter of a window, or what the task says.

        Raises:
            ConfigError: no such task, or none named of several; a row of too few or too many texts; a task that joins no windows.
            DataError: a row is no text, or no image.
            ExportError: the graph or the tokenizer cannot be loaded, or the graph fails.
        """
        found = self.predict_each(
            texts, task=task, batch_size=batch_size, windows=windows, stride=stride
        )
        return [_sound(number, one) for number, one in enumerate(found, start=1)]

    def predict_each(
        self,
        texts: Sequence[Readable],
        *,
        task: Asked = None,
        batch_size: int = 32,
        windows: bool = False,
        stride: int | None = None,
    ) -> list[Answered | MaskpackError]:
        """As `predict`, but a text that cannot be answered gets its error, and the others their answers."""
        loaded = self._cutting(self._asked(task), windows=windows, stride=stride)
        found = answer_each([loaded], _several(texts), _checked(batch_size), self._note_cut)
        return [one for (one,) in found]

    def predict_all(
        self,
        texts: Sequence[Readable],
        *,
        tasks: Sequence[str] | None = None,
        batch_size: int = 32,
        windows: bool = False,
        stride: int | None = None,
    ) -> list[dict[str, Answered]]:
        """What each task says of each text: name of a task -> its answer, for each text in their order.

        In a folder of the trunk layout tasks that read texts alike share a pass of the trunk over each batch. In other
        layouts each task runs its own graph. All tasks that are asked are held in memory, however few `keep` says;
        when one task is asked next, those beyond `keep` are let go.

        Args:
            texts: texts, or pairs of texts.
            tasks: which; None: all of them.
            batch_size: texts a run.
            windows: as of `predict`.
            stride: as of `predict`.

        Raises:
            ConfigError: no such task, or one named twice; a row of too few or too many texts for one of them.
            DataError: a row is no text.
            ExportError: a graph or the tokenizer cannot be loaded, or a graph fails.
        """
        found = self.predict_all_each(
            texts, tasks=tasks, batch_size=batch_size, windows=windows, stride=stride
        )
        return [
            {name: _sound(number, one) for name, one in answers.items()}
            for number, answers in enumerate(found, start=1)
        ]

    def predict_all_each(
        self,
        texts: Sequence[Readable],
        *,
        tasks: Sequence[str] | None = None,
        batch_size: int = 32,
        windows: bool = False,
        stride: int | None = None,
    ) -> list[dict[str, Answered | MaskpackError]]:
        """As `predict_all`, but a task that cannot answer a text gives its error, and the others their answers."""
        names = self.tasks if tasks is None else tuple(tasks)
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"`tasks` are {', '.join(names) or 'none'}, expected different ones")
        texts, size = _several(texts), _checked(batch_size)
        room = max(self._keep, len(names))
        each = (self._load(self._name(name), room) for name in names)
        loaded = [self._cutting(one, windows=windows, stride=stride) for one in each]
        groups = ways(loaded)
        self._note(passes(groups))
        found: list[dict[str, Answered | MaskpackError]] = [{} for _ in texts]
        for group in groups:
            rows = answer_each(group, texts, size, self._note_cut)
            for answers, row in zip(found, rows, strict=True):
                answers.update(zip((one.config.name for one in group), row, strict=True))
        return [{name: answers[name] for name in names} for answers in found]

    def logits(
        self,
        texts: Sequence[Readable],
        *,
        task: Asked = None,
        batch_size: int = 32,
        windows: bool = False,
        stride: int | None = None,
    ) -> NDArray[np.float32]:
        """Outputs for the texts, in their order, before they become answers; the rest as of `predict`.

        With `windows` those of a text are joined from those of its windows. Tokens of a text are then counted without those that stand before and
        behind it.

        Returns:
            `(b, c)`; of a task with outputs for each token `(b, s, c)`, 0 behind the tokens of a text, or of a window of a context.
        """
        loaded = self._cutting(self._asked(task), windows=windows, stride=stride)
        if windows and loaded.config.decoder.join is not None:
            return joined_logits_of(loaded, _several(texts), _checked(batch_size))
        return logits_of(loaded, _several(texts), _checked(batch_size))

    def embed(
        self,
        texts: Sequence[str],
        *,
        task: Asked = None,
        second: bool = False,
        batch_size: int = 32,
    ) -> NDArray[np.float32]:
        """Vectors `(b, w)` of length 1 of texts, in their order; products of vectors are cosines. The rest as of `predict`.

        Args:
            texts: texts.
            task: which; needed where there are several.
            second: whether the texts are those to be found, before which another prefix may stand than before those that find.
            batch_size: texts a run.

        Raises:
            ConfigError: the task gives no vectors.
        """
        config = self.config(task)
        if not config.decoder.vectors:
            raise ConfigError(f"`{config.name}` is a {config.kind} and gives no vectors")
        return logits_of(self._asked(task), _several(texts), _checked(batch_size), second=second)

    def read(
        self,
        texts: Sequence[Readable],
        *,
        task: Asked = None,
        windows: bool = False,
        stride: int | None = None,
    ) -> list[Any]:
        """The texts as a task's graph reads them, or the windows that they are cut into; the rest as of `predict`."""
        loaded = self._cutting(self._asked(task), windows=windows, stride=stride)
        return loaded.reader.encode(_several(texts))

    def hidden(
        self, texts: Sequence[str], *, task: Asked = None, batch_size: int = 32
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """What a task that fills masks says of tokens that are hidden from it in texts, which are cut into blocks.

        Returns:
            For each block what metrics read, `(blocks, k, 3)`, and the hidden tokens, `(blocks, k, 3)`: see `runtime/cloze.py`.

        Raises:
            ConfigError: the task fills no masks.
        """
        config = self.config(task)
        if not config.decoder.fills:
            raise ConfigError(f"`{config.name}` is a {config.kind} and fills no masks")
        return hidden_tokens(self._asked(task), _several(texts), _checked(batch_size))

    def _name(self, task: str | None) -> str:
        return choose_task(self._places, task, "here")

    def _asked(self, task: Asked) -> Loaded:
        """A task or an ensemble, loaded; all members of an ensemble are held, however few `keep` says."""
        if task is None or isinstance(task, str):
            return self._load(self._name(task))
        room = max(self._keep, len(task))
        return ensemble_of([self._load(self._name(name), room) for name in task])

    def _note(self, fact: str | None) -> None:
        """Say a fact the first time only: lists of texts are asked one after the other."""
        if fact is not None and fact not in self._noted:
            self._noted.add(fact)
            _LOG.info("%s", fact)

    def _note_cut(self, loaded: Sequence[Loaded]) -> None:
        """Say the first time that a text is longer than what a task reads."""
        config, most = loaded[0].config, loaded[0].config.max_length
        if config.name in self._noted:
            return
        self._noted.add(config.name)
        joins = config.decoder.join is not None and config.texts != 2
        hint = Hint("`windows` reads all of it" if joins else "learn it with a larger `max_length`")
        where = "before" if config.truncation_left else "behind"
        _LOG.info("`%s` reads %d tokens of a row, not what stands %s them in longer ones; %s",
                  config.name, most, where, hint)  # fmt: skip

    def _cutting(self, loaded: Loaded, *, windows: bool, stride: int | None) -> Loaded:
        """A task that cuts long texts into windows, where that is asked for.

        Raises:
            ConfigError: it cannot, or the stride is none.
        """
        config = loaded.config
        if not windows:
            if stride is not None:
                raise ConfigError(
                    "`stride` is of texts that are cut into windows", "give `windows`"
                )
            return loaded
        if stride is not None and (type(stride) is not int or stride < 0):
            raise ConfigError(f"`stride` is {stride!r}, expected tokens, 0 or more")
        if not config.decoder.windows and (config.decoder.join is None or config.texts == 2):
            what = "reads pairs of texts" if config.texts == 2 else f"is a {config.kind}"
            raise ConfigError(
                f"`{config.name}` {what}, and joins no windows of a text", "leave `windows` out"
            )
        shared = config.stride if stride is None else stride
        shared = usual_stride(config.max_length) if shared is None else shared
        reader = text_reader(self._places[config.name], config, self._read, stride=shared)
        return replace(loaded, reader=reader)

    def _load(self, task: str, room: int | None = None) -> Loaded:
        """The task, loaded now if it is not; those used longest ago make room, so that `room` stay (`keep`)."""
        held = task in self._loaded
        if held:
            self._loaded.move_to_end(task)
        while len(self._loaded) - held >= (room or self._keep):
            self._loaded.popitem(last=False)
        if not held:
            place = self._places[task]
            config = place.read_config()
            before = usage_now()
            reader = READERS[config.decoder.reads](place, config, self._read)
            if self._chosen is None:
                self._chosen = suitable_threads(self._threads, before)
            graph = self._graph(place, config)
            own = load_inputs(place, config)
            self._loaded[task] = Loaded(config, reader, graph, own)
        return self._loaded[task]

    def _graph(self, place: TaskFiles, config: TaskConfig) -> Any:
        """The graph of a task; of what tasks share, an adapter's graph or a trunk, one is held."""
        digest = config.swap.graph if config.swap else config.trunk
        same = (place.trunk or place.graph, config.weights, digest)
        shared = None if digest is None else self._graphs.get(same)
        if config.swap and shared is not None:
            return shared
        graph = load_graph(
            place, config, threads=self._chosen or 0, providers=self._wanted, trunk=shared
        )
        self._graphs[same] = graph.trunk if isinstance(graph, OnTrunk) else graph
        return graph


def _sound(number: int, answer: Answered | MaskpackError) -> Answered:
    """The answer to a text; raises what is wrong with it."""
    if isinstance(answer, MaskpackError):
        raise type(answer)(f"row {number}: {answer}", answer.advice) from answer
    return answer


def _several(texts: Sequence[Readable]) -> Sequence[Readable]:
    """The texts; one text is refused, whose letters would be taken for texts."""
    if isinstance(texts, str | bytes):
        raise ConfigError("a list of texts is expected, and this is one", "put it into a list")
    return texts


def _checked(batch_size: int) -> int:
    if batch_size < 1:
        raise ConfigError(f"`batch_size` is {batch_size}, expected 1 or more")
    return batch_size
