"""Vectors of texts from rows of a text and a label: texts of one label should find each other, so that nobody has to write pairs.

In an epoch a row is read as a group of its text and another text of its label, its partner (`tasks/partners.py`). The rest of a batch is what it should not find,
but for texts of its own label (the supervised form of the loss of `Retrieval`: Khosla et al. 2020, arXiv 2004.11362, with one positive a row).
Metrics read the texts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError
from maskpack.tasks.types.vectors import CLASS, Vectors, nearest, nearness

if TYPE_CHECKING:
    from torch import Tensor

NEAREST = 10
"""Texts of which it is asked whether they are of the right label."""
_BLOCK = 1024  # texts that are compared with all others at once
_WIDTH = 16  # numbers of a random vector


class LabelRetrieval(Vectors):
    """Texts that should find those of their own label: labels are numbers of classes, int32 `(rows)`."""

    name = "label-retrieval"
    summary = "a vector of a text, near to those of texts with its label"
    usual_metrics = ("ndcg_at_10", "recall_at_10", "recall_at_1")
    texts = 1

    def cell_labels(self, cell: str, separator: str | None) -> tuple[str, ...]:
        """The label, by which rows are held out."""
        del separator
        return (cell,)

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Numbers of labels, int32 `(rows)`; they count through one split alone.

        Raises:
            DataError: no label has two rows, or there is one label only.
        """
        del names, separator
        found, numbers, counts = np.unique(
            np.array(cells, dtype=object), return_inverse=True, return_counts=True
        )
        if len(found) < 2 or counts.max() < 2:
            raise DataError(
                f"the {split} has {len(cells)} rows of {len(found)} labels, at most {counts.max()} of one: "
                "no text could find one of its label among others",
                "give two labels or more, of which some have two rows",
            )
        return numbers.astype(CLASS).reshape(-1)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of a text's cosines with the partners of a batch, of which others of its label do not count."""
        import torch  # noqa: PLC0415 - reading a task imports no torch

        right = torch.arange(len(logits), device=logits.device)
        same = (labels[:, None] == labels[None]) & (right[:, None] != right[None])
        near = nearness(logits[:, 0], logits[:, 1]).masked_fill(same, -torch.inf)
        return super().loss(near, right)

    def rows_of_texts(
        self, texts: Sequence[str], vectors: NDArray[np.float32]
    ) -> tuple[tuple[tuple[str, ...], ...], NDArray[Any]]:
        """Texts that are joined by steps from one to the nearest other one have a label."""
        return tuple((text,) for text in texts), joined(nearest(vectors))

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """The vectors themselves, `(rows, 1, w)`; `answered` ranks them."""
        return logits

    def answered(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[Any]:
        """The ranks of texts of the same label among all other texts of the rows, see `label_ranks`."""
        return label_ranks(logits[:, 0], labels)

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The ranks of random vectors, the same each time."""
        vectors = np.random.default_rng(0).standard_normal((len(labels), _WIDTH))
        return [label_ranks(vectors.astype(np.float32), labels)]


def joined(others: NDArray[np.int64]) -> NDArray[np.int32]:
    """Numbers of the groups that steps from each row to another one join, `(n)`, in the order of their first rows.

    >>> joined(np.array([1, 0, 3, 2, 0])).tolist()
    [0, 0, 1, 1, 0]
    """
    parent = list(range(len(others)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for row, other in enumerate(others.tolist()):
        first, second = sorted((root(row), root(other)))
        parent[second] = first
    _, numbers = np.unique([root(row) for row in range(len(parent))], return_inverse=True)
    return numbers.astype(CLASS).reshape(-1)


def label_ranks(vectors: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[np.int64]:
    """The ranks, from 0, at which each text finds those of its label: int64 `(n, 10)`, ascending.

    As many numbers as there are right texts, at most ten; `NEAREST` stands for one that is not among the nearest ten, -1 behind the last. A text
    does not find itself.

    >>> corners = np.array([[1, 0], [0, 1], [0.9, 0.1], [0, 1]], dtype=np.float32)
    >>> label_ranks(corners, np.array([0, 1, 0, 2]))[:, :2].tolist()
    [[0, -1], [-1, -1], [0, -1], [-1, -1]]
    """
    ranks = np.full((len(vectors), NEAREST), -1, dtype=np.int64)
    most = min(NEAREST, len(vectors) - 1)
    _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
    wanted = np.minimum(counts[number] - 1, NEAREST)
    for start in range(0, len(vectors), _BLOCK):
        some = np.arange(start, min(start + _BLOCK, len(vectors)))
        near = vectors[some] @ vectors.T
        near[np.arange(len(some)), some] = -np.inf
        order = np.argsort(-near, axis=1, kind="stable")[:, :most]
        for row, hits in zip(some, labels[order] == labels[some, None], strict=True):
            places = np.flatnonzero(hits)
            ranks[row, : wanted[row]] = NEAREST
            ranks[row, : len(places)] = places
    return ranks
