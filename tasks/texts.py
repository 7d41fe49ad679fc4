"""Texts to tokens, through the tokenizer of a model: whole texts, words, groups of texts, windows of contexts, blocks with masks.

What a device does with texts is in `runtime/tokens.py`, and `exporters/texts.py` shows that it gives the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import DataError, ModelError
from maskpack.formats.errors import first_line, no_panic
from maskpack.models.families import Family
from maskpack.models.load import tokenizer_of
from maskpack.runtime.cloze import ClozeRule, special_tokens
from maskpack.runtime.outputs import ReadText
from maskpack.runtime.windows import Cut, Window, cut_windows, first_token
from maskpack.runtime.words import Words, words_of
from maskpack.tasks.batches import EncodedGroups, EncodedTokens
from maskpack.tasks.cloze import EncodedCloze
from maskpack.tasks.data.splits import Split, load_data
from maskpack.tasks.partners import EncodedByLabel
from maskpack.tasks.pieces import EncodedPieces, EncodedTextPieces, EncodedTokenPieces
from maskpack.tasks.task import TASKS
from maskpack.tasks.token_rows import TokenRows
from maskpack.tasks.types.entities import tags_on_words
from maskpack.tasks.types.vectors import CLASS, group_labels, grouped_texts
from maskpack.tasks.windows import labels_of

_SAMPLES = ("reviews", "tickets")
_ROWS = 64  # of each sample task
_LENGTH = 64  # tokens that a sample sentence is cut to

Files = Mapping[str, bytes]
"""Configuration and tokenizer files as an artifact keeps them, name -> bytes."""


@dataclass(frozen=True, eq=False)
class TextPreprocessor:
    """Texts and pairs of texts, through the tokenizer of the model.

    Attributes:
        tokenizer: a fast one of transformers.
        token_types: whether the model reads `token_type_ids`, which distinguish the texts of a pair.
    """

    tokenizer: Any
    token_types: bool
    keeps_labels: ClassVar[bool] = True
    by_pages: ClassVar[bool] = True
    cuts: ClassVar[bool] = True

    @classmethod
    def of_files(cls, files: Files, family: Family, config: Mapping[str, Any]) -> TextPreprocessor:
        """The preprocessor of files that an artifact keeps."""
        return cls(tokenizer_of(files), family.token_kinds(config) > 0)

    @property
    def pad(self) -> tuple[int, str]:
        """Id and text of the padding token."""
        return int(self.tokenizer.pad_token_id or 0), str(self.tokenizer.pad_token or "")

    @property
    def mask(self) -> tuple[int, str] | None:
        """None: nothing is filled in."""
        return None

    @property
    def pad_left(self) -> bool:
        """Whether padding stands before a text."""
        return bool(self.tokenizer.padding_side == "left")

    @property
    def truncation_left(self) -> bool:
        """Whether a text that is too long loses its beginning."""
        return bool(self.tokenizer.truncation_side == "left")

    @property
    def split_special_tokens(self) -> bool:
        """Whether the text of a special token is read as any other text."""
        return bool(self.tokenizer.split_special_tokens)

    def encode(self, split: Split, *, max_length: int) -> EncodedTokens:
        """Tokenise a split once; texts longer than `max_length` tokens are cut.

        A text without tokens, as tokenizers without special tokens make of an empty text, becomes one padding
        token, because a model needs one token at least. Where the split says so, a long text becomes several windows.
        """
        if split.windows.texts:
            return self._in_windows(split, max_length)
        return self._encoded(split, self._cut(split, max_length))

    def _in_windows(self, split: Split, max_length: int) -> EncodedPieces:
        """The windows of each text, cut as devices cut them."""
        read, cuts = self._cuts(split, max_length)
        return EncodedTextPieces.of_windows(*self._of_cuts(read, cuts, split.labels))

    def _cuts(
        self, split: Split, max_length: int, *, pair: bool = False
    ) -> tuple[list[Any], list[list[Cut]]]:
        """Rows as the tokenizer reads them, and the windows of each: of its text, or of the second text of a pair."""
        read = self._tokens(split.texts, truncation=False, verbose=False).encodings
        prefix = split.second_prefix if pair else split.prefix
        stride = split.windows.stride
        cuts = [
            cut_windows(
                one, row[pair], prefix=prefix, max_length=max_length, stride=stride, pair=pair
            )
            for one, row in zip(read, split.texts, strict=True)
        ]
        return read, cuts

    def _of_cuts(
        self, read: Sequence[Any], cuts: Sequence[Sequence[Cut]], labels: NDArray[Any]
    ) -> tuple[EncodedTokens, list[list[Window]]]:
        """The tokens of all windows, one row behind the other, and the windows of each row."""
        ids, types, pad = [], [], self.pad[0]
        for one, own in zip(read, cuts, strict=True):
            row_ids, row_types = (
                np.array(each, dtype=np.int64) for each in (one.ids, one.type_ids)
            )
            ids += [row_ids[cut.places] if len(cut.places) else [pad] for cut in own]
            types += [row_types[cut.places] if len(cut.places) else [0] for cut in own]
        kinds = TokenRows.of(types) if self.token_types else None
        tokens = EncodedTokens(TokenRows.of(ids), kinds, labels, pad, self.pad_left)
        return tokens, [[cut.window for cut in own] for own in cuts]

    def _cut(self, split: Split, max_length: int) -> Any:
        """What the tokenizer makes of a split, cut to so many tokens a row."""
        return self._tokens(
            split.texts,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=self.token_types,
        )

    def _encoded(self, split: Split, tokens: Any) -> EncodedTokens:
        """The same for a model."""
        pad = self.pad[0]
        ids = TokenRows.of(row or [pad] for row in tokens["input_ids"])
        types = None
        if self.token_types:
            types = TokenRows.of(row or [0] for row in tokens["token_type_ids"])
        return EncodedTokens(ids, types, split.labels, pad, self.pad_left)

    def full_lengths(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Tokens of each row without the cut."""
        tokens = self._tokens(rows, truncation=False, verbose=False)
        return np.array([len(row) for row in tokens["input_ids"]], dtype=np.int64)

    def told(self, split: Split, *, max_length: int) -> list[list[ReadText]]:
        """The texts."""
        del max_length
        return [[ReadText(row[0][split.prefix :])] for row in split.texts]

    def _tokens(self, rows: Sequence[tuple[str, ...]], **options: Any) -> Any:
        """What the tokenizer makes of rows.

        Raises:
            DataError: it cannot read one, because it lacks a token or a part for it.
        """
        columns = [list(column) for column in zip(*rows, strict=True)]
        try:
            with no_panic():
                return self.tokenizer(*columns, **options)
        except Exception as error:
            if len(rows) > 1:  # the library does not say which row it is
                for row in rows:
                    self._tokens([row], **options)
            raise DataError(
                f"the tokenizer of the model cannot read `{rows[0][0]:.60}`: {first_line(error)}",
                "leave the row out, or give a model whose tokenizer reads every text",
            ) from error

    def samples(self) -> EncodedTokens:
        """Sentences of the samples that ship with the package."""
        rows = [row[:1] for task in _SAMPLES for row in load_data(TASKS[task]).dev.texts[:_ROWS]]
        split = Split(tuple(rows), np.zeros(len(rows), dtype=np.int64))
        return self.encode(split, max_length=_LENGTH)

    def save(self, folder: Path) -> None:
        """Write the tokenizer as transformers loads it."""
        self.tokenizer.save_pretrained(str(folder))


@dataclass(frozen=True, eq=False)
class WordPreprocessor(TextPreprocessor):
    """Texts for models that answer for each word: labels stand where words begin, and padding behind a text."""

    keeps_labels = False

    @property
    def pad_left(self) -> bool:
        """False: an output then has one place, however long the batch is."""
        return False

    def encode(self, split: Split, *, max_length: int) -> EncodedTokens:
        """As of any text; a label then is `(tokens)` for each row, in windows that of the text's own tokens."""
        own = [row[0][split.prefix :] for row in split.texts]
        if split.windows.texts:
            read, cuts = self._cuts(split, max_length)
            width = max(1, *(each[-1].window.stop for each in cuts))
            labels = tags_on_words(split.labels, _words_in(split, read, cuts), own, width)
            tokens, windows = self._of_cuts(read, cuts, labels)
            return EncodedTokenPieces.of_windows(replace(tokens, per_token=True), windows)
        cut = self._cut(split, max_length)
        labels = tags_on_words(split.labels, _words_of(split, cut.encodings), own, max_length)
        return replace(self._encoded(replace(split, labels=labels), cut), per_token=True)

    def told(self, split: Split, *, max_length: int) -> list[list[ReadText]]:
        """Texts and their words; those behind the cut are left out."""
        if split.windows.texts:
            words = _words_in(split, *self._cuts(split, max_length))
        else:
            words = _words_of(split, self._cut(split, max_length).encodings)
        texts = [row[0][split.prefix :] for row in split.texts]
        return [[ReadText(text, own)] for text, own in zip(texts, words, strict=True)]


def _words_of(split: Split, read: Sequence[Any]) -> list[Words]:
    """Words of what the tokenizer made of a split."""
    return [
        words_of(row[0], one.offsets, one.word_ids, split.prefix)
        for row, one in zip(split.texts, read, strict=True)
    ]


def _words_in(split: Split, read: Sequence[Any], cuts: Sequence[Sequence[Cut]]) -> list[Words]:
    """Words of texts whose tokens are divided into windows, counted among a text's own tokens."""
    words = _words_of(split, read)
    return [own.counted_from(first_token(each)) for own, each in zip(words, cuts, strict=True)]


@dataclass(frozen=True, eq=False)
class GroupPreprocessor(TextPreprocessor):
    """Rows whose texts are read one by one: `Split.texts`, and behind the first one a text that is the row's label.

    Texts to be found have numbers that count through all rows. Where labels are classes a row is its text alone.
    """

    keeps_labels, by_pages = False, False

    def encode(self, split: Split, *, max_length: int) -> EncodedTokens:
        """The texts of each row as tokens, row after row."""
        rows = grouped_texts(split)
        flat = tuple((text,) for row in rows for text in row)
        labels = group_labels(split, rows)
        read = super().encode(
            Split(flat, np.zeros(len(flat), dtype=np.int64)), max_length=max_length
        )
        if labels.dtype == CLASS:
            return EncodedByLabel(read.ids, read.types, labels, read.pad, read.pad_left)
        size = len(rows[0])
        return EncodedGroups(read.ids, read.types, labels, read.pad, read.pad_left, size=size)

    def full_lengths(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Tokens of the longest text of each row without the cut."""
        flat = [(text,) for row in rows for text in row]
        lengths = super().full_lengths(flat)
        return np.asarray(lengths.reshape(len(rows), -1).max(axis=1))


@dataclass(frozen=True, eq=False)
class WindowPreprocessor(TextPreprocessor):
    """Questions and contexts: a long context becomes several windows, which are the rows of the model."""

    keeps_labels = False

    @property
    def pad_left(self) -> bool:
        """False: an output then has one place, however long the batch is."""
        return False

    def encode(self, split: Split, *, max_length: int) -> EncodedTokens:
        """The windows of all rows, one row behind the other; labels are those of windows."""
        read, cuts = self._cuts(split, max_length, pair=True)
        tokens, windows = self._of_cuts(read, cuts, split.labels)
        labels = labels_of(split.labels, _contexts(split), windows, split.windows)
        return replace(tokens, labels=labels, per_token=True)

    def told(self, split: Split, *, max_length: int) -> list[list[ReadText]]:
        """Contexts, and the windows of each."""
        _, cuts = self._cuts(split, max_length, pair=True)
        may_lack = split.windows.no_answer
        return [
            [ReadText(context, None, cut.window, may_lack) for cut in own]
            for context, own in zip(_contexts(split), cuts, strict=True)
        ]


def _contexts(split: Split) -> list[str]:
    return [row[1][split.second_prefix :] for row in split.texts]


@dataclass(frozen=True, eq=False)
class ClozePreprocessor(TextPreprocessor):
    """Texts of which tokens are hidden: a long text becomes several blocks, so that all of it is learned from.

    Attributes:
        vocabulary: number of tokens of the model.
    """

    keeps_labels, by_pages = False, False
    vocabulary: int = 0

    @classmethod
    def of_files(cls, files: Files, family: Family, config: Mapping[str, Any]) -> ClozePreprocessor:
        """The preprocessor of files that an artifact keeps."""
        plain = TextPreprocessor.of_files(files, family, config)
        return cls(plain.tokenizer, plain.token_types, vocabulary=int(config["vocab_size"]))

    @property
    def pad_left(self) -> bool:
        """False: an output then has one place, however long the batch is."""
        return False

    @property
    def mask(self) -> tuple[int, str]:
        """Id and text of the mask token.

        Raises:
            ModelError: the tokenizer has none.
        """
        if self.tokenizer.mask_token_id is None:
            raise ModelError(
                "the tokenizer of the model has no mask token, which tells it what to fill in",
                "give a model that was trained with one, such as BERT or RoBERTa",
            )
        return int(self.tokenizer.mask_token_id), str(self.tokenizer.mask_token)

    @property
    def rule(self) -> ClozeRule:
        """Which tokens may be hidden."""
        special = special_tokens(self.tokenizer.backend_tokenizer)
        return ClozeRule(self.mask[0], self.vocabulary, special)

    def encode(self, split: Split, *, max_length: int) -> EncodedTokens:
        """The blocks of all texts, one text behind the other."""
        rule = self.rule  # before anything is read
        options = {"truncation": True, "max_length": max_length}
        read = self._tokens(split.texts, return_overflowing_tokens=True, **options)
        pad, blocks = self.pad[0], read.encodings
        ids = TokenRows.of(one.ids or [pad] for one in blocks)
        types = TokenRows.of(one.type_ids or [0] for one in blocks) if self.token_types else None
        sources = np.array(read["overflow_to_sample_mapping"], dtype=np.intp)
        return EncodedCloze.of(ids, types, pad=pad, rule=rule, sources=sources)
