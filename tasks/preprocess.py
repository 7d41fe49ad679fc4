"""Rows to inputs of a model: tokens of texts. One line in `PREPROCESSORS` for each kind of input.

A preprocessor is saved and loaded with the artifact. `load_splits` reads a task's rows in the order of the model's
logits; `preprocess_splits` of `context.py` turns both splits into tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskpack.models.families import Family
from maskpack.models.load import tokenizer_of
from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.splits import Split, TaskData, load_data
from maskpack.tasks.pretrained_head import Finding, find_head
from maskpack.tasks.task import Task

Files = Mapping[str, bytes]
"""Configuration and tokenizer files as an artifact keeps them, name -> bytes."""


class Preprocessor(Protocol):
    """Turns rows into inputs of a model."""

    @property
    def pad(self) -> tuple[int, str]:
        """Id and text of the padding token."""

    @property
    def pad_left(self) -> bool:
        """Whether padding stands before a row."""

    def encode(self, split: Split, *, max_length: int) -> Encoded:
        """A split as tokens; rows longer than `max_length` tokens are cut."""

    def full_lengths(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Tokens of each row without the cut."""

    def save(self, folder: Path) -> None:
        """Write the files that others load it from."""


@dataclass(frozen=True, eq=False)
class TextPreprocessor:
    """Texts and pairs of texts, through the tokenizer of the model.

    Attributes:
        tokenizer: a fast one of transformers.
        token_types: whether the model reads `token_type_ids`, which distinguish the texts of a pair.
    """

    tokenizer: Any
    token_types: bool

    @classmethod
    def of_files(cls, files: Files, family: Family, config: Mapping[str, Any]) -> TextPreprocessor:
        """The preprocessor of files that an artifact keeps."""
        return cls(tokenizer_of(files), family.token_kinds(config) > 0)

    @property
    def pad(self) -> tuple[int, str]:
        """Id and text of the padding token."""
        return int(self.tokenizer.pad_token_id or 0), str(self.tokenizer.pad_token or "")

    @property
    def pad_left(self) -> bool:
        """Whether padding stands before a text."""
        return bool(self.tokenizer.padding_side == "left")

    def encode(self, split: Split, *, max_length: int) -> Encoded:
        """Tokenise a split once; texts longer than `max_length` tokens are cut.

        A text without tokens, as tokenizers without special tokens make of an empty text, becomes one padding
        token, because a model needs one token at least.
        """
        columns = list(zip(*split.texts, strict=True))
        tokens = self.tokenizer(
            *(list(column) for column in columns),
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=self.token_types,
        )
        pad = self.pad[0]
        ids = tuple(np.array(row or [pad], dtype=np.int64) for row in tokens["input_ids"])
        types = None
        if self.token_types:
            types = tuple(np.array(row or [0], dtype=np.int64) for row in tokens["token_type_ids"])
        return Encoded(ids, types, split.labels, pad, self.pad_left)

    def full_lengths(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Tokens of each row without the cut."""
        columns = zip(*rows, strict=True)
        tokens = self.tokenizer(*(list(one) for one in columns), truncation=False, verbose=False)
        return np.array([len(row) for row in tokens["input_ids"]], dtype=np.int64)

    def save(self, folder: Path) -> None:
        """Write the tokenizer as transformers loads it."""
        self.tokenizer.save_pretrained(str(folder))


PREPROCESSORS: dict[str, Callable[[Files, Family, Mapping[str, Any]], Preprocessor]] = {
    "text": TextPreprocessor.of_files,
}
"""Name, as in `TaskType.preprocessor` -> function that makes the preprocessor from an encoder's files."""


def load_splits(
    model: str,
    task: Task,
    *,
    data: Path | None,
    eval_data: Path | None,
    train_rows: int | None,
    revision: str | None,
) -> tuple[TaskData, Finding]:
    """Read a task's rows, and the head of the model if it is a classifier of them; then its labels' order is taken.

    Args:
        model: folder, hub id or alias.
        task: what to read.
        data: files of the task, see `load_data`.
        eval_data: of its evaluation split.
        train_rows: at most so many training rows.
        revision: of a hub model.
    """
    rows = load_data(task, data=data, eval_data=eval_data)
    finding = find_head(model, rows, revision=revision)
    if finding.head is not None:
        rows = rows.in_order(finding.head.labels)
    return rows.limit_train(train_rows), finding
