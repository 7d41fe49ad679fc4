"""Which tokens of a row are hidden for a model to fill in. Pure, numpy alone: devices draw the tokens that training draws.

Of the tokens of a text 15 % are chosen. In the place of eight of ten the model reads the mask token, in that of one any token, and one it
reads as it is (Devlin et al. 2019, arXiv 1810.04805, section 3.1 and appendix C.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_LOGITS = 1 << 25
"""Logits of all tokens that a model gives at once where nobody needs them all: 134 MB."""

SHARE = 0.15
"""Share of a row's tokens that are chosen."""

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen ones; the others stay as they are
_SEED = 17  # of the tokens that are chosen for a metric: the same in every run

_BLOCK = 64  # tokens whose logits are turned into probabilities at once

KEPT = 3
"""Numbers that `reduced` keeps of the logits of a token; no vocabulary is so small."""

NONE = -1
"""What stands in a table of chosen tokens behind those of a row."""


@dataclass(frozen=True)
class ClozeRule:
    """Which tokens may be chosen, and what stands in their place.

    Attributes:
        mask: id of the mask token.
        vocabulary: number of tokens of the model.
        special: ids that are never chosen: those that begin, end and fill up a row, the mask token itself.
    """

    mask: int
    vocabulary: int
    special: tuple[int, ...]


def special_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Ids of the special tokens of a tokenizer of the tokenizers library."""
    added = tokenizer.get_added_tokens_decoder()
    return tuple(sorted(int(number) for number, token in added.items() if token.special))


def most_chosen(tokens: int) -> int:
    """How many of so many tokens are chosen: the nearest number to their share, one at least.

    >>> most_chosen(128), most_chosen(3), most_chosen(0)
    (19, 1, 0)
    """
    return max(1, round(SHARE * tokens)) if tokens > 0 else 0


def choose(ids: NDArray[Any], rule: ClozeRule, rng: np.random.Generator) -> NDArray[np.int32]:
    """The chosen tokens of a row `(k, 3)`: place, the token that is right there, and the one that the model reads.

    Args:
        ids: tokens `(s,)`.
        rule: of the model.
        rng: draws them; how many are drawn depends on the tokens alone.
    """
    free = np.flatnonzero(~np.isin(ids, rule.special))
    count = most_chosen(len(free))
    places = np.sort(rng.choice(free, count, replace=False)) if count else free
    fate, any_token = rng.random(count), rng.integers(0, rule.vocabulary, count)
    right = np.asarray(ids)[places]
    read = np.where(fate < _MASKED + _RANDOM, any_token, right)
    read = np.where(fate < _MASKED, rule.mask, read)
    return np.stack([places, right, read], axis=1).astype(np.int32)


def chosen_for_metrics(ids: NDArray[Any], rule: ClozeRule) -> NDArray[np.int32]:
    """The chosen tokens of a row `(k, 3)` on which metrics are measured: they follow from the row's own tokens."""
    digest = zlib.crc32(np.asarray(ids, dtype="<i4").tobytes())
    return choose(ids, rule, np.random.default_rng([_SEED, digest]))


def table_of(rows: Iterable[NDArray[np.int32]], width: int) -> NDArray[np.int32]:
    """Chosen tokens of several rows as one table `(rows, width, 3)`, `NONE` behind those of each.

    >>> table_of([np.array([[4, 7, 0]])], 2).tolist()
    [[[4, 7, 0], [-1, -1, -1]]]
    """
    chosen = list(rows)
    table = np.full((len(chosen), width, 3), NONE, dtype=np.int32)
    for row, own in zip(table, chosen, strict=True):
        row[: len(own)] = own
    return table


def hide(ids: NDArray[np.int64], table: NDArray[np.int32]) -> NDArray[np.int64]:
    """A batch as the model reads it, in place, and the right tokens `(b, s)`, -100 where none is asked for.

    Args:
        ids: `(b, s)`, padded behind each row.
        table: of the chosen tokens of these rows, `(b, k, 3)`.

    Returns:
        The right tokens.
    """
    labels = np.full_like(ids, -100)
    row, number = (table[:, :, 0] >= 0).nonzero()
    place, right, read = table[row, number].T
    labels[row, place], ids[row, place] = right, read
    return labels


def reduced(
    logits: NDArray[np.float32], labels: NDArray[np.int64], width: int
) -> NDArray[np.float32]:
    """What is kept of logits: for each chosen token the logarithm of the right one's probability, the most probable token, the right one's logit.

    Args:
        logits: of all tokens `(b, s, v)`, or of the chosen ones `(n, v)`, row by row.
        labels: `(b, s)`, as `hide` gives them.
        width: chosen tokens that a row has at most.

    Returns:
        `(b, width, 3)`, 0 behind the chosen tokens of a row. Numbers of tokens are exact: a float32 holds those below 2^24.
    """
    counts = labels >= 0
    own = logits[counts] if logits.ndim == 3 else logits
    found = np.zeros((len(labels), width, KEPT), dtype=np.float32)
    behind = np.arange(width) < counts.sum(axis=1)[:, None]
    parts = [_chances(own[some], labels[counts][some]) for some in _slices(len(own))]
    found[behind] = np.concatenate([np.zeros((0, KEPT)), *parts])
    return found


def _slices(count: int) -> list[slice]:
    """Some tokens at a time: each has as many logits as there are tokens in a vocabulary."""
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def _chances(logits: NDArray[np.float32], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logarithm of the right token's probability, the most probable token and the right one's logit, `(n, 3)` of `(n, v)`."""
    wide = logits - logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(wide).sum(axis=-1, dtype=np.float64))
    places = np.arange(len(wide)), right
    return np.stack([wide[places] - total, wide.argmax(axis=-1), logits[places]], axis=1)


def unigram(right: NDArray[Any]) -> NDArray[np.float64]:
    """The answer that knows how often tokens are and no text, `(n, 2)` as the first of `reduced`: frequencies among the right tokens themselves.

    >>> np.exp(unigram(np.array([5, 5, 5, 8]))[:, 0]).round(2).tolist()
    [0.75, 0.75, 0.75, 0.25]
    """
    tokens, inverse, counts = np.unique(right, return_inverse=True, return_counts=True)
    chances = np.log(counts / max(1, len(right)))[inverse]
    commonest = tokens[counts.argmax()] if len(tokens) else NONE
    return np.stack([chances, np.full(len(right), float(commonest))], axis=1)


def blocks_of(read: Any) -> Sequence[Any]:
    """The encodings of a text that is cut into blocks, first to last, from what the tokenizers library gives."""
    return [read, *read.overflowing]
