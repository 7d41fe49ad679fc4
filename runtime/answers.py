"""Batches of rows to answers: of one task, or of several tasks that read texts alike and share a trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import DataError, ExportError, MaskpackError, first_line
from maskpack.runtime.cloze import (
    KEPT,
    MOST_LOGITS,
    chosen_for_metrics,
    hide,
    most_chosen,
    reduced,
    table_of,
)
from maskpack.runtime.fills import without_masks
from maskpack.runtime.graph import TaskRun
from maskpack.runtime.outputs import Answered, Entities, Prediction, joined
from maskpack.runtime.readers import Readable, Reader
from maskpack.runtime.task import AGAIN, TaskConfig
from maskpack.runtime.tokens import Text, TextReader, Tokens
from maskpack.runtime.trunk import OnTrunk

Answer = Answered | MaskpackError


@dataclass(frozen=True, eq=False)
class Loaded:
    """A task in memory."""

    config: TaskConfig
    reader: Reader
    graph: Any
    own: TaskRun

    @property
    def way(self) -> tuple[object, ...]:
        """What tasks must have in common to share a pass of a trunk: the trunk, and how texts become a batch.

        A task on no trunk shares none. Tasks of the swap layout have one graph, but all of it reads their masks.
        """
        shared = self.graph.trunk if self.is_on_trunk else self
        return (id(shared), self.config.decoder.reads, *self.reader.way)

    @property
    def is_on_trunk(self) -> bool:
        """Whether its graph stands on a trunk."""
        return isinstance(self.graph, OnTrunk)


@dataclass(frozen=True, eq=False)
class Read:
    """A row as it was given and as a model reads it."""

    text: Readable
    tokens: Any


def batches(rows: Mapping[int, Any], size: int) -> Iterator[list[int]]:
    """Places of rows in batches of similar length."""
    order = sorted(rows, key=lambda place: len(rows[place]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def answer_each(
    loaded: Sequence[Loaded],
    texts: Sequence[Readable],
    size: int,
    on_cut: Callable[[Sequence[Loaded]], None],
) -> list[list[Answer]]:
    """For each text the answers of tasks that read texts alike, or what is wrong.

    Args:
        loaded: one task; or several with one `way`, whose trunk runs once a batch.
        texts: texts, or pairs of texts.
        size: texts a run.
        on_cut: called with the tasks if a text has more tokens than they read.
    """
    parts = _parts(loaded[0], texts)
    if len(parts) > 1:
        return [one for part in parts for one in answer_each(loaded, part, size, on_cut)]
    read = loaded[0].reader.encode_each(texts)
    found: dict[int, list[Answer]] = {
        place: [one.reader.problem(texts[place]) or row for one in loaded]
        for place, row in enumerate(read)
        if isinstance(row, MaskpackError)
    }
    rows = {place: row for place, row in enumerate(read) if not isinstance(row, MaskpackError)}
    if loaded[0].config.mask is not None:
        rows, size = _to_fill(loaded, texts, rows, found, size)
    if loaded[0].reader.stride is not None or loaded[0].config.decoder.pieces:
        found.update(_from_pieces(loaded, texts, rows, size))
        return [found[place] for place in range(len(read))]
    whole = {place: row[0] for place, row in rows.items()}
    if any(row.is_cut for row in whole.values()):
        on_cut(loaded)
    for places in batches(whole, size):
        answers = _together(loaded, [Read(texts[place], whole[place]) for place in places])
        found.update(zip(places, map(list, zip(*answers, strict=True)), strict=True))
    return [found[place] for place in range(len(read))]


def _parts(loaded: Loaded, texts: Sequence[Readable]) -> list[Sequence[Readable]]:
    """The rows in as many parts as a reader needs, because it cannot hold all of them."""
    most = loaded.reader.most or len(texts)
    return [texts[start : start + most] for start in range(0, len(texts), max(1, most))]


def _to_fill(
    loaded: Sequence[Loaded],
    texts: Sequence[Text],
    rows: Mapping[int, Sequence[Tokens]],
    found: dict[int, list[Answer]],
    size: int,
) -> tuple[dict[int, tuple[Tokens, ...]], int]:
    """The blocks of each text that have masks, and how many of them a run takes; texts without masks get their errors in `found`."""
    masked = {place: tuple(one for one in row if one.masks) for place, row in rows.items()}
    for place, row in masked.items():
        if not row:
            found[place] = [_no_mask(one.config, texts[place]) for one in loaded]
    kept = {place: row for place, row in masked.items() if row}
    longest, reader = (
        max((len(one) for row in kept.values() for one in row), default=1),
        loaded[0].reader,
    )
    assert isinstance(reader, TextReader)
    most = MOST_LOGITS // (longest * reader.tokenizer.get_vocab_size())
    return kept, max(1, min(size, most))


def _no_mask(config: TaskConfig, text: Text) -> DataError:
    """The error of a text in which nothing is to be filled in."""
    assert isinstance(text, str)
    assert config.mask is not None
    return DataError(
        without_masks(text, config.mask[1]), f"write `{config.mask[1]}` where a word is to be found"
    )


def _from_pieces(
    loaded: Sequence[Loaded],
    texts: Sequence[Readable],
    rows: Mapping[int, Sequence[Any]],
    size: int,
) -> Iterator[tuple[int, list[Answer]]]:
    """Place of each row and its answers, each made from all windows or blocks of the row."""
    pieces = [(place, window) for place, row in rows.items() for window in row]
    outputs: list[list[Any]] = [[] for _ in pieces]
    for places in batches(dict(enumerate(window for _, window in pieces)), size):
        some = [Read(texts[pieces[place][0]], pieces[place][1]) for place in places]
        each = zip(*(_outputs(one, some) for one in loaded), strict=True)
        for place, logits in zip(places, each, strict=True):
            outputs[place] = list(logits)
    start = 0
    for place, row in rows.items():
        own = outputs[start : start + len(row)]
        read = [Read(texts[place], window) for window in row]
        yield (
            place,
            [
                _joined(one, logits, read)
                for one, logits in zip(loaded, zip(*own, strict=True), strict=True)
            ],
        )
        start += len(row)


def _joined(loaded: Loaded, logits: Sequence[Any], read: Sequence[Read]) -> Answer:
    """The answer of one row from what its windows gave, or what went wrong in the first that failed."""
    wrong = next((one for one in logits if isinstance(one, MaskpackError)), None)
    if wrong is not None:
        return wrong
    decoder = loaded.config.decoder
    if decoder.pieces:
        return _decoded(loaded, logits, read)[0]
    assert decoder.join is not None
    windows = [row.tokens.window for row in read if row.tokens.window is not None]
    (answer,) = _decoded(loaded, decoder.join(logits, windows), read[:1])
    assert isinstance(answer, Prediction | Entities)
    return replace(answer, windows=len(windows))


def _outputs(loaded: Loaded, rows: Sequence[Read]) -> list[Any]:
    """Logits of each row without padding, or its error."""

    def without_padding(logits: Any, some: Sequence[Read]) -> list[Any]:
        if not loaded.config.decoder.per_token:
            return list(logits)
        return [_own(own, row.tokens) for own, row in zip(logits, some, strict=True)]

    return _each(loaded, rows, without_padding)


def _own(logits: Any, tokens: Tokens) -> Any:
    """Logits of a piece without padding; of one with masks those of the masks alone, so that the others are let go."""
    return logits[: len(tokens)] if tokens.masks is None else logits[tokens.masks.places]


def _each(
    loaded: Loaded, rows: Sequence[Read], made: Callable[[Any, Sequence[Read]], list[Any]]
) -> list[Any]:
    """What is made of the logits of a batch, row by row; where the graph fails, each row is asked alone, so that one stops no other."""
    try:
        logits = run(loaded, [row.tokens for row in rows])
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no public base class
        if len(rows) > 1:
            return [one for row in rows for one in _each(loaded, [row], made)]
        return [
            ExportError(f"the graph fails on {len(rows[0].tokens)} tokens: {first_line(error)}")
        ]
    return made(logits, rows)


def logits_of(
    loaded: Loaded, texts: Sequence[Readable], size: int, *, second: bool = False
) -> NDArray[np.float32]:
    """Logits of texts, in their order: `(b, c)`, or `(b, s, c)` with 0 behind the tokens of a text, or of a window.

    Args:
        loaded: the task.
        texts: texts, or pairs of texts.
        size: texts a run.
        second: whether what stands before second texts stands before them.

    Raises:
        ConfigError, DataError: a text cannot be read.
        ExportError: the graph fails.
    """
    if not texts:
        raise DataError("there is no text")
    parts = _parts(loaded, texts)
    if len(parts) > 1:
        return np.concatenate([logits_of(loaded, part, size, second=second) for part in parts])
    rows = loaded.reader.encode(texts, second=second)
    longest = max(map(len, rows), default=0)
    found: NDArray[np.float32] | None = None
    for places in batches(dict(enumerate(rows)), size):
        try:
            some = run(loaded, [rows[place] for place in places])
        except Exception as error:  # the runtime's errors share no public base class
            raise ExportError(f"the graph fails: {first_line(error)}", AGAIN) from error
        if found is None:
            shape = (longest, *some.shape[2:]) if some.ndim == 3 else some.shape[1:]
            found = np.zeros((len(rows), *shape), dtype=some.dtype)
        for place, row in zip(places, some, strict=True):
            own = len(rows[place]) if some.ndim == 3 else len(row)
            found[place, :own] = row[:own]
    assert found is not None
    return found


def joined_logits_of(loaded: Loaded, texts: Sequence[Readable], size: int) -> NDArray[np.float32]:
    """Logits of texts that are cut into windows, joined from those of their windows: `(b, c)`, or `(b, s, c)` of the texts' own tokens.

    The rest is as of `logits_of`.
    """
    every, rows = logits_of(loaded, texts, size), loaded.reader.encode_each(texts)
    join, start, found = loaded.config.decoder.join, 0, []
    assert join is not None
    for row in rows:
        assert not isinstance(row, MaskpackError)  # `logits_of` would have raised it
        cuts = [tokens.window for tokens in row if tokens.window is not None]
        found.append(join(list(every[start : start + len(row)]), cuts))
        start += len(row)
    if found[0].ndim < 3:
        return np.concatenate(found)
    longest = max(one.shape[1] for one in found)
    widened = [np.pad(one, ((0, 0), (0, longest - one.shape[1]), (0, 0))) for one in found]
    return np.concatenate(widened)


def hidden_tokens(
    loaded: Loaded, texts: Sequence[Text], size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """What a task that fills masks says of the tokens on which metrics are measured; see `Session.hidden`."""
    reader = loaded.reader
    assert isinstance(reader, TextReader)
    blocks = reader.encode(texts)
    (output,) = loaded.config.decoder.outputs
    shapes = {value.name: value.shape for value in loaded.graph.get_outputs()}
    rule = reader.cloze_rule(vocabulary := int(shapes[output][-1]))
    longest = max(map(len, blocks), default=1)
    width = max(1, most_chosen(longest))
    table = table_of((chosen_for_metrics(block.ids, rule) for block in blocks), width)
    found = np.zeros((len(blocks), width, KEPT), dtype=np.float32)
    most = max(1, min(size, MOST_LOGITS // (longest * vocabulary)))
    for places in batches(dict(enumerate(blocks)), most):
        feeds = reader.batch([blocks[place] for place in places])
        labels = hide(feeds["input_ids"], table[places])
        try:
            found[places] = reduced(_run(loaded, feeds), labels, width)
        except Exception as error:  # the runtime's errors share no public base class
            raise ExportError(f"the graph fails: {first_line(error)}", AGAIN) from error
    return found, table


def ways(loaded: Sequence[Loaded]) -> list[list[Loaded]]:
    """Tasks that can share a pass of a trunk, together; a task on no trunk alone."""
    groups: dict[tuple[object, ...], list[Loaded]] = {}
    for one in loaded:
        groups.setdefault(one.way, []).append(one)
    return list(groups.values())


def passes(groups: Sequence[Sequence[Loaded]]) -> str | None:
    """A note where tasks on a trunk need more than one pass of it a batch; else None."""
    if len(groups) < 2 or not any(one.is_on_trunk for group in groups for one in group):
        return None
    names = "; ".join(", ".join(f"`{one.config.name}`" for one in group) for group in groups)
    return (
        f"tasks read texts in {len(groups)} ways, each of which needs a pass of the trunk: {names}"
    )


def _together(loaded: Sequence[Loaded], rows: Sequence[Read]) -> list[list[Answer]]:
    """For each task its answers to a batch; where a graph fails, tasks are asked alone."""
    if len(loaded) == 1:
        return [_answers(loaded[0], rows)]
    try:
        feeds = loaded[0].reader.batch([row.tokens for row in rows])
        states = loaded[0].graph.states(feeds)
        logits = [
            joined(one.graph.over(states, list(one.config.decoder.outputs), feeds))
            for one in loaded
        ]
    except Exception:  # noqa: BLE001 - the runtime's errors share no public base class
        return [_answers(one, rows) for one in loaded]
    return [_decoded(one, each, rows) for one, each in zip(loaded, logits, strict=True)]


def _answers(loaded: Loaded, rows: Sequence[Read]) -> list[Answer]:
    """The answers of a batch, or the error of a row."""
    return _each(loaded, rows, partial(_decoded, loaded))


def _decoded(loaded: Loaded, logits: Any, rows: Sequence[Read]) -> list[Answer]:
    config = loaded.config
    told = [loaded.reader.told(row.text, row.tokens) for row in rows]
    return [*config.decoder.predictions(config.labels, logits, told)]


def run(loaded: Loaded, rows: Sequence[Any]) -> NDArray[np.float32]:
    """Logits of rows that were read, `(b, c)` or `(b, s, c)`; the runtime's own errors."""
    return _run(loaded, loaded.reader.batch(rows))


def _run(loaded: Loaded, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Logits of a batch."""
    own = loaded.own
    told = {value.name: feeds[value.name] for value in loaded.graph.get_inputs()}
    names = list(loaded.config.decoder.outputs)
    return joined(loaded.graph.run(names, {**told, **own.feeds}, own.options))
