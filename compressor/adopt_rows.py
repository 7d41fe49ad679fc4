"""Rows from which a fine-tuned checkpoint's task is learned, with labels or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskpack.compressor.prepare import TaskRows
from maskpack.compressor.types import FitRequest
from maskpack.formats import ConfigError, DataError, ModelError
from maskpack.formats.errors import Hint
from maskpack.models.config import load_config
from maskpack.models.families import IMAGES
from maskpack.models.labels import label_names
from maskpack.models.load import AUTO_CLASS, Pretrained, load_finetuned
from maskpack.models.locate import resolve
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.columns import (
    Said,
    found_columns,
    plain_columns,
    plain_texts,
    task_of_said,
)
from maskpack.tasks.data.held_out import held_out_places
from maskpack.tasks.data.images import IMAGE_COLUMNS, is_bare_folder
from maskpack.tasks.data.splits import Split, TaskData, load_data, load_dev
from maskpack.tasks.data.tables import column_names
from maskpack.tasks.data.unlabelled import is_lines, read_unlabelled
from maskpack.tasks.options import TaskOptions, Type
from maskpack.tasks.preprocess import load_splits, prompted
from maskpack.tasks.pretrained_head import FRESH, Finding, PretrainedHead, find_head, is_of_class
from maskpack.tasks.task import Task
from maskpack.tasks.types import TASK_TYPES, TaskType
from maskpack.tasks.types.vectors import Vectors
from maskpack.tasks.windows import WindowRule

_NUMBER = TASK_TYPES["regression"].problem_type
_FEWEST = 20  # texts: of a tenth that is held out, each has another one to find


def rows_of_checkpoint(fit: FitRequest, columns: TaskOptions, base: Pretrained) -> TaskRows:
    """The rows of a request, and the head of its checkpoint.

    Args:
        fit: names rows and checkpoint.
        columns: of the rows.
        base: the pretrained model.

    Raises:
        ModelError: the checkpoint is no classifier of these rows.
        DataError: the rows cannot be read.
    """
    assert fit.data and fit.finetuned  # noqa: PT018 - a request to adopt has both
    vectors = _of_vectors(fit.finetuned) if fit.task.type.decoder.vectors else None
    if label_column(fit.data, columns) is None:
        task = prompted(fit.task, fit.finetuned, None)
        config = load_config(resolve(fit.finetuned))
        names = label_names(config)
        labels = task.type.of_model(names)
        if labels is None:
            raise ModelError(
                f"`{fit.finetuned}` has the outputs {', '.join(names)}, which are not those of {task.type.name}",
                "give rows with labels, or a model whose tags are O, B-x and I-x for each kind x",
            )
        find = partial(_found_head, fit.finetuned) if vectors is None else lambda _: vectors
        rows = unlabelled_rows(fit, task, labels, find, ModelContext.of_pretrained(base))
        rows = replace(rows, facts={"labels": "of the fine-tuned model"})
    else:
        data, finding = load_splits(
            fit.finetuned,
            fit.task,
            data=fit.data,
            eval_data=fit.eval_data,
            train_rows=fit.config.train_rows,
            revision=None,
            cache=fit.cache,
        )
        rows = TaskRows(data, vectors or finding)
    _check_head(rows.finding, fit.finetuned)
    return replace(rows, facts={**rows.facts, "adopted": Path(fit.finetuned).name})


def _of_vectors(model: str) -> Finding:
    """A model that gives vectors, which has no head."""
    return Finding(PretrainedHead(model, (), {}), None, load_finetuned(model, vectors=True))


def _found_head(model: str, data: TaskData) -> Finding:
    finding = find_head(model, data)
    _check_head(finding, model)
    return finding


def _check_head(finding: Finding, model: str) -> None:
    if finding.head is None:
        raise ModelError(
            (finding.note or f"`{model}` is no fine-tuned classifier").removesuffix(FRESH)
        )


def label_column(path: Path, columns: TaskOptions) -> str | None:
    """The column of labels in a task's rows; None: they have none."""
    if is_lines(path) or is_bare_folder(path):
        return None
    if path.is_dir() or not path.exists():
        return columns.label_field or "label"  # a folder with two splits, or a data set of the Hub
    names = column_names(path)
    if columns.label_field is not None:
        return columns.label_field if columns.label_field in names else None
    found = found_columns(names) if columns.type is Type.VECTORS else None
    plain = found or plain_columns(names)
    return None if plain is None else plain[-1]


def task_of_rows(name: str, model: str, path: Path, columns: TaskOptions) -> Task:
    """The task of a checkpoint, over the columns of its rows.

    Args:
        name: of the task.
        model: the checkpoint.
        path: of the rows.
        columns: what is said of them.
    """
    kind, label = kind_of(load_config(resolve(model))), label_column(path, columns)
    if columns.type is Type.VECTORS:
        if label is not None:
            return replace(
                task_of_said(Said(name, named=False, data=path, options=columns)), name=name
            )
        assert columns.kind is not None
        kind = TASK_TYPES[columns.kind]
    if label is not None:
        said = replace(
            columns,
            type=Type.IMAGES if kind.reads == IMAGES else columns.type,
            regression=kind.problem_type == _NUMBER,
            multi_label=columns.multi_label or kind.several,
        )
        task = task_of_said(Said(name, named=False, data=path, options=said))
        return replace(task, name=name, kind=kind.name) if task.kind != kind.name else task
    texts = _text_columns(path, columns)
    task = Task(
        name,
        kind.name,
        texts=texts,
        label=columns.label_field or "label",
        metrics=kind.usual_metrics,
        windows=WindowRule(columns.stride, texts=columns.windows),
    )
    return replace(task.with_metric(columns.metric), unlabelled=columns.unlabelled)


def _text_columns(path: Path, columns: TaskOptions) -> tuple[str, ...]:
    """The columns of the texts of rows without labels; lines of two texts are pairs."""
    if columns.text_field is not None:
        return tuple(each for each in (columns.text_field, columns.pair_field) if each is not None)
    if is_bare_folder(path):
        return IMAGE_COLUMNS[:1]
    if is_lines(path):
        return ("text", "text_pair") if is_lines(path, pairs=True) else ("text",)
    names = column_names(path)
    plain = plain_texts(names)
    if plain is None:
        raise ConfigError(
            f"which columns of `{path}` are the texts?",
            Hint("its columns: {columns}; choose `text_field`", columns=", ".join(names)),
        )
    return plain


def kind_of(config: Any) -> TaskType:
    """The type of task of a fine-tuned model, from its configuration."""
    types = [one for one in TASK_TYPES.values() if is_of_class(config, one.auto_class)]
    own = [one for one in types if one.auto_class != AUTO_CLASS]
    own = own or [one for one in TASK_TYPES.values() if one.auto_class == AUTO_CLASS]
    wanted = _NUMBER if config.num_labels == 1 else config.problem_type or own[0].problem_type
    return next((one for one in own if one.problem_type == wanted), own[0])


def unlabelled_rows(
    fit: FitRequest,
    task: Task,
    labels: tuple[str, ...],
    find: Callable[[TaskData], Finding],
    context: ModelContext,
) -> TaskRows:
    """Rows without labels, which a model answers; a tenth of them is held out, or rows with labels are given.

    Args:
        fit: names the rows.
        task: with what stands before its texts.
        labels: of the model, in the order of its logits.
        find: rows of the task to the model.
        context: of the encoder, whose tokens the model reads.
    """
    assert fit.data is not None
    texts = _texts_alone(fit.data, task)
    held = set(held_out_places(["" for _ in texts]).tolist()) if fit.eval_data is None else set()
    train, dev = (
        _blank(task, [row for i, row in enumerate(texts) if (i in held) is wanted], labels)
        for wanted in (False, True)
    )
    data = TaskData(task, labels, train, dev).limit_train(fit.config.train_rows)
    finding = find(data)
    answer = _answers(task, labels, fit, finding, context)
    dev = answer(dev) if fit.eval_data is None else load_dev(task, labels, data=fit.eval_data)
    return TaskRows(replace(data, train=answer(data.train), dev=dev), finding, labelled=False)


def _texts_alone(path: Path, task: Task) -> Sequence[tuple[str, ...]]:
    """Rows without labels; of a type that reads texts one by one each text once.

    Raises:
        DataError: there are too few to be compared.
    """
    columns, kind = task.texts, task.type
    if not kind.grouped:
        return read_unlabelled(path, columns, images=kind.reads == IMAGES)
    if is_lines(path) or not set(columns) <= set(column_names(path)):
        columns = columns[:1]
    rows = read_unlabelled(path, columns)
    texts = dict.fromkeys(text for row in rows for text in row if text.strip())
    if len(texts) < _FEWEST:
        raise DataError(
            f"`{path}` holds {len(texts)} different texts, and vectors are compared with each other",
            f"give {_FEWEST} or more",
        )
    return [(text,) for text in texts]


def images_of(fit: FitRequest) -> Split | None:
    """The images that a request is learned from, on which a backbone is calibrated; None: the task reads texts."""
    if fit.task.type.reads != IMAGES:
        return None
    assert fit.data is not None
    if label_column(fit.data, TaskOptions(label_field=fit.task.label)) is not None:
        return load_data(fit.task, data=fit.data, eval_data=fit.eval_data).train
    return _blank(fit.task, read_unlabelled(fit.data, fit.task.texts, images=True), ())


def _blank(task: Task, texts: Sequence[tuple[str, ...]], labels: Sequence[str]) -> Split:
    """Rows that nobody has answered yet."""
    kind = task.type
    empty = np.zeros((1, max(1, len(labels))), dtype=np.float32)
    some = empty[0] if kind.grouped else kind.answers(empty)  # texts that are read one by one
    root = Path() if kind.reads == IMAGES else None
    return Split(tuple(texts), kind.blank(some, len(texts)), windows=task.windows, root=root)


def _answers(
    task: Task,
    labels: Sequence[str],
    fit: FitRequest,
    finding: Finding,
    context: ModelContext,
) -> Callable[[Split], Split]:
    """A function that labels a split as the model answers it."""
    kind = task.type
    preprocessor = context.preprocessor(kind.preprocessor)

    def answer(split: Split) -> Split:
        texts = split.prefixed(task.prefixes or ())
        rows = preprocessor.encode(texts, max_length=fit.config.max_length)
        logits = finding.logits(rows)
        assert logits is not None  # `find` gives a model
        if isinstance(kind, Vectors):
            own, labels_of = kind.rows_of_texts([row[0] for row in split.texts], logits[:, 0])
            return replace(split, texts=own, labels=labels_of)
        if not kind.structured:
            return replace(split, labels=kind.answers(logits))
        told = preprocessor.told(texts, max_length=fit.config.max_length)
        answers = kind.decoder.decode(labels, logits, told)
        return replace(split, labels=kind.given(answers, labels))

    return answer
