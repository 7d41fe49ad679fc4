"""Configuration, family and preprocessors of an encoder, loaded once for all steps of a command; tasks as models."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from maskpack.formats import Artifact, Backbone, DataError, ModelError, Patch, TaskEntry
from maskpack.formats.pooling import Pooling, pooling_of
from maskpack.formats.schema import CONFIG
from maskpack.formats.target import TargetScale
from maskpack.formats.waiting import announced
from maskpack.models.base_model import check_same_tokens
from maskpack.models.build import apply_dense, classifier_config
from maskpack.models.families import Family, check_length, family_of
from maskpack.models.image_files import PROCESSOR
from maskpack.models.load import Pretrained, load_finetuned
from maskpack.models.outline import build_outline, fill_weights
from maskpack.models.pooling import POOLER
from maskpack.tasks.batches import Encoded, EncodedTokens
from maskpack.tasks.data.splits import Split, TaskData
from maskpack.tasks.data_warnings import (
    DataWarning,
    find_warnings,
    length_warnings,
    log_warnings,
    window_warnings,
)
from maskpack.tasks.images import ImagePreprocessor
from maskpack.tasks.preprocess import PREPROCESSORS, READERS, Preprocessor
from maskpack.tasks.probes import shipped_difference
from maskpack.tasks.task import Task
from maskpack.tasks.texts import Files, TextPreprocessor
from maskpack.tasks.token_cache import encode_split
from maskpack.tasks.types import TaskType, may_use_pooler, type_of
from maskpack.tasks.types.vectors import grouped_texts

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ModelContext:
    """Configuration, family and preprocessors of one encoder.

    Attributes:
        files: configuration and tokenizer files, name -> bytes.
        config: `config.json` as a mapping.
        family: the architecture.
        made: preprocessors by name, each made on first use.
    """

    files: Files
    config: Mapping[str, Any]
    family: Family
    made: dict[str, Preprocessor] = field(default_factory=dict)

    @classmethod
    def of_files(cls, files: Files) -> ModelContext:
        """The context of files that an artifact keeps."""
        config = json.loads(files[CONFIG])
        return cls(files, config, family_of(config["model_type"]))

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> ModelContext:
        """The context of an artifact; its files are checked against their digests."""
        return cls.of_files({name: artifact.file(name) for name in artifact.manifest.files})

    @classmethod
    def of_pretrained(cls, pretrained: Pretrained) -> ModelContext:
        """The context of a model in memory, whose tokenizer is loaded already."""
        context = cls.of_files(pretrained.files)
        if pretrained.tokenizer is None:
            return context
        kinds = context.family.token_kinds(context.config)
        context.made["text"] = TextPreprocessor(pretrained.tokenizer, kinds > 0)
        return context

    def preprocessor(self, name: str | None = None) -> Preprocessor:
        """A preprocessor by its name in `PREPROCESSORS`; None: the usual one of what the encoder reads."""
        name = name or self.family.reads
        if name not in self.made:
            self.made[name] = PREPROCESSORS[name](self.files, self.family, self.config)
        return self.made[name]

    def encode(self, name: str, split: Split, max_length: int, prefixes: Sequence[str]) -> Encoded:
        """A split as tokens of a preprocessor, see `encode_split`."""
        return encode_split(
            self.preprocessor(name),
            split,
            max_length=max_length,
            files=self.files,
            prefixes=prefixes,
        )

    @property
    def longest(self) -> int:
        """Tokens that the encoder has positions for."""
        return self.family.longest_input(self.config)


def check_same_reading(ours: tuple[str, ModelContext], theirs: tuple[str, ModelContext]) -> None:
    """Raise ModelError unless two named encoders of one architecture make the same inputs of texts, or of images."""
    own, other = (context.preprocessor() for _, context in (ours, theirs))
    if isinstance(own, TextPreprocessor) and isinstance(other, TextPreprocessor):
        check_same_tokens((ours[0], own.tokenizer), (theirs[0], other.tokenizer))
        return
    assert isinstance(own, ImagePreprocessor)  # nothing else is what an encoder reads
    assert isinstance(other, ImagePreprocessor)
    if own.rule != other.rule:
        raise ModelError(
            f"`{theirs[0]}` and `{ours[0]}` read images otherwise: their `{PROCESSOR}` differ",
            "tasks over one backbone read alike",
        )


def preprocess_splits(
    context: ModelContext, data: TaskData, note: str | None, max_length: int
) -> tuple[Encoded, Encoded]:
    """Both splits as the model reads them; warnings about the data go to the log.

    Args:
        context: of the model.
        data: the rows.
        note: one line about the head of a fine-tuned source model, or None.
        max_length: tokens a text is cut to.

    Raises:
        ConfigError: texts may have more tokens than the model has positions for.
        DataError: a row holds a token for which the model has no embedding, or is no image.
    """
    name = data.task.type.preprocessor
    if context.preprocessor(name).cuts:
        return _as_tokens(context, data, note, max_length)
    train, dev = (context.encode(name, each, max_length, ()) for each in (data.train, data.dev))
    _warn(data, note)
    return train, dev


def _as_tokens(
    context: ModelContext, data: TaskData, note: str | None, max_length: int
) -> tuple[EncodedTokens, EncodedTokens]:
    """The same of texts, with warnings about tokens; arguments as of `preprocess_splits`."""
    check_length(max_length, context.longest)
    texts = [split.prefixed(data.task.prefixes or ()) for split in (data.train, data.dev)]
    with announced(_LOG, f"cutting {len(data.train) + len(data.dev):,} rows to tokens"):
        train, dev = (_tokens(context, data, split, max_length) for split in texts)
    for what, split, encoded in zip(("training", "evaluation"), texts, (train, dev), strict=True):
        _check_ids(encoded, split, int(context.config["vocab_size"]), what)
    _check_shipped(context, data.task, max_length)
    splits: Sequence[tuple[Split, EncodedTokens]] = ((texts[0], train), (texts[1], dev))
    decoder = data.task.type.decoder
    _warn(data, note, window_warnings(splits, max_length) if decoder.windows else ())
    if decoder.pieces or data.task.windows.texts:
        return train, dev  # nothing was cut off
    if data.task.type.grouped:
        splits = tuple((replace(one, texts=grouped_texts(one)), own) for one, own in splits)
    lengths = context.preprocessor(data.task.type.preprocessor).full_lengths
    with announced(_LOG, "counting the tokens that were cut"):
        warnings = length_warnings(lengths, splits, max_length=max_length, longest=context.longest)
    log_warnings(warnings)
    return train, dev


def _tokens(context: ModelContext, data: TaskData, split: Split, max_length: int) -> EncodedTokens:
    """A split as tokens."""
    name = data.task.type.preprocessor
    found = context.encode(name, split, max_length, data.task.prefixes or ())
    assert isinstance(found, EncodedTokens)
    return found


def _warn(data: TaskData, note: str | None, more: Iterable[DataWarning] = ()) -> None:
    """Log what may be wrong with the rows, further warnings, and the note on a head."""
    with announced(_LOG, "looking for what may be wrong with the rows"):
        log_warnings(find_warnings(data))
    log_warnings(more)
    if note is not None:
        log_warnings([DataWarning(note, serious=False)])


def _check_shipped(context: ModelContext, task: Task, max_length: int) -> None:
    """Warn if devices would read texts otherwise; an export would be refused, after all the training."""
    if task.type.preprocessor not in READERS:
        return
    preprocessor, texts = context.preprocessor(), len(task.texts)
    found = shipped_difference(context.files, preprocessor, texts=texts, max_length=max_length)
    if found is not None:
        log_warnings([DataWarning(f"{found}; an export would be refused", serious=True)])


def _check_ids(encoded: EncodedTokens, split: Split, size: int, name: str) -> None:
    """Raise DataError if a row holds a token for which the model has no embedding."""
    place = encoded.ids.first_above(size)
    if place is not None:
        row, largest = encoded.row_of(place), int(encoded.ids[place].max())
        raise DataError(
            f"{name} row {row + 1}, `{split.texts[row][0]:.60}`, holds the token {largest}, the model has {size} embeddings",
            "leave the token out of the texts, or give a model that knows it",
        )


def restore_task(
    artifact: Artifact, task: str, *, attention: str | None = None, for_answers: bool = False
) -> Any:
    """The torch model of one task, in evaluation mode.

    Args:
        artifact: an open artifact.
        task: one of its tasks.
        attention: implementation of attention; None: transformers' default; `eager` traces best.
        for_answers: whether it is only called; then the weights of a large one are there while their layer computes.
    """
    model, patch = outline_task(artifact, task, attention=attention), artifact.patch(task)
    return fill_weights(model, artifact.backbone, patch, for_answers=for_answers)


def load_dense(model: str, kind: TaskType, *, attention: str | None = None) -> Any:
    """A fine-tuned model of a type of task, as transformers or, of vectors, sentence-transformers wrote it; see `load_finetuned`."""
    auto_class, vectors = kind.auto_class, kind.decoder.vectors
    return load_finetuned(model, attention=attention, auto_class=auto_class, vectors=vectors)


def restore_patch(artifact: Artifact, entry: TaskEntry, patch: Patch) -> Any:
    """The torch model of a patch that is not written yet, over the backbone of an artifact."""
    model = build_outline(artifact.backbone, task_config(artifact, entry))
    model = apply_dense(model, patch, TargetScale.of(entry))
    return fill_weights(model, artifact.backbone, patch)


def outline_task(artifact: Artifact, task: str, *, attention: str | None = None) -> Any:
    """The same without its integer weights, which a tracer does not read."""
    entry = artifact.entry(task)
    model = build_outline(artifact.backbone, task_config(artifact, entry), attention=attention)
    return apply_dense(model, artifact.patch(task), TargetScale.of(entry))


def task_config(artifact: Artifact, entry: TaskEntry) -> Any:
    """The configuration of one of an artifact's tasks."""
    kind, pooling = type_of(entry), pooling_of(entry)
    return described(artifact.file(CONFIG), kind, entry.labels, pooling)


def backbone_for(artifact: Artifact, entry: TaskEntry) -> Backbone:
    """The parameters of a backbone that a task uses: one whose head pools in another way than through the pooler has none."""
    backbone = artifact.backbone
    return backbone if may_use_pooler(entry) else backbone.without(POOLER)


def described(
    config: bytes, kind: TaskType, labels: Sequence[str], pooling: Pooling | None = None
) -> Any:
    """The configuration of a model for a type of task and its labels, from the bytes of an encoder's.

    Args:
        config: bytes of `config.json`.
        kind: type of the task.
        labels: in the order of the logits.
        pooling: what the head reads; None: what it does in transformers' class.
    """
    return classifier_config(
        config,
        labels,
        problem_type=kind.problem_type,
        auto_class=kind.auto_class,
        pooling=pooling,
        vectors=kind.decoder.vectors,
    )
