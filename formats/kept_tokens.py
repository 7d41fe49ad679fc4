"""Tokens of a vocabulary that stay, and what follows from them for tables, heads and ids.

A token's number is its row of the table of embeddings. Tokens that stay keep their order, so that each new number is the count of
those before it. No file is read here, and no tokenizer: `KeptTokens` is all that a vocabulary is to an artifact.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ArtifactError
from maskpack.formats.tensors import Backbone, Dense, Patch, QuantTensor


@dataclass(frozen=True, eq=False)
class KeptTokens:
    """Numbers of the tokens that stay.

    Attributes:
        ids: int64 `(n,)`, rising: the old number of each token, by its new one.
        table: rows of the old table of embeddings. A token with a number from there on has no embedding, and gets none.
    """

    ids: NDArray[np.int64]
    table: int

    def __post_init__(self) -> None:
        ids = self.ids
        if ids.ndim != 1 or not len(ids) or ids[0] < 0 or (np.diff(ids) <= 0).any():
            raise ArtifactError("the numbers of tokens that stay are not rising, or there are none")
        if not len(self.rows):
            raise ArtifactError(f"no token that stays has one of the {self.table:,} embeddings")

    @classmethod
    def of(cls, ids: Collection[int], table: int) -> KeptTokens:
        """The same of numbers in any order."""
        return cls(np.array(sorted(ids), dtype=np.int64), table)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the old table that stay, `(v,)`."""
        return self.ids[self.ids < self.table]

    def new(self, old: int) -> int | None:
        """The new number of a token; None: it does not stay.

        >>> kept = KeptTokens.of([5, 0, 9], table=12)
        >>> kept.new(9), kept.new(4)
        (2, None)
        """
        place = int(np.searchsorted(self.ids, old))
        return place if place < len(self.ids) and self.ids[place] == old else None


def kept_rows(tensor: QuantTensor, kept: KeptTokens) -> QuantTensor:
    """A table of embeddings `(o, i)` with the rows that stay: codes and scales as they were, nothing is rounded again."""
    if tensor.shape[0] != kept.table:
        raise ArtifactError(f"a table of {tensor.shape[0]:,} rows, expected {kept.table:,}")
    return tensor.take(kept.rows)


def trimmed_backbone(backbone: Backbone, names: Collection[str], kept: KeptTokens) -> Backbone:
    """A backbone whose tables of these names have the rows that stay; everything else is shared, not copied.

    Raises:
        ArtifactError: a name is no quantised table or dense parameter with a row for each token.
    """
    unknown = set(names) - backbone.embeddings.keys() - backbone.dense.keys()
    if unknown:
        raise ArtifactError(f"`{min(unknown)}` depends on the vocabulary and is no table of it")
    embeddings = {
        name: kept_rows(tensor, kept) if name in names else tensor
        for name, tensor in backbone.embeddings.items()
    }
    return replace(backbone, embeddings=embeddings, dense=_with_rows(backbone.dense, names, kept))


def trimmed_patch(patch: Patch, names: Collection[str], kept: KeptTokens) -> Patch:
    """A patch whose head has values for the tokens that stay, in the parameters of these names. Masks cover no embedding."""
    return replace(patch, head=_with_rows(patch.head, names, kept))


def _with_rows(dense: Dense, names: Collection[str], kept: KeptTokens) -> Dense:
    return {name: value[kept.rows] if name in names else value for name, value in dense.items()}
