"""Texts to tokens: the only code of a device that does it. Training's own way gives the same ids, which verification shows.

What `tokenizer.json` does not hold is in the task's configuration: how many texts a row has, what stands before
them, to how many tokens a row is cut and on which side. Truncation and padding that `tokenizer.json` was
saved with are of another program and do not count.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maskpack.formats.errors import (
    ConfigError,
    DataError,
    ExportError,
    MaskpackError,
    first_line,
    no_panic,
)
from maskpack.runtime.cloze import ClozeRule, blocks_of, special_tokens
from maskpack.runtime.fills import Masks, masks_of
from maskpack.runtime.outputs import ReadText
from maskpack.runtime.task import AGAIN, TaskConfig
from maskpack.runtime.windows import Window, cut_windows, first_token
from maskpack.runtime.words import Words, words_of

Text = str | tuple[str, str]
"""A text, or a pair of texts for tasks on pairs."""

_WORDS = {1: "one text", 2: "a pair of texts"}


@dataclass(frozen=True, eq=False)
class Tokens:
    """A row as a model reads it: at least one token.

    Attributes:
        ids: `(s,)`.
        types: `(s,)`, which text of a pair each is of.
        words: of the text, for tasks that have a label for each; else None. Those of a text that is cut into windows are of the whole text.
        window: the part of the last text of the row that was read, where rows are cut into windows; else None.
        row: number of the row that it is of, among those that were read together.
        masks: among the tokens, for tasks that fill them; else None.
        is_cut: whether the row has more tokens, which are left out.
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    words: Words | None = None
    window: Window | None = None
    row: int = 0
    masks: Masks | None = None
    is_cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class TextReader:
    """Cuts the texts of a task into tokens.

    Attributes:
        tokenizer: of its `tokenizer.json`, set up for the task by `of`.
        config: of the task.
        stride: tokens that neighbouring windows of a long row share; None: a long row is cut off.
    """

    tokenizer: Any
    config: TaskConfig
    stride: int | None = None
    most: ClassVar[int | None] = None

    @classmethod
    def of(cls, tokenizer: Any, config: TaskConfig, *, stride: int | None = None) -> TextReader:
        """The reader of a task; the tokenizer is changed in place.

        Args:
            tokenizer: of its file.
            config: of the task.
            stride: as of the reader; None: what the task says.
        """
        stride = config.stride if stride is None else stride
        if stride is not None:
            tokenizer.no_truncation()
        else:
            side = "left" if config.truncation_left else "right"
            tokenizer.enable_truncation(config.max_length, direction=side)
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = config.split_special_tokens
        return cls(tokenizer, config, stride)

    def encode(self, rows: Sequence[Text], *, second: bool = False) -> list[Tokens]:
        """Tokens of each row; of a task that cuts rows into windows those of all windows, one row behind the other.

        With `second` what stands before second texts stands before them.

        Raises:
            ConfigError: a row has more or fewer texts than the task reads.
            DataError: a row holds something that is no text.
        """
        if second and self.config.prefixes:
            return replace(self, config=self._of_second()).encode(rows)
        found = self.encode_each(rows)
        for number, one in enumerate(found, start=1):
            if isinstance(one, MaskpackError):
                raise type(one)(f"row {number}: {one}", one.advice) from one
        good = (each for each in found if not isinstance(each, MaskpackError))
        return [replace(one, row=number) for number, each in enumerate(good) for one in each]

    def encode_each(self, rows: Sequence[Text]) -> list[tuple[Tokens, ...] | MaskpackError]:
        """Tokens of each row, one or more windows of it; or what is wrong with it."""
        problems = [self.problem(row) for row in rows]
        good = [self.prefixed(row) for row, bad in zip(rows, problems, strict=True) if bad is None]
        try:
            with no_panic():
                read = iter(self.tokenizer.encode_batch(good))
        except Exception:  # noqa: BLE001 - the library raises bare `Exception`, and does not say of which row
            return [
                self._alone(row) if bad is None else bad
                for row, bad in zip(rows, problems, strict=True)
            ]
        return [
            self._tokens(row, next(read)) if bad is None else bad
            for row, bad in zip(rows, problems, strict=True)
        ]

    @property
    def way(self) -> tuple[Hashable, ...]:
        """The tokenizer, and what else decides which tokens a row becomes and how it is padded."""
        config = self.config
        return (
            *(id(self.tokenizer), config.max_length, config.texts),
            *(config.prefixes, config.pad, config.pad_left, self.stride),
            *(config.decoder.per_token, config.mask),
        )

    def batch(self, rows: Sequence[Tokens]) -> dict[str, NDArray[np.int64]]:
        """Rows as one padded batch."""
        return batch_of(rows, pad=self.config.pad[0], left=self.config.pad_left)

    def told(self, row: Text, read: Tokens) -> ReadText:
        """What a decoder may know of a row."""
        if read.masks is not None:
            assert isinstance(row, str)
            return ReadText(row, masks=read.masks)
        text = row if isinstance(row, str) else row[int(read.window is not None)]
        return ReadText(text, read.words, read.window, self.config.no_answer)

    def _of_second(self) -> TaskConfig:
        return replace(self.config, prefixes=(self.config.prefixes[1], ""))

    def problem(self, row: Text) -> MaskpackError | None:
        """What keeps a row from being read, as far as its form shows it."""
        texts = row if isinstance(row, tuple) else (row,)
        if not 1 <= len(texts) <= 2 or not all(isinstance(text, str) for text in texts):
            return DataError(f"{row!r:.80} is neither a text nor a pair of texts")
        wanted = self.config.texts
        if wanted is None and self.stride is not None and not self.config.decoder.windows:
            wanted = 1
        if wanted is None or wanted == len(texts):
            return None
        return ConfigError(
            f"`{self.config.name}` reads {_WORDS[wanted]}, `{texts[0]:.60}` is "
            f"{'a text alone' if len(texts) == 1 else 'the first of two'}",
            "give rows of as many texts as the task was learned from",
        )

    def prefixed(self, row: Text) -> Text:
        """A row with what the task puts before its texts."""
        first, second = self.config.prefixes or ("", "")
        return first + row if isinstance(row, str) else (first + row[0], second + row[1])

    def _alone(self, row: Text) -> tuple[Tokens, ...] | MaskpackError:
        try:
            with no_panic():
                (one,) = self.tokenizer.encode_batch([self.prefixed(row)])
        except Exception as error:  # noqa: BLE001 - as above
            shown = str(row).encode("utf-8", "backslashreplace").decode()
            return DataError(f"`{shown:.60}` cannot be read: {first_line(error)}")
        return self._tokens(row, one)

    def _tokens(self, row: Text, read: Any) -> tuple[Tokens, ...]:
        """One of no tokens is one of padding, as in training."""
        if self.stride is not None:
            return tuple(self._windows(row, read))
        if self.config.mask is not None:
            return tuple(self._blocks(row, read, self.config.mask[0]))
        return (
            Tokens(
                np.array(read.ids or [self.config.pad[0]], dtype=np.int64),
                np.array(read.type_ids or [0], dtype=np.int64),
                self._words(row, read),
                is_cut=bool(read.overflowing),
            ),
        )

    def _words(self, row: Text, read: Any) -> Words | None:
        """The words of a text of a type with an output for each token."""
        if not self.config.decoder.per_token or not isinstance(row, str):
            return None
        prefix = (self.config.prefixes or ("",))[0]
        return words_of(prefix + row, read.offsets, read.word_ids, len(prefix))

    def _blocks(self, row: Text, read: Any, mask: int) -> Iterator[Tokens]:
        """The blocks of a text in which masks are filled."""
        assert isinstance(row, str)
        prefix = (self.config.prefixes or ("",))[0]
        for one in blocks_of(read):
            yield Tokens(
                np.array(one.ids or [self.config.pad[0]], dtype=np.int64),
                np.array(one.type_ids or [0], dtype=np.int64),
                masks=masks_of(one, mask, prefix + row, len(prefix), self._decode),
            )

    def _decode(self, ids: list[int]) -> str:
        """Tokens as text; special ones as they are written."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def cloze_rule(self, vocabulary: int) -> ClozeRule:
        """Which tokens of a text may be hidden, for a model of so many tokens whose task fills masks."""
        assert self.config.mask is not None
        return ClozeRule(self.config.mask[0], vocabulary, special_tokens(self.tokenizer))

    def _windows(self, row: Text, read: Any) -> Iterator[Tokens]:
        """The windows of a question and a context, or of a text alone, whose words count its tokens alone."""
        pair = not isinstance(row, str)
        last, prefix = (
            row if isinstance(row, str) else row[1],
            (self.config.prefixes or ("", ""))[pair],
        )
        ids, types = (np.array(each, dtype=np.int64) for each in (read.ids, read.type_ids))
        cuts = cut_windows(
            read,
            prefix + last,
            prefix=len(prefix),
            max_length=self.config.max_length,
            stride=self.stride,
            pair=pair,
        )
        words = self._words(row, read)
        if words is not None:
            words = words.counted_from(first_token(cuts))
        for cut in cuts:
            if len(cut.places):
                yield Tokens(ids[cut.places], types[cut.places], words, cut.window)
            else:
                pad, none = np.array([self.config.pad[0]]), np.zeros(1, dtype=np.int64)
                yield Tokens(pad, none, words, cut.window)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a file.

    Raises:
        ExportError: the file is missing or damaged.
    """
    try:
        with no_panic():
            return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare `Exception`
        raise ExportError(f"cannot load `{path}`: {error}", AGAIN) from error


def batch_of(rows: Sequence[Tokens], *, pad: int, left: bool) -> dict[str, NDArray[np.int64]]:
    """Rows as one padded batch, name of an input -> `(b, s)`.

    Args:
        rows: one or more.
        pad: id of the padding token.
        left: whether padding stands before a row.
    """
    width = max(len(row) for row in rows)
    names = ("input_ids", "attention_mask", "token_type_ids")
    feeds = {name: np.zeros((len(rows), width), dtype=np.int64) for name in names}
    feeds["input_ids"][:] = pad
    for place, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(len(row))
        feeds["input_ids"][place, span] = row.ids
        feeds["attention_mask"][place, span] = 1
        feeds["token_type_ids"][place, span] = row.types
    return feeds
