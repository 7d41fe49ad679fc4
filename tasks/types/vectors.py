"""Sentence embeddings: one vector of length 1 a text, near to those of texts that mean the same.

Rows are groups of texts, each cut to tokens by itself: outputs are `(rows, g, w)`. Of pairs with a score (`Similarity`) the cosine of
both vectors should be ordered as the scores are. Of an anchor, a text that it should find and, if there is one, a text that it should
not (`Retrieval`) the first should be nearer than any other text of the batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.data.cells import NO_LABEL
from maskpack.tasks.types.base import GIVE_A_LABEL, WithoutLabels
from maskpack.tasks.types.regression import Numbers
from maskpack.tasks.types.single_label import CrossEntropy

if TYPE_CHECKING:
    from torch import Tensor

    from maskpack.tasks.data.splits import Split

_SCALE = 20.0
"""Of cosines before a softmax or an exponential, as in sentence-transformers: a temperature of 1/20."""

CLASS = np.dtype(np.int32)
"""Type of labels that are numbers of classes: another text of its class is then learned beside a row."""

_BLOCK = 1024  # anchors that are compared with all candidates at once


def nearness(first: Tensor, second: Tensor) -> Tensor:
    """Scaled cosines `(a, b)` of vectors `(a, w)` and `(b, w)` of length 1."""
    return _SCALE * (first @ second.T)


class Vectors(WithoutLabels, CrossEntropy):
    """What types with vectors have in common: an output of a text is its nearness to another one."""

    problem_type = None
    pipeline_tag = "sentence-similarity"
    preprocessor = "groups"
    grouped = True

    @abstractmethod
    def rows_of_texts(
        self, texts: Sequence[str], vectors: NDArray[np.float32]
    ) -> tuple[tuple[tuple[str, ...], ...], NDArray[Any]]:
        """Rows and their labels as `encode` gives them, of texts alone: what the vectors of a teacher say.

        Args:
            texts: two or more.
            vectors: of them, `(n, w)`.
        """

    def distillation_loss(self, logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
        """That of the nearness of each first text to all other texts of the batch."""
        own, other = (nearness(each[:, 0], each[:, 1:].flatten(0, 1)) for each in (logits, wanted))
        return super().distillation_loss(own, other, temperature)


class Similarity(Numbers, Vectors):
    """How alike two texts are: labels are numbers of any unit."""

    name = "similarity"
    summary = "a vector of a text, alike for texts with a high number"
    usual_metrics = ("spearman", "pearson")
    texts = 2

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`log(1 + sum over i, j with y_i > y_j of exp(20 (cos_j - cos_i)))`: pairs in a wrong order (CoSENT, Su 2022).

        Only the order of scores counts, so that they may have any unit.
        """
        import torch  # noqa: PLC0415 - reading a task imports no torch

        cosines = _SCALE * (logits[:, 0] * logits[:, 1]).sum(dim=-1)
        apart = cosines[None, :] - cosines[:, None]
        wrong = torch.where(labels[:, None] > labels[None, :], apart, -torch.inf).flatten()
        return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), dim=0)

    def rows_of_texts(
        self, texts: Sequence[str], vectors: NDArray[np.float32]
    ) -> tuple[tuple[tuple[str, ...], ...], NDArray[Any]]:
        """Each text with the nearest other one, or with the next, in turns; the number is the cosine."""
        others, turn = nearest(vectors), np.arange(len(texts))
        others = np.where(turn % 2 == 0, others, (turn + 1) % len(texts))
        rows = tuple((texts[row], texts[other]) for row, other in enumerate(others.tolist()))
        return rows, (vectors * vectors[others]).sum(axis=1).astype(np.float32)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Cosines, float32 `(rows)`."""
        return np.asarray((logits[:, 0] * logits[:, 1]).sum(axis=-1))


class Retrieval(Vectors):
    """Texts that should find others: a row's label is the text to be found; labels are numbers of texts, int64 `(rows, g)`, see `numbered`."""

    name = "retrieval"
    summary = "a vector of a text, near to those of the texts to be found"
    usual_metrics = ("ndcg_at_10", "recall_at_10", "recall_at_1")
    finds_texts = True

    def lacks_label(self, cell: str) -> bool:
        """Whether there is no text; `none` is one."""
        return cell == NO_LABEL or not cell.strip()

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The text to be found."""
        if self.lacks_label(cell):
            raise DataError(f"{row} has no text in `{column}`", GIVE_A_LABEL)
        return cell

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """The texts to be found, objects `(rows)`."""
        del names, separator, split
        return np.array(cells, dtype=object)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of an anchor's cosines with all other texts of the batch (van den Oord et al. 2018, arXiv 1807.03748).

        A text of another row counts as wrong unless it is the same text, or the anchor itself.
        """
        import torch  # noqa: PLC0415 - reading a task imports no torch

        rows = len(logits)
        # all texts that are to be found, then all that are not
        others, numbers = logits[:, 1:].transpose(0, 1).flatten(0, 1), labels[:, :-1].T.flatten()
        right = torch.arange(rows, device=logits.device)
        same = (labels[:, :1] == numbers[None]) | (labels[:, -1:] == numbers[None])
        same = same & (torch.arange(len(others), device=logits.device)[None] != right[:, None])
        near = nearness(logits[:, 0], others).masked_fill(same, -torch.inf)
        return super().loss(near, right)

    def rows_of_texts(
        self, texts: Sequence[str], vectors: NDArray[np.float32]
    ) -> tuple[tuple[tuple[str, ...], ...], NDArray[Any]]:
        """Each text should find the nearest other one."""
        found = np.empty(len(texts), dtype=object)
        found[:] = [texts[other] for other in nearest(vectors).tolist()]
        return tuple((text,) for text in texts), found

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """The vectors themselves, `(rows, g, w)`; `answered` ranks them."""
        return logits

    def answered(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[Any]:
        """The rank of each anchor's text among all texts of the rows, each once."""
        return ranks_of(logits, labels)

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The ranks of chance: each text once at each rank."""
        texts = len(np.unique(labels if labels.ndim == 1 else labels[:, :-1]))
        return [np.arange(len(labels)) % texts]


def nearest(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """For each vector the number of the nearest other one, `(n)`.

    >>> nearest(np.array([[1, 0], [0, 1], [0.9, 0.1]], dtype=np.float32)).tolist()
    [2, 2, 0]
    """
    found = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        near = vectors[start : start + _BLOCK] @ vectors.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        found[start : start + _BLOCK] = near.argmax(axis=1)
    return found


def grouped_texts(split: Split) -> list[tuple[str, ...]]:
    """The texts of each row in the order in which they are read: a label that is a text is the second.

    Prefixes stand before texts already; that of a second text is also the label's.
    """
    if split.labels.dtype != object:
        return list(split.texts)
    pairs = zip(split.texts, split.labels.tolist(), strict=True)
    return [(row[0], split.second + label, *row[1:]) for row, label in pairs]


def group_labels(split: Split, rows: Sequence[tuple[str, ...]]) -> NDArray[Any]:
    """Labels of a split for training: of texts to be found the numbers of all texts of `rows`, as `grouped_texts` gives them."""
    if split.labels.dtype != object:
        return split.labels
    plain = [
        (row[0][split.prefix :], *(text[split.second_prefix :] for text in row[1:])) for row in rows
    ]
    return numbered(plain)


def numbered(rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
    """Numbers `(rows, g)` of the texts behind the first of each row, then of the first one among them: equal texts have one number.

    The last column is -1 where no row has the first text behind its first.

    >>> numbered([("q", "a", "b"), ("b", "b", "c")]).tolist()
    [[0, 1, -1], [1, 2, 1]]
    """
    known: dict[str, int] = {}
    numbers = [[known.setdefault(text, len(known)) for text in row[1:]] for row in rows]
    own = [known.get(row[0], -1) for row in rows]
    return np.column_stack([np.array(numbers, dtype=np.int64), np.array(own, dtype=np.int64)])


def ranks_of(vectors: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
    """The rank of the text that each anchor should find, from 0: how many other texts are at least as near.

    A text does not find itself: an anchor among the texts to be found is left out, unless it is its own right text.

    Args:
        vectors: `(rows, g, w)`: anchors, texts to be found and, if there are any, texts that are not.
        labels: `(rows, g)`, as `numbered` gives them; a text counts once.

    >>> corners = np.eye(3, dtype=np.float32)
    >>> ranks_of(np.stack([corners, corners[[0, 2, 1]]], axis=1), np.array([[0, -1], [1, -1], [2, -1]]))
    array([0, 2, 2])

    The last two find each other's text, and the first text is as far as their own. If they are each other's text, it is left out:

    >>> ranks_of(np.stack([corners, corners[[0, 2, 1]]], axis=1), np.array([[0, -1], [1, 2], [2, 1]]))
    array([0, 1, 1])
    """
    numbers, first = np.unique(labels[:, :-1], return_index=True)
    columns = labels.shape[1] - 1
    candidates = vectors[:, 1:][first // columns, first % columns]
    place, itself = (np.searchsorted(numbers, labels[:, column]) for column in (0, -1))
    leaves = (labels[:, -1] >= 0) & (labels[:, -1] != labels[:, 0])
    ranks = np.empty(len(vectors), dtype=np.int64)
    for start in range(0, len(vectors), _BLOCK):
        some = slice(start, start + _BLOCK)
        near = vectors[some, 0] @ candidates.T
        rows = np.flatnonzero(leaves[some])
        near[rows, itself[some][rows]] = -np.inf
        own = near[np.arange(len(near)), place[some]]
        ranks[some] = (~(near < own[:, None])).sum(axis=1) - 1  # a vector of no numbers is last
    return ranks
