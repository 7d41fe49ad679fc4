"""Windows of a long text, or of a question and a long context, and the answer that follows from theirs. Numpy alone.

A row that is too long becomes several windows: each has the whole question and a part of the context, and neighbours share some
tokens (Devlin et al. 2019, arXiv 1810.04805). The answer is the span with the largest product of the probabilities of its first and its
last token. The first token of a window stands for no answer. Training and devices run this same code.

Of other types a device cuts a long text where it is told to. `joined_*` make of the outputs of its windows those of the whole text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 30
"""Tokens of an answer at most, as in the examples of transformers for SQuAD."""

SPANS = ("start_logits", "end_logits")
"""Outputs of a graph that answers questions, by the names that transformers and Optimum give them; each `(b, s)`."""

_BLANKS = np.array([*(chr(one).isspace() for one in range(0x3001)), False])
_CONTEXT = 1  # the tokenizer's number of the second text
_ALONE = 0


@dataclass(frozen=True, eq=False)
class Window:
    """Where the tokens of a window lie in the context.

    Attributes:
        first: the first token of the context in the window.
        spans: `(n, 2)`, where each of its `n` tokens begins and ends in the context, in letters; both 0 for a token that has no
            letter there.
        start: number of its first token of the context among all tokens of the context.
    """

    first: int
    spans: NDArray[np.int32]
    start: int = 0

    @property
    def stop(self) -> int:
        """The number behind that of its last token of the context."""
        return self.start + len(self.spans)

    def counted(self, width: int) -> NDArray[np.bool_]:
        """Which of `width` tokens count: the first one, which stands for no answer, and those of the context."""
        counts = np.zeros(width, dtype=np.bool_)
        counts[0] = True
        own = self.spans[:, 1] > 0
        counts[self.first : self.first + len(own)] |= own[: max(width - self.first, 0)]
        return counts

    def tokens_of(self, start: int, end: int) -> tuple[int, int]:
        """The first and the last token of the letters from `start` to `end`; 0 and 0 where they are not whole in the window."""
        starts, ends = self.spans[:, 0], self.spans[:, 1]
        first = np.flatnonzero((starts <= start) & (start < ends))
        last = np.flatnonzero((starts < end) & (end <= ends))
        if not len(first) or not len(last):
            return 0, 0
        return self.first + int(first[0]), self.first + int(last[-1])


@dataclass(frozen=True, eq=False)
class Cut:
    """A window of a row.

    Attributes:
        places: of its tokens among all tokens of the row.
        window: where they lie in the context.
    """

    places: NDArray[np.intp]
    window: Window


def first_token(cuts: Sequence[Cut]) -> int:
    """The first token that the windows of a row divide among them, counted among all tokens of the row; 0: there is none."""
    first = cuts[0]
    return int(first.places[first.window.first]) if first.window.stop else 0


def cut_windows(
    read: Any,
    context: str,
    *,
    prefix: int,
    max_length: int,
    stride: int | None,
    pair: bool = True,
) -> list[Cut]:
    """The windows of a question and a context, or of a text alone, one or more.

    Args:
        read: the whole row as the tokenizers library reads it, not cut.
        context: the last text of the row as it was read.
        prefix: letters at its beginning that are not its own.
        max_length: tokens of a window at most. A question of more than half of them loses its end.
        stride: tokens that neighbours share, at most half of what a window has of the context; None: see `usual_stride`.
        pair: whether the row is a question and a context; else it is a text alone, whose prefix begins each window as a question does.
    """
    numbers = read.sequence_ids
    tokens = _cut_tokens(read, prefix, _CONTEXT if pair else _ALONE)
    own = np.flatnonzero(tokens)
    asked = np.flatnonzero([number is not None for number in numbers] & ~tokens)
    special = len(numbers) - len(own) - len(asked)
    kept = np.ones(len(numbers), dtype=np.bool_)
    if pair or len(numbers) > max_length:
        kept[asked[max(0, min(max_length // 2, max_length - special - 1)) :]] = False
    others = np.flatnonzero(kept & ~tokens)
    begin = int(own[0]) if len(own) else len(numbers)
    head, tail = others[others < begin], others[others >= begin]
    room = max(1, max_length - len(others))
    shared = min(usual_stride(max_length) if stride is None else stride, room // 2)
    spans = _spans(read.offsets, own, context, prefix)
    return [
        Cut(np.concatenate([head, own[part], tail]), Window(len(head), spans[part], part.start))
        for part in _parts(len(own), room, shared)
    ]


def _cut_tokens(read: Any, prefix: int, last: int) -> NDArray[np.bool_]:
    """Which tokens of a row windows divide among them: those of the context, or of a text alone behind its prefix."""
    tokens = np.array([number == last for number in read.sequence_ids], dtype=np.bool_)
    if last == _ALONE and prefix:
        ends = np.array([end for _, end in read.offsets], dtype=np.int64)
        tokens &= np.logical_or.accumulate(tokens & (ends > prefix))
    return tokens


def usual_stride(max_length: int) -> int:
    """Tokens that neighbours share where nobody says: a quarter of a window."""
    return max_length // 4


def _parts(count: int, room: int, shared: int) -> Iterator[slice]:
    """Parts of a context of so many tokens.

    >>> [(part.start, part.stop) for part in _parts(10, 6, 2)]
    [(0, 6), (4, 10)]
    """
    start = 0
    while True:
        yield slice(start, min(start + room, count))
        if start + room >= count:
            return
        start += room - shared


def _spans(
    offsets: Sequence[tuple[int, int]], own: NDArray[np.intp], context: str, prefix: int
) -> NDArray[np.int32]:
    """Letters of the tokens of a context, without blanks around them."""
    places = np.array(offsets, dtype=np.int32).reshape(-1, 2)[own]
    letters = np.frombuffer(context.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    blank = _BLANKS[np.minimum(np.append(letters, len(_BLANKS)), len(_BLANKS) - 1)]
    starts, ends = places[:, 0].copy(), places[:, 1].copy()
    while (left := blank[starts] & (starts < ends)).any():
        starts[left] += 1
    while (right := blank[ends - 1] & (starts < ends)).any():
        ends[right] -= 1
    spans = np.stack([starts, ends], axis=1) - np.int32(prefix)
    spans[(starts < prefix) | (starts >= ends)] = 0
    return spans


@dataclass(frozen=True)
class Best:
    """The best span of a window.

    Attributes:
        start, end: where it begins and ends in the context, in letters.
        score: product of the probabilities of its first and its last token; 0: the window holds no token of the context.
        none: the same product for the first token of the window, which stands for no answer.
    """

    start: int
    end: int
    score: float
    none: float


def best_in(window: Window, logits: NDArray[np.float32]) -> Best:
    """The best span of one window.

    Args:
        window: where its tokens lie.
        logits: `(s, 2)`, of the first and of the last token of an answer.
    """
    counts = window.counted(len(logits))
    chosen = logits[counts].astype(np.float64)
    shares = np.exp(chosen - chosen.max(axis=0))
    shares /= shares.sum(axis=0)
    places = np.flatnonzero(counts) - window.first
    none = float(shares[0, 0] * shares[0, 1])
    own = (places >= 0) & (np.arange(len(places)) > 0)
    if not own.any():
        return Best(0, 0, 0.0, none)
    count = len(window.spans)
    sides = np.zeros((count + LONGEST - 1, 2))
    sides[places[own]] = shares[own]
    scores = np.stack([sides[:count, 0] * sides[n : count + n, 1] for n in range(LONGEST)], axis=1)
    first, more = divmod(int(scores.argmax()), LONGEST)
    start, end = int(window.spans[first, 0]), int(window.spans[first + more, 1])
    return Best(start, end, float(scores[first, more]), none)


def best_of(found: Sequence[Best], *, may_lack: bool) -> Best | None:
    """The best span of the windows of a row; None: no answer.

    Args:
        found: the best of each window.
        may_lack: whether rows may have no answer. One has none where no span is as probable as no answer in the window in which that is
            least probable.
    """
    best = max(found, key=lambda one: one.score)
    if best.score == 0.0 or (may_lack and min(one.none for one in found) > best.score):
        return None
    return best


Logits = NDArray[np.float32]


def shares_of(windows: Sequence[Window]) -> NDArray[np.float64]:
    """The share of a text that each of its windows stands for, `(n)`: a token counts once, in equal parts for all windows that hold it.

    >>> empty = np.zeros((4, 2), dtype=np.int32)
    >>> shares_of([Window(1, empty, 0), Window(1, empty, 2)]).tolist()
    [0.5, 0.5]
    """
    held = np.zeros(windows[-1].stop)
    for one in windows:
        held[one.start : one.stop] += 1
    if not len(held):
        return np.ones(1)
    return np.array([(1 / held[one.start : one.stop]).sum() for one in windows]) / len(held)


def joined_means(outputs: Sequence[Logits], windows: Sequence[Window]) -> Logits:
    """Logits or a number `(1, c)` of a text from `(c)` of its windows: their mean, a window counting as its share of the text.

    Of logits this is the normalised product of the windows' probabilities, so that windows which say much count more than those which
    say little.
    """
    if len(outputs) == 1:
        return outputs[0][None]
    return np.asarray(shares_of(windows) @ np.stack(outputs), dtype=np.float32)[None]


def joined_labels(outputs: Sequence[Logits], windows: Sequence[Window]) -> Logits:
    """Logits `(1, c)` of a text from `(c)` of its windows: the highest of each label, which is so in a text if it is in a part of it."""
    del windows
    return np.asarray(np.stack(outputs).max(axis=0, keepdims=True))


def best_places(windows: Sequence[Window]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each token of a text the window that it is read from, and its place there: two arrays `(s)`.

    It is the window where the token has most context on its shorter side (Devlin et al.'s `run_squad.py`), the first of several. Training
    and devices both join by it.

    Args:
        windows: of the text. `s` counts the tokens that they divide among them.

    >>> four = np.zeros((4, 2), dtype=np.int32)  # tokens 0 to 3, and 2 to 5, behind one that is no part of the text
    >>> window, place = best_places([Window(1, four, 0), Window(1, four, 2)])
    >>> window.tolist(), place.tolist()
    ([0, 0, 0, 1, 1, 1], [1, 2, 3, 2, 3, 4])
    """
    count = windows[-1].stop
    chosen, places = (np.zeros(count, dtype=np.intp) for _ in range(2))
    most = np.full(count, -1)
    for number, one in enumerate(windows):
        size = one.stop - one.start
        context = np.minimum(np.arange(size), np.arange(size)[::-1])
        better = np.flatnonzero(context > most[one.start : one.stop])
        chosen[one.start + better] = number
        places[one.start + better] = one.first + better
        most[one.start + better] = context[better]
    return chosen, places


def joined_tokens(outputs: Sequence[Logits], windows: Sequence[Window]) -> Logits:
    """Logits `(1, s, c)` of the tokens of a text, each from the window that `best_places` says.

    Args:
        outputs: `(s, c)` of all tokens of each window.
        windows: where they lie. `s` counts the tokens that they divide among them.
    """
    chosen, places = best_places(windows)
    found = np.zeros((1, len(chosen), outputs[0].shape[-1]), dtype=outputs[0].dtype)
    for number, logits in enumerate(outputs):
        own = np.flatnonzero(chosen == number)
        found[0, own] = logits[places[own]]
    return found
