"""Configuration, family and preprocessors of an encoder, loaded once for all steps of a command; tasks as models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maskpack.formats import Artifact, TaskEntry
from maskpack.formats.schema import CONFIG
from maskpack.models.build import apply_patch, build_classifier, classifier_config
from maskpack.models.families import Family, check_length, family_of
from maskpack.models.load import Pretrained
from maskpack.tasks.batches import Encoded
from maskpack.tasks.data.splits import TaskData
from maskpack.tasks.data_warnings import DataWarning, find_warnings, length_warnings, log_warnings
from maskpack.tasks.preprocess import PREPROCESSORS, Files, Preprocessor, TextPreprocessor
from maskpack.tasks.types import TaskType, type_of


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
        kinds = context.family.token_kinds(context.config)
        context.made["text"] = TextPreprocessor(pretrained.tokenizer, kinds > 0)
        return context

    def preprocessor(self, name: str = "text") -> Preprocessor:
        """A preprocessor by its name in `PREPROCESSORS`."""
        if name not in self.made:
            self.made[name] = PREPROCESSORS[name](self.files, self.family, self.config)
        return self.made[name]

    @property
    def longest(self) -> int:
        """Tokens that the encoder has positions for."""
        return self.family.longest_input(self.config)


def preprocess_splits(
    context: ModelContext, data: TaskData, note: str | None, max_length: int
) -> tuple[Encoded, Encoded]:
    """Both splits as tokens; warnings about the data go to the log.

    Args:
        context: of the model.
        data: the rows.
        note: one line about the head of a fine-tuned source model, or None.
        max_length: tokens a text is cut to.

    Raises:
        ConfigError: texts may have more tokens than the model has positions for.
    """
    check_length(max_length, context.longest)
    preprocessor = context.preprocessor(data.task.type.preprocessor)
    train, dev = (
        preprocessor.encode(split, max_length=max_length) for split in (data.train, data.dev)
    )
    log_warnings(find_warnings(data))
    if note is not None:
        log_warnings([DataWarning(note, serious=False)])
    splits, lengths = ((data.train, train), (data.dev, dev)), preprocessor.full_lengths
    log_warnings(length_warnings(lengths, splits, max_length=max_length, longest=context.longest))
    return train, dev


def restore_task(artifact: Artifact, task: str, *, attention: str | None = None) -> Any:
    """The torch model of one task, in evaluation mode.

    Args:
        artifact: an open artifact.
        task: one of its tasks.
        attention: implementation of attention; None: transformers' default; `eager` traces best.
    """
    entry = artifact.entry(task)
    config = task_config(artifact, entry)
    return apply_patch(
        build_classifier(artifact.backbone, config, seed=0, attention=attention),
        artifact.backbone,
        artifact.patch(task),
    )


def task_config(artifact: Artifact, entry: TaskEntry) -> Any:
    """The configuration of one of an artifact's tasks."""
    return described(artifact.file(CONFIG), type_of(entry), entry.labels)


def described(config: bytes, kind: TaskType, labels: Sequence[str]) -> Any:
    """The configuration of a model for a type of task and its labels, from the bytes of an encoder's."""
    return classifier_config(
        config, labels, problem_type=kind.problem_type, auto_class=kind.auto_class
    )
