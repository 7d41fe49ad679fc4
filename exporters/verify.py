"""Compare an exported graph in ONNX Runtime with its masked torch model.

In this order: what texts or images become, names, axes, shapes, values, accuracy; zeros are counted from the file's own bytes. All
findings are collected, not the first. Raising is the caller's choice.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.graph_facts import graph_facts
from maskpack.exporters.readings import read_rows
from maskpack.exporters.report import AccuracyCheck, GraphFacts, Report, ValueCheck
from maskpack.exporters.session import (
    make_session,
    ort_predict,
    relative_error,
    session_facts,
)
from maskpack.exporters.signature import check_signature
from maskpack.exporters.texts import Reading
from maskpack.exporters.vocabularies import check_numbers_of_model, with_tokens_of
from maskpack.formats import Artifact, DataError, ExportError, TaskEntry, VerifyError
from maskpack.formats.target import TargetScale
from maskpack.formats.tensorfile import Arrays, read_tensors
from maskpack.formats.waiting import announced
from maskpack.models.inputs import ATTENTION, inputs_of
from maskpack.models.padding import set_pad_token
from maskpack.runtime.cloze import MOST_LOGITS
from maskpack.runtime.loading import check_task, load_inputs
from maskpack.runtime.providers import Provider
from maskpack.runtime.task import FEEDS_SUFFIX, TaskFiles, pick_task
from maskpack.tasks.batches import Encoded, Feeds, Predict, predict_all, torch_predict
from maskpack.tasks.context import ModelContext, load_dense, restore_task
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import evaluation_split
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.types import type_of

_LOG = logging.getLogger(__name__)

SHAPES = ((1, 1, False), (1, 7, False), (2, 16, True), (5, 33, True), (3, 128, True))
"""Batch, sequence, padded: shapes on which logits are compared; short encoders cut the sequence, those of images have one."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A graph and the model that it is compared with.

    Attributes:
        graph: its file.
        artifact: the artifact of its task.
        task: its task.
        compute: its arithmetic.
        tolerance: largest differences that are allowed.
        data: evaluation data, if the task's does not ship with the package.
        reference: a fine-tuned model to evaluate as well.
        inputs: the task's inputs to a graph of all tasks: an adapter, and its values by name.
        context: of the artifact's encoder, if it is loaded already.
        providers: execution providers to run the graph on, see `make_session`.
        rows: evaluation rows in place of `data`.
        files: of the exported task, with which a device reads texts; None verifies a graph alone.
    """

    graph: Path
    artifact: Artifact
    task: str
    compute: str
    tolerance: Tolerance
    data: Path | None = None
    reference: str | None = None
    inputs: tuple[Path, Arrays] | None = None
    context: ModelContext | None = None
    providers: tuple[Provider, ...] = ()
    files: TaskFiles | None = None
    rows: Split | None = None

    @cached_property
    def encoder(self) -> ModelContext:
        """The context, loaded on first use."""
        return self.context or ModelContext.of_artifact(self.artifact)

    @property
    def entry(self) -> TaskEntry:
        """The task's entry in the manifest."""
        return self.artifact.entry(self.task)


def compute_of(graph: Path) -> str:
    """The arithmetic of an exported graph, read from its operators.

    Raises:
        VerifyError: no graph there, or not one.
    """
    if not graph.is_file():
        raise VerifyError(f"no graph at `{graph}`", "export the task first")
    try:
        model = onnx.load(str(graph), load_external_data=False)
    except DecodeError as error:
        raise VerifyError(f"`{graph}` is not an ONNX graph: {error}") from error
    kinds = {node.op_type for node in model.graph.node}
    types = {tensor.data_type for tensor in model.graph.initializer}
    known = ARITHMETICS.values()
    plain = next(one.name for one in known if one.operator is None and one.stored is None)
    marked = (one.name for one in known if one.operator in kinds or one.stored in types)
    return next(marked, plain)


def exported(folder: Path, task: str) -> tuple[Path, tuple[Path, Arrays] | None]:
    """The graph of a task in an exported folder, and the task's inputs if it is a graph of all tasks.

    Raises:
        ConfigError: no such task there.
        ExportError: no exported task there, or files that do not belong together.
    """
    files = pick_task(folder, task)
    config = files.read_config()
    check_task(files, config)
    if files.adapter is None:
        return files.graph, None
    load_inputs(files, config)  # the adapter is the one that the configuration names
    feeds = files.adapter.with_suffix(FEEDS_SUFFIX)
    try:
        return files.graph, (files.adapter, dict(read_tensors(feeds.read_bytes())[0]))
    except OSError as error:
        raise ExportError(f"cannot read `{feeds}`: {error.strerror}") from error


def verify(subject: Subject) -> Report:
    """Run every check and return the report.

    A graph that has fewer tokens than the artifact is compared with the artifact's task with these tokens.

    Raises:
        MaskpackError: a provider is not installed, or the graph or the evaluation data cannot be read at all.
    """
    if not subject.graph.is_file():
        raise VerifyError(f"no graph at `{subject.graph}`", "export the task first")
    with with_tokens_of(subject.files, subject.artifact, subject.task) as artifact:
        if artifact is not subject.artifact:
            subject = replace(subject, artifact=artifact, context=None)
        with announced(_LOG, f"comparing the graph of `{subject.task}` with torch"):
            return _verify(subject)


def _verify(subject: Subject) -> Report:
    """The checks, in their order."""
    adapter, own = subject.inputs or (None, {})
    reading = read_rows(subject.encoder, subject.entry, subject.files, _rows_of(subject))
    facts = graph_facts(
        subject.graph,
        subject.artifact,
        subject.task,
        subject.compute,
        subject.encoder.family.base,
        own,
    )
    torch_side = _torch_answers(
        subject, reading, facts.longest
    )  # its model is gone before the graph is loaded
    session = make_session(adapter or subject.graph, providers=subject.providers)
    wrong = check_signature(session, subject.artifact, subject.entry, subject.encoder)
    findings = [*reading.findings, *wrong, *_check_zeros(facts)]
    values: tuple[ValueCheck, ...] = ()
    accuracy = None
    if not wrong:
        graph = ort_predict(session)
        values = tuple(_check_values(subject, graph, *each) for each in torch_side.shapes)
        accuracy = _check_accuracy(subject, reading, graph, torch_side)
        findings += check_tolerance(subject.tolerance, values, accuracy)
    return Report(
        task=subject.task,
        compute=str(subject.compute),
        atol=subject.tolerance.atol,
        max_drop=subject.tolerance.max_drop,
        session=session_facts(session),
        graph=facts,
        values=values,
        accuracy=accuracy,
        findings=tuple(findings),
        rtol=subject.tolerance.rtol,
        texts=reading.check,
    )


def _check_zeros(facts: GraphFacts) -> list[str]:
    """Weights that the mask removes and the graph does not, and integers that are not the backbone's."""
    findings = []
    wanted, found = facts.mask_zeros, facts.removed
    if found != wanted:
        findings.append(
            f"the mask removes {wanted} weights, the graph has {found} zeros in their places"
        )
    if facts.wrong:
        findings.append(f"{facts.wrong} integers are not those of the backbone at their places")
    return findings


def _rows_of(subject: Subject) -> Split | None:
    """The evaluation rows; None if there are none."""
    split = subject.rows or evaluation_split(subject.entry, data=subject.data)
    if split is None and subject.reference is not None:
        raise DataError(
            f"there is no evaluation data to compare `{subject.reference}` on", "give its `data`"
        )
    return split


_ROUNDING = 1e-9  # .68 - .67, one row of a hundred, is 1.0000000000000009 points


def check_tolerance(
    tolerance: Tolerance, values: Sequence[ValueCheck], accuracy: AccuracyCheck | None
) -> list[str]:
    """Findings on differences outside the tolerance, one line each."""
    findings = []
    for check in values:
        where = f"values at batch {check.batch}, sequence {check.sequence}"
        findings += _too_far(tolerance, check, where)
    if accuracy is None:
        return findings
    findings += _too_far(tolerance, accuracy, "logits on the evaluation data")
    allowed = tolerance.allowed_drop(accuracy.rows)
    if not accuracy.drop <= allowed + _ROUNDING:
        findings.append(
            f"{accuracy.metric} drops by {accuracy.drop:.2f} points, tolerated {allowed:.2f}"
        )
    return findings


def _too_far(tolerance: Tolerance, check: ValueCheck | AccuracyCheck, where: str) -> list[str]:
    """Findings on a difference; `not <=` and not `>`, so that no NaN passes."""
    findings = []
    atol, rtol = tolerance.atol, tolerance.rtol
    if atol is not None and not check.max_diff <= atol:
        findings.append(f"{where} differ by {check.max_diff:.3g}, tolerated {atol:.3g}")
    if rtol is not None and not check.relative <= rtol:
        findings.append(
            f"{where} differ by {check.relative:.1%} of their size, tolerated {rtol:.1%}"
        )
    return findings


@dataclass(frozen=True, eq=False)
class _TorchAnswers:
    """What torch answers, before the graph is loaded.

    Attributes:
        shapes: each of `SHAPES` with its feeds and logits.
        rows: logits of the evaluation rows; None: there are none.
        reference: those of the reference; None: there is none.
    """

    shapes: tuple[tuple[tuple[int, int, bool], Feeds, NDArray[np.float32]], ...]
    rows: NDArray[np.float32] | None
    reference: NDArray[np.float32] | None


def _torch_answers(subject: Subject, reading: Reading, longest: int | None) -> _TorchAnswers:
    model = restore_task(subject.artifact, subject.task, for_answers=True)
    masked, encoder = torch_predict(model), subject.encoder
    shapes = []
    inputs, config = inputs_of(encoder.family), model.config.to_dict()
    some = [
        (batch, min(length, longest or length, _longest(subject, model.config, batch)), padded)
        for batch, length, padded in SHAPES
    ]
    for shape in inputs.shapes(encoder.family, config, some):
        feeds = inputs.random(encoder.family, config, shape)
        shapes.append((shape, feeds, masked(feeds)))
    encoded = reading.training if reading.device is not None else None
    rows = None if encoded is None else predict_all(masked, encoded)
    del model, masked
    wanted = None
    if encoded is not None and subject.reference is not None:
        wanted = _logits_of(subject.reference, subject, encoded)
    return _TorchAnswers(tuple(shapes), rows, wanted)


def _longest(subject: Subject, config: Any, batch: int) -> int:
    """Tokens of rows on which logits are compared at most: logits of all tokens of a vocabulary have to fit into memory."""
    if not type_of(subject.entry).decoder.fills:
        return SHAPES[-1][1]
    return max(1, int(MOST_LOGITS // (batch * config.vocab_size)))


def _check_values(
    subject: Subject,
    graph: Predict,
    shape: tuple[int, int, bool],
    feeds: Feeds,
    right: NDArray[np.float32],
) -> ValueCheck:
    """The graph on random inputs of one shape, beside torch; they are the same in every run."""
    left = graph(feeds)
    if left.shape != right.shape:
        return ValueCheck(*shape, float("inf"), 0, float("inf"))
    left, right = (_comparable(subject, without_padding(one, feeds)) for one in (left, right))
    difference = float(np.abs(left - right).max())
    decoder = type_of(subject.entry).decoder
    same = int(decoder.same(left, right).sum()) if decoder.labelled else shape[0]
    relative = relative_error(left, right, _least(subject))
    return ValueCheck(*shape, difference, same, relative)


def without_padding(logits: NDArray[np.float32], feeds: Feeds) -> NDArray[np.float32]:
    """Logits with zeros where tokens have some each, `(b, s, c)`, and a token is padding; others as they are.

    Nobody reads them there, and no value is the right one: the window of a padded token of ModernBERT may hold padding alone, of which
    each arithmetic makes another mean.
    """
    here = feeds.get(ATTENTION)
    if here is None or logits.ndim != 3 or logits.shape[:2] != here.shape:
        return logits
    return np.where(here[..., None] == 0, np.float32(0), logits)


def _comparable(subject: Subject, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of about size 1, as tolerances are: of a target with a scale, in the head's unit."""
    target = TargetScale.of(subject.entry)
    return logits if target is None else np.asarray(target.standard(logits))


def _least(subject: Subject) -> float:
    """Size of logits from which an error is a share of them: of a target with a scale, its standard deviation."""
    return 0.0 if TargetScale.of(subject.entry) is None else 1.0


def _check_accuracy(
    subject: Subject, reading: Reading, graph: Predict, torch_side: _TorchAnswers
) -> AccuracyCheck | None:
    """Metrics on the evaluation rows, if there are any: each side gets the tokens that it reads itself."""
    encoded, right, wanted = reading.training, torch_side.rows, torch_side.reference
    if encoded is None or reading.device is None or right is None:
        return None
    kind, metric = type_of(subject.entry), subject.entry.metric
    left = predict_all(graph, reading.device)

    def score(logits: NDArray[np.float32]) -> float:
        return compute_metrics(kind, logits, encoded.labels, [metric])[metric]

    scores = (score(left), score(right))
    answers = left if wanted is None else wanted
    same = kind.decoder.agreement(_comparable(subject, left), _comparable(subject, answers))
    left, right = _comparable(subject, left), _comparable(subject, right)
    agreement = kind.decoder.agreement(left, right)
    left, right = kind.measured(left), kind.measured(right)
    return AccuracyCheck(
        rows=len(kind.right(encoded.labels)),
        metric=metric,
        graph=scores[0],
        torch=scores[1],
        agreement=agreement,
        max_diff=float(np.abs(left - right).max()),
        reference=None if wanted is None else score(wanted),
        relative=relative_error(left, right, _least(subject)),
        reference_agreement=None if wanted is None else same,
    )


def _logits_of(reference: str, subject: Subject, encoded: Encoded) -> NDArray[np.float32]:
    if subject.files is not None:
        check_numbers_of_model(subject.files, reference)
    kind = type_of(subject.entry)
    model = load_dense(reference, kind)
    if model.config.num_labels != subject.entry.outputs:
        raise VerifyError(
            f"the reference `{reference}` has {model.config.num_labels} outputs, "
            f"the task has {subject.entry.outputs}"
        )
    readable = encoded.read_by(model.config.to_dict())
    return predict_all(torch_predict(set_pad_token(model, encoded.pad)), readable)
