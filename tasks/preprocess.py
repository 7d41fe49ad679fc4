"""Rows to inputs of a model: tokens of texts, or pixels of images. One line in `PREPROCESSORS` for each kind of input.

A preprocessor is saved and loaded with the artifact. `load_splits` reads a task's rows in the order of the model's
logits; `preprocess_splits` of `context.py` turns both splits into tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint
from maskpack.models.families import IMAGES, TEXT, Family
from maskpack.models.prompts import find_prompts
from maskpack.runtime.outputs import ReadText
from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.cache import OFF, Cache
from maskpack.tasks.data.splits import Split, TaskData, load_data
from maskpack.tasks.images import ImagePreprocessor
from maskpack.tasks.pretrained_head import Finding, find_head
from maskpack.tasks.task import Task
from maskpack.tasks.texts import (
    ClozePreprocessor,
    Files,
    GroupPreprocessor,
    TextPreprocessor,
    WindowPreprocessor,
    WordPreprocessor,
)

_LOG = logging.getLogger(__name__)


class Preprocessor(Protocol):
    """Turns rows into inputs of a model."""

    @property
    def pad(self) -> tuple[int, str]:
        """Id and text of the padding token."""

    @property
    def pad_left(self) -> bool:
        """Whether padding stands before a row."""

    @property
    def truncation_left(self) -> bool:
        """Whether a row that is too long loses its beginning."""

    @property
    def split_special_tokens(self) -> bool:
        """Whether the text of a special token is read as any other text."""

    @property
    def keeps_labels(self) -> bool:
        """Whether labels stay those of the split, whatever the tokens are, so that tokens can be kept without them."""

    @property
    def by_pages(self) -> bool:
        """Whether rows may be read some at a time."""

    @property
    def cuts(self) -> bool:
        """Whether rows become tokens, of which a model reads so many and knows so many."""

    @property
    def mask(self) -> tuple[int, str] | None:
        """Id and text of the token that a model fills in; None: it fills in none."""

    def encode(self, split: Split, *, max_length: int) -> Encoded:
        """A split as a model reads it; rows of more than `max_length` tokens are cut, where rows are cut."""

    def samples(self) -> Encoded:
        """Rows of no task, on which the peaks of activations are measured; their labels are not used."""

    def full_lengths(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Tokens of each row without the cut."""

    def told(self, split: Split, *, max_length: int) -> list[list[ReadText]]:
        """What a decoder is told of each row: of a row that is cut into windows, of each of them."""

    def save(self, folder: Path) -> None:
        """Write the files that others load it from."""


READERS = ("text", "words", "groups", "windows", "cloze")
"""Names of the preprocessors of texts that devices have too: `runtime/tokens.py`."""

PREPROCESSORS: dict[str, Callable[[Files, Family, Mapping[str, Any]], Preprocessor]] = {
    "text": TextPreprocessor.of_files,
    "words": WordPreprocessor.of_files,
    "groups": GroupPreprocessor.of_files,
    "windows": WindowPreprocessor.of_files,
    "cloze": ClozePreprocessor.of_files,
    IMAGES: ImagePreprocessor.of_files,
}
"""Name, as in `TaskType.preprocessor` -> function that makes the preprocessor from an encoder's files. What an encoder reads, `Family.reads`,
is the name of its usual one."""


def load_splits(
    model: str,
    task: Task,
    *,
    data: Path | None,
    eval_data: Path | None,
    train_rows: int | None,
    revision: str | None,
    cache: str = OFF,
    untrained: bool = False,
) -> tuple[TaskData, Finding]:
    """Read a task's rows, and the head of the model if it is a classifier of them; then its labels' order is taken.

    Args:
        model: folder, hub id or alias.
        task: what to read.
        data: files of the task, see `load_data`.
        eval_data: of its evaluation split.
        train_rows: at most so many training rows.
        revision: of a hub model.
        cache: where rows of large files are kept, see `Cache.of_option`.
        untrained: whether the model's weights are not read, and its head neither.
    """
    task = prompted(task, model, revision)
    rows = load_data(task, data=data, eval_data=eval_data, cache=Cache.of_option(cache))
    finding = Finding() if untrained else find_head(model, rows, revision=revision)
    if finding.head is not None:
        rows = rows.in_order(finding.head.labels)
    return rows.limit_train(train_rows), finding


def prompted(task: Task, model: str, revision: str | None) -> Task:
    """The task with the default prompt of a model before its texts, unless it says itself what stands there.

    Raises:
        ConfigError: it says so, and reads no texts.
    """
    if task.type.reads != TEXT:
        if task.prefixes:
            raise ConfigError(
                f"`prefix` stands before texts, and a {task.kind} reads none", "leave `prefix` out"
            )
        return task.with_prefixes("", None)
    if task.prefixes is not None:
        return task
    prompts = find_prompts(model, revision=revision)
    if prompts.usual:
        hint = Hint("`prefix` gives another, or none")
        _LOG.info("`%s` reads texts after its prompt %r; %s", model, prompts.usual, hint)
        return task.with_prefixes(prompts.usual, None)
    if known := [name for name, text in prompts.by_name.items() if text]:
        hint = Hint("give one as `prefix`, if it was meant for such texts")
        listed = ", ".join(f"{name} ({prompts.by_name[name]!r})" for name in known)
        _LOG.info("`%s` has the prompts %s and puts none before a text; %s", model, listed, hint)
    return task.with_prefixes("", None)
