"""Tokens of a split, padded batches of them as numpy arrays, and logits of a whole split.

Training and graphs get the same batches. A predictor is any callable from a batch to logits:
a torch model, or a graph in ONNX Runtime.

Training order follows from (seed, epoch) alone, so a resumed run gets the batches of an uninterrupted one. Rows of
similar length share a batch: within a window of batches rows are sorted by length, then the batches are
shuffled. This halves the padding; the order stays random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.formats import MaskpackError, ModelError
from maskpack.formats.errors import Hint
from maskpack.models.families import family_of, longest_input, token_kinds
from maskpack.models.placement import to_numpy, to_tensors
from maskpack.models.processes import ALONE, Processes
from maskpack.runtime.tags import IGNORED
from maskpack.tasks.encoded import Encoded, Feeds, joined, joined_labels, known_labels
from maskpack.tasks.token_rows import TokenRows, chained
from maskpack.tasks.windows import context_numbers, counted_tokens, has_windows, row_numbers

__all__ = [
    "EVAL_BATCH",
    "Batches",
    "Encoded",
    "EncodedGroups",
    "EncodedTokens",
    "Feeds",
    "Predict",
    "evaluation_batches",
    "joined",
    "known_labels",
    "predict_all",
    "torch_predict",
    "training_batches",
]

Predict = Callable[[Feeds], NDArray[np.float32]]
"""Feeds of one batch to logits `(b, c)`, or `(b, s, c)`."""

EVAL_BATCH = 32

_WINDOW = 50  # batches that are sorted by length together


@dataclass(frozen=True, eq=False)
class EncodedTokens(Encoded):
    """A split as token ids.

    Attributes:
        ids: token ids of each row, without padding; a sequence of arrays or lists becomes `TokenRows`.
        types: token type ids of each row, or None for models without them.
        labels: one a row; of outputs for each token `(rows, tokens)`, `IGNORED` where none counts; of windows `WindowLabel`.
        pad: id of the padding token.
        pad_left: whether padding stands before a row.
        labelled: bool, one a row: whether its label counts; None: all do. Rows without labels are learned from a
            teacher alone.
        per_token: whether a model answers for each token; padding then stands behind a row.
    """

    ids: TokenRows
    types: TokenRows | None
    labels: NDArray[Any]
    pad: int
    pad_left: bool = False
    labelled: NDArray[np.bool_] | None = None
    per_token: bool = False

    def __post_init__(self) -> None:
        for name in ("ids", "types"):
            rows = getattr(self, name)
            if rows is not None and not isinstance(rows, TokenRows):
                object.__setattr__(self, name, TokenRows.of(rows))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return self.ids.lengths

    @property
    def widest(self) -> int:
        """Tokens of the longest text."""
        return int(self.ids.lengths.max())

    @property
    def together(self) -> NDArray[np.intp] | None:
        """For each row the number of the text that it is a part of; those of one text are held out together. None: rows are whole."""
        return context_numbers(self.labels) if has_windows(self.labels) else None

    def row_of(self, place: int) -> int:
        """Number of the split's row that the tokens at a place of `ids` are of."""
        return int(row_numbers(self.labels)[place]) if has_windows(self.labels) else place

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order given."""
        types = None if self.types is None else self.types.take(rows)
        ids = self.ids.take(rows)
        labelled = None if self.labelled is None else self.labelled[rows]
        return replace(self, ids=ids, types=types, labels=self.labels[rows], labelled=labelled)

    def read_by(self, config: Mapping[str, Any]) -> Self:
        """The same rows for the model of a configuration: with its padding, without token types that it does not read."""
        types = self.types if token_kinds(config) else None
        left = family_of(config["model_type"]).pad_left and not self.per_token
        return replace(self, types=types, pad_left=left)

    def refusal(self, name: str, config: Mapping[str, Any]) -> MaskpackError | None:
        """Of a model with fewer embeddings, positions or kinds of tokens."""
        highest, size = self.ids.largest(), config["vocab_size"]
        if highest >= size:
            return ModelError(
                f"{name} has {size} tokens, the data holds token {highest}",
                "teacher and backbone must share a tokenizer",
            )
        longest = longest_input(config)
        if self.widest > longest:
            return ModelError(
                f"{name} reads {longest} tokens, a row has {self.widest}",
                Hint("give a `max_length` of {longest}", longest=longest),
            )
        kinds = 1 + (0 if self.types is None else self.types.largest())
        if 0 < token_kinds(config) < kinds:
            return ModelError(f"{name} cannot tell the two texts of a pair apart")
        return None

    def followed_by(self, others: Sequence[EncodedTokens]) -> Self:
        """The rows and, behind them, those of others; all are of one tokenizer."""
        parts: tuple[EncodedTokens, ...] = (self, *others)
        types = None
        if self.types is not None:
            types = chained([part.types for part in parts if part.types is not None])
        ids = chained([part.ids for part in parts])
        return replace(self, ids=ids, types=types, **joined_labels(parts))

    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Logits of a batch of rows, those for each token in the width of the longest row of all, 0 where none counts."""
        if logits.ndim < 3:
            return logits
        width = logits.shape[1]
        longest = max(self.widest, width)
        found = np.zeros((len(rows), longest, *logits.shape[2:]), dtype=logits.dtype)
        if has_windows(self.labels):
            counts = counted_tokens(self.labels[rows], width)
        elif self.per_token:
            counts = self.labels[rows, :width] != IGNORED
        else:  # rows that were not cut for such a model: all their tokens
            counts = np.arange(width) < self.lengths[rows, None]
        found[:, :width][counts] = logits[counts]
        return found

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The rows as one padded batch."""
        lengths = self.ids.lengths
        width = int(lengths[rows].max())
        batch: Feeds = {
            "input_ids": np.full((len(rows), width), self.pad, dtype=np.int64),
            "attention_mask": np.zeros((len(rows), width), dtype=np.int64),
        }
        if self.types is not None:
            batch["token_type_ids"] = np.zeros((len(rows), width), dtype=np.int64)
        for number, row in enumerate(rows):
            size = int(lengths[row])
            span = slice(width - size, width) if self.pad_left else slice(size)
            batch["input_ids"][number, span] = self.ids[row]
            batch["attention_mask"][number, span] = 1
            if self.types is not None:
                batch["token_type_ids"][number, span] = self.types[row]
        return batch


@dataclass(frozen=True, eq=False)
class EncodedGroups(EncodedTokens):
    """Rows of several texts, each of which a model reads by itself: the tokens of all texts stand one after the other.

    Attributes:
        size: texts of a row.
    """

    size: int = 1

    def __len__(self) -> int:
        return len(self.ids) // self.size

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of all texts of each row."""
        return np.asarray(self.ids.lengths.reshape(-1, self.size).sum(axis=1))

    def row_of(self, place: int) -> int:
        """Number of the split's row that the text at a place of `ids` is of."""
        return place // self.size

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order given."""
        texts = self._texts(rows)
        types = None if self.types is None else self.types.take(texts)
        labelled = None if self.labelled is None else self.labelled[rows]
        ids, labels = self.ids.take(texts), self.labels[rows]
        return replace(self, ids=ids, types=types, labels=labels, labelled=labelled)

    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Outputs of a batch of rows, `(b, g, w)`."""
        return logits.reshape(len(rows), self.size, *logits.shape[1:])

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The texts of the rows as one padded batch, `(b g, s)`."""
        return super().feeds(self._texts(rows))

    def _texts(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.asarray((rows[:, None] * self.size + np.arange(self.size)).reshape(-1))


@dataclass(frozen=True, eq=False)
class Batches(Sequence[NDArray[np.intp]]):
    """Row indices of the batches of an epoch, cut when they are asked for: millions of small arrays cost more than rows.

    Attributes:
        rows: of all batches, one after the other.
        size: rows of each; the last one that stands in `rows` may be shorter.
        order: numbers of the batches, as they are given out.
    """

    rows: NDArray[np.intp]
    size: int
    order: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.intp]: ...

    @overload
    def __getitem__(self, index: slice) -> Batches: ...

    def __getitem__(self, index: int | slice) -> NDArray[np.intp] | Batches:
        if isinstance(index, slice):
            return replace(self, order=self.order[index])
        start = self.order[index] * self.size
        return self.rows[start : start + self.size]


def training_batches(
    lengths: NDArray[np.int64], *, batch_size: int, seed: int, epoch: int
) -> Batches:
    """Row indices of every batch of one epoch; each row once, a short last batch is kept."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    window = _WINDOW * batch_size
    for start in range(0, len(order), window):
        part = order[start : start + window]
        order[start : start + window] = part[np.argsort(lengths[part], kind="stable")]
    return Batches(order, batch_size, rng.permutation(-(-len(order) // batch_size)))


def evaluation_batches(
    lengths: NDArray[np.int64], *, batch_size: int
) -> Iterator[NDArray[np.intp]]:
    """Row indices in order of length, always the same."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def predict_all(
    predict: Predict,
    encoded: Encoded,
    *,
    batch_size: int = EVAL_BATCH,
    processes: Processes = ALONE,
) -> NDArray[np.float32]:
    """Logits of a whole split, in the split's own order.

    Args:
        predict: answers one batch.
        encoded: the split.
        batch_size: rows of a batch.
        processes: share the batches out; each of them gets all logits.

    Returns:
        `(rows, c)`; of outputs for each token `(rows, tokens, c)` for the longest row, 0 where none counts.
    """
    places, made = [np.zeros(0, dtype=np.intp)], None
    batch_size = min(batch_size, encoded.most_rows or batch_size)
    for number, rows in enumerate(evaluation_batches(encoded.lengths, batch_size=batch_size)):
        if number % processes.count != processes.rank:
            continue
        logits = encoded.of_longest(predict(encoded.feeds(rows)), rows)
        if made is None:
            made = np.empty((len(encoded), *logits.shape[1:]), dtype=logits.dtype)
        made[rows] = logits
        places.append(rows)
    own = np.concatenate(places)
    shared = processes.gather((own, None if made is None else made[own]))
    ordered = made
    for others, answers in shared:
        if answers is None:  # fewer batches than processes
            continue
        if ordered is None:
            ordered = np.empty((len(encoded), *answers.shape[1:]), dtype=answers.dtype)
        ordered[others] = answers
    assert ordered is not None  # a split has rows
    return ordered


def torch_predict(model: Any) -> Predict:
    """A predictor around a torch model, in float32 and evaluation mode."""
    model.eval()

    def predict(feeds: Feeds) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(**to_tensors(feeds, model)).logits.float()
        return to_numpy(logits)

    return predict
