"""Compare an exported graph with the masked torch model it came from, in ONNX Runtime.

In this order: names, axes, shapes, values, accuracy; zeros are counted from the file's own bytes. All
findings are collected, not the first. Raising is the caller's choice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from maskpack.exporters.arithmetic.nbits import NBITS_OP, blocking_of, from_blocks
from maskpack.exporters.graph.builder import module_of
from maskpack.exporters.graph.editor import MASKS
from maskpack.exporters.graph.external_masks import Form, unstack_bits, unstack_flips
from maskpack.exporters.graph.trace import input_names
from maskpack.exporters.options import Compute, Tolerance
from maskpack.exporters.report import AccuracyCheck, GraphFacts, Report, ValueCheck
from maskpack.exporters.session import (
    Feeds,
    agreement,
    make_session,
    ort_predict,
    relative_error,
    same_answers,
    session_facts,
)
from maskpack.formats import (
    Artifact,
    DataError,
    ExportError,
    Patch,
    QuantTensor,
    TaskEntry,
    VerifyError,
)
from maskpack.formats.bits import unpack_codes
from maskpack.formats.schema import CONFIG
from maskpack.formats.tensorfile import Arrays, read_tensors
from maskpack.models.families import family_of, longest_input, token_kinds
from maskpack.models.load import load_finetuned, set_pad_token
from maskpack.runtime.session import check_task, load_inputs
from maskpack.runtime.task import FEEDS_SUFFIX, pick_task
from maskpack.tasks.context import restore_task
from maskpack.tasks.evaluation.evaluate import encode_for, evaluation_split
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.evaluation.predict import Predict, predict_all, torch_predict

GRAPH = "model.onnx"

SHAPES = ((1, 1, False), (1, 7, False), (2, 16, True), (5, 33, True), (3, 128, True))
"""Batch, sequence, padded: what the values are compared on; short encoders cut the sequence."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A graph and what it is compared with.

    Attributes:
        graph: its file.
        artifact: where it came from.
        task: its task.
        compute: the arithmetic it claims.
        tolerance: how far it may be off.
        data: evaluation data, if the task's does not ship with the package.
        reference: a fine-tuned model to score as well.
        inputs: what makes a graph of all tasks this one: an adapter, and its values by name.
    """

    graph: Path
    artifact: Artifact
    task: str
    compute: Compute
    tolerance: Tolerance
    data: Path | None = None
    reference: str | None = None
    inputs: tuple[Path, Arrays] | None = None

    @property
    def entry(self) -> TaskEntry:
        """The task's entry in the manifest."""
        return self.artifact.entry(self.task)


_TELLING = {"MatMulInteger": Compute.INT8, NBITS_OP: Compute.NBITS}
"""Operator -> the arithmetic of a graph that has it."""


def compute_of(graph: Path) -> Compute:
    """The arithmetic of an exported graph, read from its operators.

    Raises:
        VerifyError: no graph there, or not one.
    """
    if not graph.is_file():
        raise VerifyError(f"no graph at `{graph}`", "make it with `compress export --onnx`")
    try:
        model = onnx.load(str(graph), load_external_data=False)
    except DecodeError as error:
        raise VerifyError(f"`{graph}` is not an ONNX graph: {error}") from error
    kinds = {node.op_type for node in model.graph.node}
    return next((compute for kind, compute in _TELLING.items() if kind in kinds), Compute.FP32)


def exported(folder: Path, task: str) -> tuple[Path, tuple[Path, Arrays] | None]:
    """The graph of a task in an exported folder, and what a graph of all tasks takes to be it.

    Raises:
        ConfigError: no such task there.
        ExportError: no exported task there, or files that do not belong together.
    """
    place = pick_task(folder, task)
    config = place.read_config()
    check_task(place, config)
    if place.adapter is None:
        return place.graph, None
    load_inputs(place, config)  # the adapter is the one that the card tells of
    feeds = place.adapter.with_suffix(FEEDS_SUFFIX)
    try:
        return place.graph, (place.adapter, dict(read_tensors(feeds.read_bytes())[0]))
    except OSError as error:
        raise ExportError(f"cannot read `{feeds}`: {error.strerror}") from error


def verify(subject: Subject) -> Report:
    """Run every check and return the report.

    Raises:
        MaskpackError: the graph or the evaluation data cannot be read at all.
    """
    if not subject.graph.is_file():
        raise VerifyError(f"no graph at `{subject.graph}`", "make it with `compress export --onnx`")
    adapter, own = subject.inputs or (None, {})
    session = make_session(adapter or subject.graph)
    findings = _check_signature(session, subject)
    callable_as_said = not findings
    facts = graph_facts(subject.graph, subject.artifact, subject.task, own)
    if facts.removed != facts.mask_zeros:
        findings.append(
            f"the mask removes {facts.mask_zeros} weights, "
            f"the graph has {facts.removed} zeros in their places"
        )
    values: tuple[ValueCheck, ...] = ()
    accuracy = None
    if callable_as_said:
        graph = ort_predict(session)
        model = restore_task(subject.artifact, subject.task)
        masked = torch_predict(model)
        kind = subject.entry.kind
        values = tuple(_check_values(graph, masked, model.config, kind, one) for one in SHAPES)
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
    """What lies outside the tolerance, one line each."""
    findings = [
        line
        for check in values
        for line in _too_far(
            tolerance,
            check.max_diff,
            check.relative,
            f"values at batch {check.batch}, sequence {check.sequence}",
        )
    ]
    if accuracy is None:
        return findings
    findings += _too_far(
        tolerance, accuracy.max_diff, accuracy.relative, "logits on the evaluation data"
    )
    allowed = tolerance.allowed_drop(accuracy.rows)
    if not accuracy.drop <= allowed + _ROUNDING:
        findings.append(
            f"{accuracy.metric} drops by {accuracy.drop:.2f} points, tolerated {allowed:.2f}"
        )
    return findings


def _too_far(tolerance: Tolerance, largest: float, relative: float, where: str) -> list[str]:
    """Findings on a difference; `not <=` and not `>`, so that no NaN passes."""
    findings = []
    if tolerance.atol is not None and not largest <= tolerance.atol:
        findings.append(f"{where} differ by {largest:.3g}, tolerated {tolerance.atol:.3g}")
    if tolerance.rtol is not None and not relative <= tolerance.rtol:
        findings.append(
            f"{where} differ by {relative:.1%} of their size, tolerated {tolerance.rtol:.1%}"
        )
    return findings


def _check_signature(session: Any, subject: Subject) -> list[str]:
    """Names, dynamic axes and widths of inputs and output."""
    findings = []
    expected = input_names(json.loads(subject.artifact.file(CONFIG)))
    found = [value.name for value in session.get_inputs()]
    if found != expected:
        findings.append(f"inputs are {found}, expected {expected}")
    findings += [
        f"input `{value.name}` is {value.type} {value.shape}"
        for value in session.get_inputs()
        if list(value.shape) != ["batch", "sequence"] or value.type != "tensor(int64)"
    ]
    outputs = [(value.name, value.shape) for value in session.get_outputs()]
    wanted = [("logits", ["batch", subject.entry.outputs])]
    varies = [("logits", ["batch", "classes"])]  # where tasks of one graph differ in classes
    if outputs != wanted and (subject.inputs is None or outputs != varies):
        findings.append(f"outputs are {outputs}, expected logits of {subject.entry.outputs}")
    return findings


def _check_values(
    graph: Predict, masked: Predict, config: Any, kind: str, shape: tuple[int, int, bool]
) -> ValueCheck:
    """Both predictors on random tokens of one shape; the tokens are the same in every run."""
    batch, sequence, padded = shape
    sequence = min(sequence, longest_input(config.to_dict()))
    feeds = _random_feeds(config, batch, sequence, padded=padded)
    left, right = graph(feeds), masked(feeds)
    if left.shape != right.shape:
        return ValueCheck(batch, sequence, padded, float("inf"), 0, float("inf"))
    difference = float(np.abs(left - right).max())
    same = batch if left.shape[1] == 1 else int(same_answers(left, right, kind=kind).sum())
    return ValueCheck(batch, sequence, padded, difference, same, relative_error(left, right))


def _random_feeds(config: Any, batch: int, sequence: int, *, padded: bool) -> Feeds:
    rng = np.random.default_rng([batch, sequence])
    pad = config.pad_token_id or 0
    ids = rng.integers(0, config.vocab_size, (batch, sequence), dtype=np.int64)
    ids[ids == pad] = (pad + 1) % config.vocab_size
    attention = np.ones_like(ids)
    if padded:
        left = family_of(config.model_type).pad_left
        for row in range(1, batch):
            gap = row * sequence // (batch + 1)
            attention[row, slice(gap) if left else slice(sequence - gap, None)] = 0
        ids[attention == 0] = pad
    feeds = {"input_ids": ids, "attention_mask": attention}
    if kinds := token_kinds(config.to_dict()):
        feeds["token_type_ids"] = attention * rng.integers(0, kinds, ids.shape)
    return feeds


def _check_accuracy(subject: Subject, graph: Predict, masked: Predict) -> AccuracyCheck | None:
    """Scores of graph, masked model and reference on the evaluation split, if it can be had."""
    split = evaluation_split(subject.entry, data=subject.data)
    if split is None:
        if subject.reference is not None:
            raise DataError(
                f"there is no evaluation data to compare `{subject.reference}` on",
                "give it with `--data PATH`",
            )
        return None
    encoded = encode_for(subject.artifact, subject.entry, split)
    metric = subject.entry.metric
    left, right = predict_all(graph, encoded), predict_all(masked, encoded)
    reference = None
    if subject.reference is not None:
        finetuned = load_finetuned(subject.reference)
        _check_reference(finetuned, subject)
        readable = encoded.read_by(finetuned.config.to_dict())
        logits = predict_all(torch_predict(set_pad_token(finetuned, encoded.pad)), readable)
        reference = compute_metrics(logits, encoded.labels, [metric])[metric]
    return AccuracyCheck(
        rows=len(encoded),
        metric=metric,
        graph=compute_metrics(left, encoded.labels, [metric])[metric],
        torch=compute_metrics(right, encoded.labels, [metric])[metric],
        agreement=agreement(left, right, kind=subject.entry.kind),
        max_diff=float(np.abs(left - right).max()),
        reference=reference,
        relative=relative_error(left, right),
    )


def _check_reference(model: Any, subject: Subject) -> None:
    if model.config.num_labels != subject.entry.outputs:
        raise VerifyError(
            f"the reference `{subject.reference}` has {model.config.num_labels} outputs, "
            f"the task has {subject.entry.outputs}"
        )


def graph_facts(
    graph: Path, artifact: Artifact, task: str, inputs: Mapping[str, NDArray[np.generic]]
) -> GraphFacts:
    """Sizes and counts, read from the file itself.

    Args:
        graph: its file.
        artifact: where it came from.
        task: its task.
        inputs: what the task gives the graph in place of its own constants.
    """
    model = onnx.load(str(graph))
    patch: Patch = artifact.patch(task)
    base = family_of(artifact.manifest.source.model_type).base
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    linears = {module_of(base, name): tensor for name, tensor in artifact.backbone.linears.items()}
    own = {name: to_array(tensors[name]) for name in tensors if name.startswith(f"{MASKS}.")}
    sizes = {name: tensor.codes.size for name, tensor in linears.items()}
    beside = _removed_by_masks({**own, **inputs}, sizes)
    zeros = removed = 0
    for name, mask in patch.masks.items():
        module = module_of(base, name)
        found = _zeros_of(tensors, module, linears[module])
        if found is None:
            continue
        if module in beside:
            found = found | beside[module]
        zeros += int(found.sum())
        removed += int((found & ~np.ascontiguousarray(mask.to_bool().T).reshape(-1)).sum())
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


def _zeros_of(
    tensors: Mapping[str, onnx.TensorProto], module: str, tensor: QuantTensor
) -> NDArray[np.bool_] | None:
    """Where a module's constant codes are 0, flat in the graph's order; None if they are not there."""
    if f"{module}.blocks" in tensors:
        blocking = blocking_of(module, tensor)
        codes = from_blocks(to_array(tensors[f"{module}.blocks"]), blocking).reshape(-1)
    elif f"{module}.codes" in tensors:
        codes = to_array(tensors[f"{module}.codes"]).reshape(-1)
    elif f"{module}.fields" in tensors:
        packed = to_array(tensors[f"{module}.fields"])[None]
        codes = unpack_codes(packed, tensor.bits, tensor.codes.size, zero_free=tensor.zero_free)[0]
    else:
        return None
    if codes.size != tensor.codes.size:
        return None
    zeros: NDArray[np.bool_] = codes == 0
    return zeros


def _removed_by_masks(arrays: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """What a graph removes from codes that it shares, by module; nothing in a folded one."""
    if (flips := arrays.get(f"{MASKS}.{Form.FLIPS}")) is not None:
        return unstack_flips(flips, sizes)
    if (bits := arrays.get(f"{MASKS}.{Form.BITS}")) is not None:
        return unstack_bits(bits, sizes)
    return {}
