"""A split in the form that a model reads. The rest of the code knows rows, labels and batches; what a row is, an entry says.

`EncodedTokens` in `batches.py` are token ids of texts, `EncodedImages` in `images.py` pixels of images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ConfigError, MaskpackError

Feeds = dict[str, NDArray[Any]]
"""Input name -> values of a batch: int64 `(b, s)` of tokens, float32 `(b, 3, h, w)` of images."""

_HOLD_OUT_SEED = 11


class Encoded(ABC):
    """Rows of a split, as a frozen dataclass with these fields and others.

    Attributes:
        labels: one a row, in the form of the task's type.
        labelled: bool, one a row: whether its label counts; None: all do. Rows without labels are learned from a
            teacher alone.
        per_token: whether a model answers for each token.
        pad: id of the padding token; 0 where there is no padding.
    """

    labels: NDArray[Any]
    labelled: NDArray[np.bool_] | None
    per_token: bool
    pad: int
    redrawn: ClassVar[bool] = False
    """Whether every epoch has inputs and labels of its own, so that nothing of an epoch can be kept for the next."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, as a model counts them: rows of similar length share a batch."""

    @property
    def together(self) -> NDArray[np.intp] | None:
        """For each row the number of the text that it is a part of; those of one text are held out together. None: rows are whole."""
        return None

    @property
    def most_rows(self) -> int | None:
        """Rows of a batch at most, whose outputs would take too much memory; None: any number."""
        return None

    def of_epoch(self, seed: int, epoch: int) -> Encoded:
        """The rows as they are learned in an epoch, from 0, of a run with a seed."""
        del seed, epoch
        return self

    def read_with(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows whose inputs a batch of some rows holds, in its order: these, and others that are read beside them."""
        return rows

    @abstractmethod
    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order given."""

    @abstractmethod
    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The rows as one batch."""

    @abstractmethod
    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """Logits of a batch of rows, those for each token in the width of the longest row of all, 0 where none counts."""

    def per_row(self, logits: Any, rows: NDArray[np.intp]) -> Any:
        """What a step's loss is of: outputs `(b, c)` of these rows, as a tensor, from what a model gives."""
        del rows
        return logits

    @abstractmethod
    def read_by(self, config: Mapping[str, Any]) -> Encoded:
        """The same rows for the model of a configuration, which may read them a little otherwise."""

    @abstractmethod
    def refusal(self, name: str, config: Mapping[str, Any]) -> MaskpackError | None:
        """Why the model of a configuration cannot read these rows.

        Args:
            name: what the model is, in words.
            config: of the model.
        """

    @abstractmethod
    def followed_by(self, others: Sequence[Any]) -> Self:
        """The rows and, behind them, those of others that were made by the same preprocessor."""

    def row_of(self, place: int) -> int:
        """Number of the split's row that a row of the model is of."""
        return place

    def with_labels(self) -> Self:
        """The rows whose label counts."""
        return self if self.labelled is None else self.take(np.flatnonzero(self.labelled))

    def without_labels(self) -> Self:
        """The same rows, of none of which the label counts."""
        none = np.zeros(len(self), dtype=np.bool_)
        return cast("Self", replace(cast("Any", self), labelled=none))

    def hold_out(
        self, *, if_asked: bool, option: str = "`patience`"
    ) -> tuple[Encoded, Encoded | None]:
        """All but a tenth of the rows, and that tenth if it is wanted: the same for every seed.

        Args:
            if_asked: whether it is wanted.
            option: that wants it, for the error.

        Raises:
            ConfigError: there is one row only.
        """
        if not if_asked:
            return self, None
        order = np.random.default_rng(_HOLD_OUT_SEED).permutation(len(self))
        cut = max(1, len(self) // 10)
        if (together := self.together) is not None:
            order, cut = _whole_contexts(together, order, cut)
        if cut == len(self):
            raise ConfigError(f"{option} wants 2 training rows or more")
        return self.take(np.sort(order[cut:])), self.take(np.sort(order[:cut]))


def _whole_contexts(
    numbers: NDArray[np.intp], order: NDArray[np.intp], cut: int
) -> tuple[NDArray[np.intp], int]:
    """An order of windows in which those of one context stand together, and how many of its first ones are held out.

    Args:
        numbers: of the context of each window.
        order: of the windows, which says whose context comes first.
        cut: how many are wanted; of one context alone these, as of other rows.
    """
    first = np.full(numbers.max() + 1, len(order))
    np.minimum.at(first, numbers[order], np.arange(len(order)))
    together = order[np.argsort(first[numbers[order]], kind="stable")]
    whole = int((first[numbers] <= first[numbers[together[cut - 1]]]).sum())
    return (order, cut) if whole == len(order) else (together, whole)


def known_labels(labels: NDArray[Any], labelled: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Those labels that count; all of them where none does, as those of a teacher's answers."""
    return labels if labelled is None or not labelled.any() else labels[labelled]


def joined_labels(parts: Sequence[Encoded]) -> dict[str, Any]:
    """`labels` and `labelled` of the rows of all parts, one part after the other."""
    labelled = None
    if any(part.labelled is not None for part in parts):
        all_of = (np.ones(len(part), dtype=np.bool_) for part in parts)
        counts = zip(parts, all_of, strict=True)
        labelled = np.concatenate([own if p.labelled is None else p.labelled for p, own in counts])
    return {"labels": np.concatenate([part.labels for part in parts]), "labelled": labelled}


def joined(parts: Sequence[Any]) -> Any:
    """The rows of all parts, one part after the other; all were made by one preprocessor."""
    first, *others = parts
    return first.followed_by(others)
