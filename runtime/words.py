"""Words of a text as tags see them: each begins at one token, and a tag of that token is the word's. Numpy alone.

A word is what a tokenizer calls one, cut further where a letter meets a mark (SentencePiece keeps `Paris,` together), and at
every letter of scripts that are written without blanks. Training and devices run this same code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Burmese, Khmer, Chinese and Japanese."""


@dataclass(frozen=True, eq=False)
class Words:
    """Words of a row of tokens.

    Attributes:
        first: `(w,)`, the token that each begins at.
        spans: `(w, 2)`, where each begins and ends in the text, in letters.
    """

    first: NDArray[np.int64]
    spans: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def counted_from(self, token: int) -> Words:
        """The same words where tokens are counted from another one on."""
        return Words(self.first - token, self.spans)


def words_of(
    text: str,
    offsets: Sequence[tuple[int, int]],
    numbers: Sequence[int | None],
    prefix: int = 0,
) -> Words:
    """The words of a text.

    Args:
        text: as a tokenizer read it.
        offsets: where each token begins and ends in it, in letters.
        numbers: the tokenizer's number of each token's word; None: a token of none, such as `[CLS]`.
        prefix: letters at the beginning that are not the text's own; spans count from behind them.

    >>> found = words_of("in Paris,", [(0, 0), (0, 2), (2, 6), (6, 8), (8, 9)], [None, 0, 1, 1, 1])
    >>> found.first.tolist(), found.spans.tolist()  # `Par`, `is` and `,` are one word of the tokenizer
    ([1, 2, 4], [[0, 2], [3, 8], [8, 9]])
    """
    first: list[int] = []
    spans: list[list[int]] = []
    before: int | None = None
    for token, (place, number) in enumerate(zip(offsets, numbers, strict=True)):
        piece = text[slice(*place)]
        start = place[0] + len(piece) - len(piece.lstrip())
        end = start + len(piece.strip())
        if number is None or start >= end or start < prefix:
            continue
        same = number == before and bool(spans)
        if same and start <= spans[-1][1] and not _parted(text, spans[-1][1], start):
            spans[-1][1] = max(end, spans[-1][1])
        else:
            first.append(token)
            spans.append([start, end])
        before = number
    shape = np.array(spans, dtype=np.int64).reshape(-1, 2) - prefix
    return Words(np.array(first, dtype=np.int64), shape)


def _parted(text: str, end: int, start: int) -> bool:
    """Whether two tokens of one word of the tokenizer, of which one ends and the other starts there, are two words.

    Tokens that overlap are parts of one letter.
    """
    if start < end:
        return False
    left, right = text[end - 1], text[start]
    return not (_is_letter(left) and _is_letter(right)) or any(
        _UNSPACED.match(one) for one in (left, right)
    )


def _is_letter(one: str) -> bool:
    """Whether a character is a letter, a digit, or a mark on a letter."""
    return one.isalnum() or unicodedata.category(one).startswith("M")
