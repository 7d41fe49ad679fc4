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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.formats import ConfigError
from maskpack.models.families import family_of, token_kinds
from maskpack.models.placement import to_numpy, to_tensors

Feeds = dict[str, NDArray[np.int64]]
"""Input name -> int64 `(b, s)`."""

Predict = Callable[[Feeds], NDArray[np.float32]]
"""Feeds of one batch to logits `(b, c)`."""

EVAL_BATCH = 32

_HOLD_OUT_SEED = 11
_WINDOW = 50  # batches that are sorted by length together


@dataclass(frozen=True, eq=False)
class Encoded:
    """A split as token ids.

    Attributes:
        ids: token ids of each row, without padding.
        types: token type ids of each row, or None for models without them.
        labels: one a row.
        pad: id of the padding token.
        pad_left: whether padding stands before a row.
    """

    ids: tuple[NDArray[np.int64], ...]
    types: tuple[NDArray[np.int64], ...] | None
    labels: NDArray[Any]
    pad: int
    pad_left: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)

    def take(self, rows: NDArray[np.intp]) -> Encoded:
        """Some of the rows, in the order given."""
        types = None if self.types is None else tuple(self.types[row] for row in rows)
        ids = tuple(self.ids[row] for row in rows)
        return replace(self, ids=ids, types=types, labels=self.labels[rows])

    def hold_out(self, *, if_asked: bool) -> tuple[Encoded, Encoded | None]:
        """All but a tenth of the rows, and that tenth if it is wanted: the same for every seed.

        Raises:
            ConfigError: there is one row only.
        """
        if not if_asked:
            return self, None
        order = np.random.default_rng(_HOLD_OUT_SEED).permutation(len(self))
        cut = max(1, len(self) // 10)
        if cut == len(self):
            raise ConfigError("`patience` wants 2 training rows or more")
        return self.take(np.sort(order[cut:])), self.take(np.sort(order[:cut]))

    def read_by(self, config: Mapping[str, Any]) -> Encoded:
        """The same rows for the model of a configuration: with its padding, without token types that it does not read."""
        types = self.types if token_kinds(config) else None
        return replace(self, types=types, pad_left=family_of(config["model_type"]).pad_left)

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The rows as one padded batch."""
        width = max(len(self.ids[row]) for row in rows)
        batch: Feeds = {
            "input_ids": np.full((len(rows), width), self.pad, dtype=np.int64),
            "attention_mask": np.zeros((len(rows), width), dtype=np.int64),
        }
        if self.types is not None:
            batch["token_type_ids"] = np.zeros((len(rows), width), dtype=np.int64)
        for number, row in enumerate(rows):
            size = len(self.ids[row])
            span = slice(width - size, width) if self.pad_left else slice(size)
            batch["input_ids"][number, span] = self.ids[row]
            batch["attention_mask"][number, span] = 1
            if self.types is not None:
                batch["token_type_ids"][number, span] = self.types[row]
        return batch


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The rows of all parts, one part after the other; all are of one tokenizer."""
    types = None
    if parts[0].types is not None:
        types = tuple(row for part in parts for row in part.types or ())
    return Encoded(
        tuple(row for part in parts for row in part.ids),
        types,
        np.concatenate([part.labels for part in parts]),
        parts[0].pad,
        parts[0].pad_left,
    )


def training_batches(
    lengths: NDArray[np.int64], *, batch_size: int, seed: int, epoch: int
) -> list[NDArray[np.intp]]:
    """Row indices of every batch of one epoch; each row once, a short last batch is kept."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    batches: list[NDArray[np.intp]] = []
    window = _WINDOW * batch_size
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def evaluation_batches(
    lengths: NDArray[np.int64], *, batch_size: int
) -> Iterator[NDArray[np.intp]]:
    """Row indices in order of length, always the same."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def predict_all(
    predict: Predict, encoded: Encoded, *, batch_size: int = EVAL_BATCH
) -> NDArray[np.float32]:
    """Logits `(rows, c)` of a whole split, in the split's own order."""
    parts, places = [], []
    for rows in evaluation_batches(encoded.lengths, batch_size=batch_size):
        parts.append(predict(encoded.feeds(rows)))
        places.append(rows)
    logits = np.concatenate(parts)
    ordered = np.empty_like(logits)
    ordered[np.concatenate(places)] = logits
    return ordered


def torch_predict(model: Any) -> Predict:
    """A predictor around a torch model, in float32 and evaluation mode."""
    model.eval()

    def predict(feeds: Feeds) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = model(**to_tensors(feeds, model)).logits.float()
        return to_numpy(logits)

    return predict
