"""An artifact's task as a plain transformers model, with the masked codes as floats."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from maskpack.formats import Artifact, ModelError, TaskEntry, VerifyError
from maskpack.formats.errors import Hint
from maskpack.formats.files import scratch_folder
from maskpack.formats.pooling import Pooling
from maskpack.formats.target import TargetScale
from maskpack.formats.writer import check_free, check_space, check_writable, new_folder
from maskpack.models.build import check_plain
from maskpack.models.linears import plain_state
from maskpack.models.load import load_finetuned
from maskpack.models.pooling import habit_of, pooling_in
from maskpack.models.sentence_files import write_encoder
from maskpack.models.spans import native_names
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.evaluation.evaluate import prefixes_of, texts_of
from maskpack.tasks.trim import trim_for_tasks
from maskpack.tasks.types import type_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class HfModel:
    """The written model.

    Attributes:
        path: the folder.
        parameters: in all.
        zeros: parameters that are 0.
        bytes: of the folder.
    """

    path: Path
    parameters: int
    zeros: int
    bytes: int


def write_hf(artifact: Artifact, task: str, out: Path, *, vocab: Sequence[Path] = ()) -> HfModel:
    """Write one task as the class of transformers for its type reads it, in float32.

    The class is `AutoModelForSequenceClassification`, `AutoModelForTokenClassification`, `AutoModelForQuestionAnswering` or `AutoModelForMaskedLM`.
    A task that gives vectors, and a head behind another pooling than its family's, are written for sentence-transformers, whose `encode` then
    gives vectors, or logits.

    The weights are `code * scale * mask`, exactly; they are read back and compared before the folder
    gets its name.

    Args:
        artifact: of the task.
        task: its name.
        out: folder to create.
        vocab: files of texts as they will come: the model holds the tokens that they need; without any, all.

    Raises:
        ArtifactError: no such task, a damaged artifact, or `out` exists.
        DataError: a file of texts cannot be read.
        ModelError: a head without a bias has no place for the mean of a target; neither library has such a head.
        VerifyError: the model that is read back differs.
    """
    check_free(out)
    check_writable(out)
    if not vocab:
        return _write(artifact, task, out)
    with scratch_folder() as folder:
        fewer = trim_for_tasks(artifact, (task,), vocab, Path(folder) / "artifact")
        return _write(fewer, task, out)


def _write(artifact: Artifact, task: str, out: Path) -> HfModel:
    entry = artifact.entry(task)
    model_type, head = artifact.manifest.source.model_type, artifact.patch(task).head
    check_plain(head, model_type, TargetScale.of(entry))
    model, kind = restore_task(artifact, task), type_of(entry)
    sentences = kind.decoder.vectors or pooling_in(model.config) is not None
    if sentences:
        _check_pooling(model.config, entry)
    values = list(model.parameters())
    check_space(out, 4 * sum(value.numel() for value in values))
    with new_folder(out) as build:
        ModelContext.of_artifact(artifact).preprocessor(kind.preprocessor).save(build)
        if sentences:
            write_encoder(model, build, max_length=entry.max_length, prefixes=prefixes_of(entry))
        else:
            state = native_names(model, plain_state(model))
            model.save_pretrained(str(build), state_dict=state)
            check_same(model, load_finetuned(str(build), auto_class=kind.auto_class))
    prefixes = prefixes_of(entry)
    if prefixes and not sentences:
        _LOG.warning("a plain model has no prefix: put %r before a text", prefixes[0])
    return HfModel(
        path=out,
        parameters=sum(value.numel() for value in values),
        zeros=sum(int((value == 0).sum()) for value in values),
        bytes=sum(path.stat().st_size for path in out.rglob("*") if path.is_file()),
    )


def _check_pooling(config: Any, entry: TaskEntry) -> None:
    """Refuse a head that neither transformers nor sentence-transformers has.

    Raises:
        ModelError: it has a pooler of its own, or reads pairs of texts behind another pooling than its family's.
    """
    pooling = pooling_in(config)
    if pooling is Pooling.OWN:
        raise ModelError(
            f"the head of `{entry.name}` has a pooler of its own, which the backbone has not",
            "export graphs",
        )
    if texts_of(entry) == 2:
        raise ModelError(
            f"the head of `{entry.name}` reads `pooling` {pooling} of pairs of texts: `{config.architectures[0]}` of transformers reads "
            f"{habit_of(config)}, and sentence-transformers reads texts alone",
            Hint("export graphs, or learn the task with `pooling` {own}", own=habit_of(config)),
        )


def check_same(model: Any, read_back: Any) -> None:
    """Raise VerifyError unless both models hold the same bits."""
    wanted, read = model.state_dict(), read_back.state_dict()
    odd = sorted(wanted.keys() ^ read.keys())
    odd += [
        name for name in wanted.keys() & read.keys() if not torch.equal(wanted[name], read[name])
    ]
    if odd:
        raise VerifyError(f"`{odd[0]}` was not read back as it was written")
