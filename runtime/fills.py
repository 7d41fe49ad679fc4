"""What fills the masks of a text: the most probable tokens of each, and the text with them. Pure, numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEST = 5
"""Tokens that are given for a mask, as transformers' pipeline gives them."""

BETWEEN = "|"
"""What stands between several answers in a cell of a table."""


@dataclass(frozen=True)
class Guess:
    """A token in the place of a mask.

    Attributes:
        token: as the tokenizer writes it alone.
        score: its probability.
        text: the whole text with it in the place of the mask; other masks stay.
    """

    token: str
    score: float
    text: str


@dataclass(frozen=True)
class FilledMask:
    """A mask and what fills it.

    Attributes:
        start, end: where the mask begins and ends in the text, in letters.
        tokens: the most probable first.
    """

    start: int
    end: int
    tokens: tuple[Guess, ...]


@dataclass(frozen=True)
class Filled:
    """The masks of a text, from its first to its last."""

    masks: tuple[FilledMask, ...]

    @property
    def cell(self) -> str:
        """The answer in a cell of a table: the most probable token of each mask."""
        return BETWEEN.join(mask.tokens[0].token.strip() for mask in self.masks)

    def to_dict(self) -> dict[str, Any]:
        """The answer as a JSON object."""
        return {"masks": [asdict(mask) for mask in self.masks]}


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a block of a text.

    Attributes:
        ids: tokens of the block, `(s,)`.
        places: of the masks among them, `(m,)`.
        spans: beginning and end of each mask in the text, in letters.
        decode: tokens to text, as the tokenizer does it.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.intp]
    spans: tuple[tuple[int, int], ...]
    decode: Callable[[list[int]], str]

    def __len__(self) -> int:
        return len(self.places)


def masks_of(read: Any, mask: int, text: str, prefix: int, decode: Any) -> Masks:
    """The masks of a block.

    Args:
        read: the block, as the tokenizers library gives it.
        mask: id of the mask token.
        text: that was read, with what stands before it.
        prefix: letters before the text's own.
        decode: the tokenizer's.
    """
    ids = np.array(read.ids, dtype=np.int64)
    places = np.flatnonzero(ids == mask)
    spans = []
    for place in places:
        start, end = read.offsets[place]
        whole = text[start:end]  # a mask token may take the blanks around it, which are the text's
        start += len(whole) - len(whole.lstrip())
        end -= len(whole) - len(whole.rstrip())
        spans.append((start - prefix, end - prefix))
    return Masks(ids, places, tuple(spans), decode)


def fill(text: str, masks: Masks, logits: NDArray[np.float32]) -> tuple[FilledMask, ...]:
    """The most probable tokens of each mask of a block.

    Args:
        text: the whole text, without what stands before it.
        masks: of the block.
        logits: of its masks, `(m, v)`.
    """
    found = []
    for place, (start, end), own in zip(masks.places, masks.spans, logits, strict=True):
        best = np.argsort(-own, kind="stable")[:BEST]
        wide = own.astype(np.float64) - float(own.max())
        shares = np.exp(wide[best]) / np.exp(wide).sum()
        guesses = tuple(
            Guess(
                masks.decode([token]), float(share), filled(text, masks, place, token, start, end)
            )
            for token, share in zip(best.tolist(), shares, strict=True)
        )
        found.append(FilledMask(start, end, guesses))
    return tuple(found)


def filled(text: str, masks: Masks, place: int, token: int, start: int, end: int) -> str:
    """A text with a token in the place of a mask: beside the word before it, or as a part of it where the tokenizer writes it so."""
    before = masks.ids[max(0, place - 1) : place].tolist()
    alone = masks.decode(before)
    both = masks.decode([*before, token])
    own = both.removeprefix(alone) if alone and both.startswith(alone) else masks.decode([token])
    if alone.strip() and own and not own[0].isspace():
        return text[:start].rstrip() + own + text[end:]
    return text[:start] + own.strip() + text[end:]


def without_masks(text: str, mask: str) -> str:
    """The fact of a text that has no mask."""
    return f"`{text:.60}` has no mask to fill: `{mask}` stands nowhere in it"


def all_masks(
    text: str, blocks: Sequence[Masks], logits: Sequence[Any] | NDArray[np.float32]
) -> Filled:
    """The masks of all blocks of one text.

    Args:
        text: the text, without what stands before it.
        blocks: of the text.
        logits: of the masks of each block.
    """
    each = (fill(text, block, own) for block, own in zip(blocks, logits, strict=True))
    return Filled(tuple(mask for own in each for mask in own))
