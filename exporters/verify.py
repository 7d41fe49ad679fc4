"""Compare an exported graph in ONNX Runtime with its masked torch model.

In this order: names, axes, shapes, values, accuracy; zeros are counted from the file's own bytes. All
findings are collected, not the first. Raising is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.graph.builder import module_of
from maskpack.exporters.graph.editor import MASKS
from maskpack.exporters.graph.external_masks import Form, unstack_bits, unstack_flips
from maskpack.exporters.graph.trace import input_names
from maskpack.exporters.report import AccuracyCheck, GraphFacts, Report, ValueCheck
from maskpack.exporters.session import (
    Feeds,
    make_session,
    ort_predict,
    relative_error,
    session_facts,
)
from maskpack.formats import Artifact, DataError, ExportError, TaskEntry, VerifyError
from maskpack.formats.codec import Arrays, read_tensors
from maskpack.models.load import load_finetuned, set_pad_token
from maskpack.runtime.providers import Provider
from maskpack.runtime.session import check_task, load_inputs
from maskpack.runtime.task import FEEDS_SUFFIX, pick_task
from maskpack.tasks.batches import Encoded, Predict, predict_all, torch_predict
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.evaluation.evaluate import encode_for, evaluation_split
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.types import type_of

SHAPES = ((1, 1, False), (1, 7, False), (2, 16, True), (5, 33, True), (3, 128, True))
"""Batch, sequence, padded: shapes on which logits are compared; short encoders cut the sequence."""


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
    known = ARITHMETICS.values()
    plain = next(one.name for one in known if one.operator is None)
    return next((one.name for one in known if one.operator in kinds), plain)


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

    Raises:
        MaskpackError: a provider is not installed, or the graph or the evaluation data cannot be read at all.
    """
    if not subject.graph.is_file():
        raise VerifyError(f"no graph at `{subject.graph}`", "export the task first")
    adapter, own = subject.inputs or (None, {})
    session = make_session(adapter or subject.graph, providers=subject.providers)
    findings = _check_signature(session, subject)
    callable_as_said = not findings
    facts = graph_facts(subject, own)
    if facts.removed != facts.mask_zeros:
        findings.append(
            f"the mask removes {facts.mask_zeros} weights, "
            f"the graph has {facts.removed} zeros in their places"
        )
    values: tuple[ValueCheck, ...] = ()
    accuracy = None
    if callable_as_said:
        model = restore_task(subject.artifact, subject.task)
        graph, masked = ort_predict(session), torch_predict(model)
        values = tuple(
            _check_values(subject, graph, masked, model.config, shape) for shape in SHAPES
        )
        accuracy = _check_accuracy(subject, graph, masked)
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
    )


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


def _check_signature(session: Any, subject: Subject) -> list[str]:
    """Names, dynamic axes and widths of inputs and output."""
    findings = []
    expected = input_names(subject.encoder.family, subject.encoder.config)
    names = [value.name for value in session.get_inputs()]
    if names != expected:
        findings.append(f"inputs are {names}, expected {expected}")
    findings += [
        f"input `{value.name}` is {value.type} {value.shape}"
        for value in session.get_inputs()
        if list(value.shape) != ["batch", "sequence"] or value.type != "tensor(int64)"
    ]
    outputs = [(value.name, value.shape) for value in session.get_outputs()]
    wanted = [("logits", ["batch", subject.entry.outputs])]
    varies = [("logits", ["batch", "classes"])]  # if tasks of one graph differ in classes
    if outputs != wanted and (subject.inputs is None or outputs != varies):
        findings.append(f"outputs are {outputs}, expected logits of {subject.entry.outputs}")
    return findings


def _check_values(
    subject: Subject, graph: Predict, masked: Predict, config: Any, shape: tuple[int, int, bool]
) -> ValueCheck:
    """Both predictors on random tokens of one shape; the tokens are the same in every run."""
    batch, sequence, padded = shape
    sequence = min(sequence, subject.encoder.longest)
    feeds = _random_feeds(config, subject.encoder, batch, sequence, padded=padded)
    left, right = graph(feeds), masked(feeds)
    if left.shape != right.shape:
        return ValueCheck(batch, sequence, padded, float("inf"), 0, float("inf"))
    difference = float(np.abs(left - right).max())
    decoder = type_of(subject.entry).decoder
    same = int(decoder.same(left, right).sum()) if decoder.labelled else batch
    return ValueCheck(batch, sequence, padded, difference, same, relative_error(left, right))


def _random_feeds(
    config: Any, context: ModelContext, batch: int, sequence: int, *, padded: bool
) -> Feeds:
    rng = np.random.default_rng([batch, sequence])
    pad = config.pad_token_id or 0
    ids = rng.integers(0, config.vocab_size, (batch, sequence), dtype=np.int64)
    ids[ids == pad] = (pad + 1) % config.vocab_size
    attention = np.ones_like(ids)
    if padded:
        left = context.family.pad_left
        for row in range(1, batch):
            gap = row * sequence // (batch + 1)
            attention[row, slice(gap) if left else slice(sequence - gap, None)] = 0
        ids[attention == 0] = pad
    feeds = {"input_ids": ids, "attention_mask": attention}
    if kinds := context.family.token_kinds(context.config):
        feeds["token_type_ids"] = attention * rng.integers(0, kinds, ids.shape)
    return feeds


def _check_accuracy(subject: Subject, graph: Predict, masked: Predict) -> AccuracyCheck | None:
    """Metrics of graph, masked model and reference on the evaluation split, if there is data."""
    split = evaluation_split(subject.entry, data=subject.data)
    if split is None:
        if subject.reference is not None:
            raise DataError(
                f"there is no evaluation data to compare `{subject.reference}` on",
                "give its `data`",
            )
        return None
    encoded = encode_for(subject.encoder, subject.entry, split)
    kind, metric = type_of(subject.entry), subject.entry.metric
    left, right = predict_all(graph, encoded), predict_all(masked, encoded)

    def score(logits: NDArray[np.float32]) -> float:
        return compute_metrics(kind, logits, encoded.labels, [metric])[metric]

    finetuned = subject.reference
    return AccuracyCheck(
        rows=len(encoded),
        metric=metric,
        graph=score(left),
        torch=score(right),
        agreement=kind.decoder.agreement(left, right),
        max_diff=float(np.abs(left - right).max()),
        reference=None if finetuned is None else score(_logits_of(finetuned, subject, encoded)),
        relative=relative_error(left, right),
    )


def _logits_of(reference: str, subject: Subject, encoded: Encoded) -> NDArray[np.float32]:
    model = load_finetuned(reference, auto_class=type_of(subject.entry).auto_class)
    if model.config.num_labels != subject.entry.outputs:
        raise VerifyError(
            f"the reference `{reference}` has {model.config.num_labels} outputs, "
            f"the task has {subject.entry.outputs}"
        )
    readable = encoded.read_by(model.config.to_dict())
    return predict_all(torch_predict(set_pad_token(model, encoded.pad)), readable)


def graph_facts(subject: Subject, inputs: Mapping[str, NDArray[np.generic]]) -> GraphFacts:
    """Sizes, and the zeros of masks, read from a graph's file.

    Args:
        subject: the graph, and the task that it is of.
        inputs: values of the task that replace constants of the graph.
    """
    graph, artifact = subject.graph, subject.artifact
    model = onnx.load(str(graph))
    patch, base = artifact.patch(subject.task), subject.encoder.family.base
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    linears = {module_of(base, name): tensor for name, tensor in artifact.backbone.linears.items()}
    own = {name: to_array(tensors[name]) for name in tensors if name.startswith(f"{MASKS}.")}
    sizes = {name: tensor.codes.size for name, tensor in linears.items()}
    beside = _removed_by_masks({**own, **inputs}, sizes)
    codes = ARITHMETICS[subject.compute].codes

    def read(name: str) -> NDArray[Any] | None:
        return to_array(tensors[name]) if name in tensors else None

    zeros = removed = 0
    for name, mask in patch.masks.items():
        module = module_of(base, name)
        stored = codes(read, module, linears[module])
        if stored is None or stored.size != linears[module].codes.size:
            continue
        is_zero = (stored == 0) | beside.get(module, np.False_)
        zeros += int(is_zero.sum())
        removed += int((is_zero & ~np.ascontiguousarray(mask.to_bool().T).reshape(-1)).sum())
    return GraphFacts(
        bytes=graph.stat().st_size,
        nodes=len(model.graph.node),
        opset=next(item.version for item in model.opset_import if item.domain == ""),
        ir_version=model.ir_version,
        masked_weights=patch.count.weights,
        mask_zeros=patch.count.zeros,
        code_zeros=zeros,
        removed=removed,
    )


def _removed_by_masks(arrays: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Weights that a graph removes from shared codes, by module; empty for a folded graph."""
    if (flips := arrays.get(f"{MASKS}.{Form.FLIPS}")) is not None:
        return unstack_flips(flips, sizes)
    if (bits := arrays.get(f"{MASKS}.{Form.BITS}")) is not None:
        return unstack_bits(bits, sizes)
    return {}
