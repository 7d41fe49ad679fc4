"""Rows to tokens: a task's splits in the order of the model's logits, then as tokens.

What is worth knowing of the data goes to the log on the way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.splits import Split, TaskData, load_data
from maskpack.tasks.data_warnings import DataWarning, find_warnings, length_warnings, log_warnings
from maskpack.tasks.pretrained_head import Finding, find_head
from maskpack.tasks.task import Task


def encode(tokenizer: Any, split: Split, *, max_length: int, token_types: bool) -> Encoded:
    """Tokenise a split once; texts longer than `max_length` tokens are cut.

    A text of no tokens, as tokenizers without special tokens make of an empty one, is one padding
    token: a model must read something.
    """
    columns = list(zip(*split.texts, strict=True))
    tokens = tokenizer(
        *(list(column) for column in columns),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=token_types,
    )
    pad = int(tokenizer.pad_token_id or 0)
    ids = tuple(np.array(row or [pad], dtype=np.int64) for row in tokens["input_ids"])
    types = None
    if token_types:
        types = tuple(np.array(row or [0], dtype=np.int64) for row in tokens["token_type_ids"])
    return Encoded(ids, types, split.labels, pad, pad_left=tokenizer.padding_side == "left")


def load_splits(
    model: str,
    task: Task,
    *,
    data: Path | None,
    eval_data: Path | None,
    train_rows: int | None,
    revision: str | None,
) -> tuple[TaskData, Finding]:
    """Read a task's rows, and what the model brings; a classifier of them orders their labels.

    Args:
        model: folder, hub id or alias.
        task: what to read.
        data: files of the task, see `load_data`.
        eval_data: of its evaluation split.
        train_rows: at most so many training rows.
        revision: of a hub model.
    """
    rows = load_data(task, data=data, eval_data=eval_data)
    found = find_head(model, rows, revision=revision)
    if found.head is not None:
        rows = rows.in_order(found.head.labels)
    return rows.limit_train(train_rows), found


def preprocess_splits(
    tokenizer: Any,
    data: TaskData,
    found: Finding,
    *,
    max_length: int,
    token_types: bool,
    longest: int,
) -> tuple[Encoded, Encoded]:
    """Both splits as tokens; from here on a run can go wrong by its data only, so it is told about.

    Args:
        tokenizer: of the model.
        data: the rows.
        found: what the model brings.
        max_length: tokens a text is cut to.
        token_types: whether the model tells the two texts of a pair apart by them.
        longest: tokens the model has positions for.
    """
    train, dev = (
        encode(tokenizer, split, max_length=max_length, token_types=token_types)
        for split in (data.train, data.dev)
    )
    log_warnings(find_warnings(data))
    if found.note is not None:
        log_warnings([DataWarning(found.note, serious=False)])
    splits = ((data.train, train), (data.dev, dev))
    log_warnings(length_warnings(tokenizer, splits, max_length=max_length, longest=longest))
    return train, dev
