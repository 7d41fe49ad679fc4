"""Whether a device reads texts as training does: token ids of `runtime/tokens.py` against those of a preprocessor.

Compared on a task's own rows and on texts that tokenizers read differently: long ones, none at all, letters of other
scripts, characters that no keyboard has, the text of added tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.models.tokenizer_files import check_kept, shipped_tokenizer
from maskpack.runtime.task import TaskConfig
from maskpack.runtime.tokens import Text, TextReader
from maskpack.runtime.windows import Window
from maskpack.tasks.batches import Encoded, EncodedTokens
from maskpack.tasks.cloze import EncodedCloze
from maskpack.tasks.data.splits import Split
from maskpack.tasks.labels import labels_on
from maskpack.tasks.pieces import EncodedPieces, EncodedTokenPieces
from maskpack.tasks.preprocess import Preprocessor
from maskpack.tasks.texts import TextPreprocessor
from maskpack.tasks.token_rows import TokenRows
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.windows import WindowRule, has_windows, row_numbers

_TEXTS = (
    *("", " ", "a", "The good film.", "THE GOOD FILM", "don't  stop", " leading", "trailing "),
    *(
        "two\nlines",
        "tab\tstop",
        "zero\u0000byte \u0007bell",
        "soft\u00adhyphen \u200bzero \ufeffmark",
    ),
    *(
        "Caf\u00e9 na\u00efve",
        "Cafe\u0301 nai\u0308ve",
        "\u0141\u00d3D\u0179 \u0130stanbul Stra\u00dfe \ufb01",
    ),
    *(
        "\u4e2d\u6587\u6587\u672c and text",
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\u0639\u0631\u0628\u0649",
    ),
    *(
        "\U0001f600 \U0001f469\u200d\U0001f467",
        "a\u00a0b\u2003c\u3000d",
        "3.50% of $1,000",
        "x" * 300,
    ),
    *("http://a.b/c?d=e&f", "\ufffd\ue000"),
)
_SHOWN = 60
_MOST_ADDED = 50


@dataclass(frozen=True)
class TokenDifference:
    """The first place where a row has other tokens on a device than in training.

    Attributes:
        texts: of the row.
        position: of the token.
        device, training: its id on either side; None past the end of the row.
        what: `ids`, `types`, or `labels`, which stand where words begin or say where windows lie, the number of `windows`, or `sources`, which
            say where in the windows of a text its tokens are read.
    """

    texts: tuple[str, ...]
    position: int
    device: int | None
    training: int | None
    what: str = "ids"

    def __str__(self) -> str:
        shown = " | ".join(_short(text) for text in self.texts)
        left, right = ("none" if one is None else one for one in (self.device, self.training))
        return (
            f"`{shown}` is read otherwise on a device than in training: token {self.what} differ at "
            f"position {self.position}, {left} there, {right} here"
        )


def _short(text: str) -> str:
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"
    return repr(shown)[1:-1]


_WORDS, _LEAST = 6, 4


def _words_of(tokenizer: Any) -> list[str]:
    """Some words that the tokenizer has a token for: with others it might not tell two readings apart."""
    vocabulary = tokenizer.get_vocab()
    plain = (word for word in sorted(vocabulary, key=vocabulary.__getitem__) if len(word) >= _LEAST)
    known = [word for word in plain if word.isascii() and word.isalpha()]
    return known[:: max(1, len(known) // _WORDS)][:_WORDS]


def _variants(word: str) -> list[str]:
    """A word in forms that normalisers bring together, or keep apart."""
    head, tail = word[:2], word[2:]
    marks = ("\u0007", "\u0301", "\u00ad", "\u200b", "\ufe0f", "\u4e2d", ".", "'", "\u00a0")
    return [
        word.upper(),
        word.title(),
        f" {word}",
        *(f"{word} {head}{mark}{tail}" for mark in marks),
    ]


def _long(tokens: int) -> str:
    """A text of more tokens, whatever the tokenizer; not of many more: what is cut off costs memory."""
    words = ("one", "Two", "three,", "four")
    return " ".join(f"{words[place % 4]} {place}" for place in range(tokens * 2 // 3 + 4))


def _added(tokenizer: Any) -> list[str]:
    added = tokenizer.get_added_tokens_decoder()
    return [str(added[place].content) for place in sorted(added)][:_MOST_ADDED]


def probe_rows(
    tokenizers: Sequence[Any], texts: int | None, max_length: int
) -> list[tuple[str, ...]]:
    """Rows of one or two texts, or of both where the number is not known.

    Args:
        tokenizers: of the tokenizers library, of either side; the added tokens of each are probed.
        texts: that a row of the task has.
        max_length: tokens to which a row is cut.
    """
    long = _long(max_length)
    special = list(dict.fromkeys(token for each in tokenizers for token in _added(each)))
    forms = [form for word in _words_of(tokenizers[0]) for form in _variants(word)]
    singles = [
        *_TEXTS,
        long,
        f"{long} the end",
        *forms,
        *special,
        *(f"a {token}b and {token.lower()} " for token in special),
    ]
    rows: list[tuple[str, ...]] = []
    if texts in {None, 1}:
        rows += [(text,) for text in singles]
    if texts in {None, 2}:
        rows += [(text, "the end") for text in singles] + [("the end", text) for text in singles]
        rows.append((long, long))
    return rows


def as_texts(rows: Iterable[tuple[str, ...]]) -> list[Text]:
    """Rows of texts as a device takes them."""
    return [row[0] if len(row) == 1 else (row[0], row[1]) for row in rows]


def first_difference(
    reader: TextReader, training: Callable[[Split], Encoded], rows: Sequence[tuple[str, ...]]
) -> TokenDifference | None:
    """The first row that a device reads otherwise, if there is one.

    Args:
        reader: of the device.
        training: how training reads a split.
        rows: as the user has them, without a prefix.
    """
    for size in (1, 2):
        some = [row for row in rows if len(row) == size]
        if not some:
            continue
        unknown = TASK_TYPES[reader.config.kind].blank(np.zeros(1, dtype=np.int64), len(some))
        rule = WindowRule(reader.config.stride, reader.config.no_answer)
        split = Split(tuple(some), unknown, windows=rule)
        wanted = training(split)
        assert isinstance(wanted, EncodedTokens)
        device = encoded_by(reader, split, types=wanted.types is not None)
        if (found := difference_of(some, device, wanted)) is not None:
            return found
    return None


def difference_of(
    rows: Sequence[tuple[str, ...]], device: EncodedTokens, training: EncodedTokens
) -> TokenDifference | None:
    """The first difference between two readings of the same rows."""
    windows = has_windows(training.labels)
    numbers = row_numbers(training.labels) if windows else np.arange(len(rows))
    if isinstance(training, EncodedCloze):
        numbers = training.sources
    with_labels = training.per_token and not training.redrawn  # which follow from more than tokens
    if isinstance(training, EncodedPieces):
        numbers = np.repeat(np.arange(len(rows)), training.counts)
        with_labels = False  # they are of rows, not of windows
    kinds = ("ids", "types", *(["labels"] if with_labels else []))
    for place, number in enumerate(numbers[: len(device.ids)]):
        for what in kinds:
            left, right = getattr(device, what), getattr(training, what)
            if right is None:
                continue
            own, wanted = left[place], right[place]
            if windows and what == "labels":
                own, wanted = own.numbers(), wanted.numbers()
            if not np.array_equal(own, wanted):
                return _located(rows[number], what, own, wanted)
    if len(device.ids) != len(training.ids):  # alike as far as the shorter goes
        return TokenDifference(rows[-1], 0, len(device.ids), len(training.ids), "windows")
    if isinstance(training, EncodedTokenPieces) and isinstance(device, EncodedTokenPieces):
        return _rows_apart(rows, device, training)
    return None


def _rows_apart(
    rows: Sequence[tuple[str, ...]], device: EncodedTokenPieces, training: EncodedTokenPieces
) -> TokenDifference | None:
    """The first row of which two readings of the same windows take another token from another window, or see other words."""
    for row, texts in enumerate(rows):
        for what in ("sources", "labels"):
            left, right = getattr(device, what)[row], getattr(training, what)[row]
            if not np.array_equal(left, right):
                return _located(texts, what, left, right)
    return None


def _located(
    texts: tuple[str, ...], what: str, left: NDArray[np.int64], right: NDArray[np.int64]
) -> TokenDifference:
    both = min(len(left), len(right))
    apart = np.flatnonzero(left[:both] != right[:both])
    place = int(apart[0]) if len(apart) else both
    here, there = (int(one[place]) if place < len(one) else None for one in (left, right))
    return TokenDifference(texts, place, here, there, what)


def encoded_by(reader: TextReader, split: Split, *, types: bool) -> EncodedTokens:
    """A split as a device reads it; of a task with an output a text, labels are those of the split where texts are cut into windows too."""
    rows = reader.encode(as_texts(split.texts))
    kinds = TokenRows.of(row.types for row in rows) if types else None
    ids, config = TokenRows.of(row.ids for row in rows), reader.config
    per_token, labels = config.decoder.per_token, split.labels
    if per_token:
        labels = labels_on(rows, split, config)
    tokens = EncodedTokens(
        ids, kinds, labels, config.pad[0], pad_left=config.pad_left, per_token=per_token
    )
    if not per_token or config.decoder.join is None or reader.stride is None:
        return tokens
    windows: list[list[Window]] = [[] for _ in split.texts]
    for row in rows:
        assert row.window is not None
        windows[row.row].append(row.window)
    return EncodedTokenPieces.of_windows(tokens, windows)


def shipped_difference(
    files: Mapping[str, bytes], preprocessor: Preprocessor, *, texts: int, max_length: int
) -> TokenDifference | None:
    """The first probe that the tokenizer's file, of which devices read nothing else, cuts otherwise.

    Args:
        files: that an artifact keeps, name -> bytes.
        preprocessor: of the training.
        texts: that a row has.
        max_length: tokens to which a row is cut.
    """
    tokenizer = shipped_tokenizer(files)
    if tokenizer is None:
        return None
    if isinstance(preprocessor, TextPreprocessor):
        check_kept(preprocessor.tokenizer, tokenizer)
    reader = TextReader.of(
        tokenizer,
        TaskConfig(
            name="probe",
            kind="regression",
            labels=(),
            max_length=max_length,
            pad=preprocessor.pad,
            pad_left=preprocessor.pad_left,
            truncation_left=preprocessor.truncation_left,
            split_special_tokens=preprocessor.split_special_tokens,
        ),
    )
    training = partial(preprocessor.encode, max_length=max_length)
    return first_difference(reader, training, probe_rows([reader.tokenizer], texts, max_length))
