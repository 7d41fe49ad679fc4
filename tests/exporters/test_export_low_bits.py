"""Graphs of 2- and 1-bit backbones, and of patches with own values, gains and masks over some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
import pytest

from maskpack.exporters import (
    Compute,
    ExportRequest,
    Subject,
    Tolerance,
    export_onnx,
    make_session,
    ort_predict,
)
from maskpack.exporters.arithmetic.nbits import blocking_of, from_blocks
from maskpack.exporters.graph.builder import GraphBuilder
from maskpack.exporters.verify import verify
from maskpack.formats import (
    BitMask,
    ExportError,
    Patch,
    QuantTensor,
    create_artifact,
    open_artifact,
)
from maskpack.formats.channels import channel_weights
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import ModelContext, restore_task

LAST = "encoder.layer.1.output.dense.weight"
EXACT = Tolerance(1e-4, 100.0)
NEAR = Tolerance(None, 100.0, rtol=0.5)


@dataclass(frozen=True)
class Case:
    """What a backbone is made of, and what its patch changes."""

    bits: int
    zero_free: bool
    group: int | None = None  # None: one scale a row
    masks: str = "all"
    own: bool = False  # dense values and gains
    last: int | None = None  # bits of the last linear, where they differ


CASES = {
    "odds": Case(2, True),
    "signs": Case(1, True),
    "threes": Case(2, False),
    "odds in groups": Case(2, True, 16, "some", own=True),
    "signs in groups": Case(1, True, 8, own=True),
    "signs, uneven": Case(1, True, 20, "some", own=True),
    "signs, own": Case(1, True, None, "some", own=True),
    "odds, no mask": Case(2, True, None, "none", own=True),
    "mixed": Case(1, True, None, "some", own=True, last=8),
}
BLOCKED = [name for name, case in CASES.items() if case.group not in {8, 20}]
EVERY = [
    (name, compute)
    for compute in Compute
    for name in (BLOCKED if compute is Compute.NBITS else CASES)
]
every_case = pytest.mark.parametrize("case", CASES)


def quantise(weights, bits, group, *, zero_free):
    """Nearest codes of a kind, with scales by the mean magnitude of a group."""
    width = weights.shape[1]
    group = group or width
    starts = np.arange(0, width, group)
    sums = np.add.reduceat(np.abs(weights), starts, axis=1)
    scales = sums / np.diff([*starts, width]) / (2 if bits == 2 and zero_free else 1)
    if bits > 2:
        scales = np.maximum.reduceat(np.abs(weights), starts, axis=1) / (2 ** (bits - 1) - 1)
    scales = scales.astype(np.float16)
    ratio = weights / np.repeat(scales.astype(np.float32), group, axis=1)[:, :width]
    limit = 2**bits - 1 if zero_free else 2 ** (bits - 1) - 1
    codes = 2 * np.floor(ratio / 2) + 1 if zero_free else np.rint(ratio)
    codes = np.clip(codes, -limit, limit).astype(np.int8)
    return QuantTensor(codes, scales, bits, group, zero_free)


def make_patch(case, backbone, head):
    """Masks that keep five weights in six, values and gains of the task's own."""
    rng = np.random.default_rng(5)
    names = {"all": list(backbone.linears), "none": []}.get(case.masks, list(backbone.linears)[::3])
    masks = {
        name: BitMask.from_bool(rng.random(backbone.linears[name].shape) < 5 / 6) for name in names
    }
    if not case.own:
        return Patch(masks, head)
    dense = {
        name: (value + rng.normal(0, 0.1, value.shape)).astype(np.float16)
        for name, value in list(backbone.dense.items())[::2]
    }
    gains = {
        name: rng.uniform(0.5, 1.5, tensor.shape[0]).astype(np.float16)
        for name, tensor in list(backbone.linears.items())[::2]
    }
    return Patch(masks, head, dense, gains)


@pytest.fixture(scope="module")
def made(tmp_path_factory, artifacts):
    """`made(name)`: the artifact of a case, with a BERT's weights in low bits."""
    root = tmp_path_factory.mktemp("low")
    old = open_artifact(artifacts["bert"])

    @cache
    def make(name):
        case = CASES[name]
        linears = {}
        for param, tensor in old.backbone.linears.items():
            bits = case.last if case.last and param == LAST else case.bits
            free = case.zero_free and bits <= 2
            linears[param] = quantise(tensor.dequantize(), bits, case.group, zero_free=free)
        backbone = replace(old.backbone, linears=linears)
        # not the learned head: after a few steps its logits are hardly larger than rounding errors
        rng = np.random.default_rng(3)
        head = {
            key: rng.normal(0, 0.3, value.shape).astype(np.float16)
            for key, value in old.patch("sst2").head.items()
        }
        patch = make_patch(case, backbone, head)
        entry = replace(old.entry("sst2"), zeros=patch.count.zeros, weights=patch.count.weights)
        return create_artifact(
            root / name.replace(" ", "-"),
            backbone,
            source=old.manifest.source,
            scheme=replace(old.manifest.scheme, bits=case.bits),
            files={file: old.file(file) for file in old.manifest.files},
            first=(entry, patch),
        )

    return make


@pytest.fixture(scope="module")
def graph(tmp_path_factory, made, sentiment):
    """`graph(name, compute)`: the exported folder of a case and its report."""
    root = tmp_path_factory.mktemp("graphs")

    @cache
    def export(name, compute):
        out = root / f"{name.replace(' ', '-')}-{compute}"
        tolerance = EXACT if compute is Compute.FP32 else NEAR
        path = made(name).path
        report = export_onnx(ExportRequest(path, "sst2", out, compute, tolerance, sentiment))
        assert report.ok, report.findings
        return out / "model.onnx", report

    return export


def arrays_of(path):
    tensors = onnx.load(str(path)).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


def codes_in(arrays, parameter, tensor):
    """The codes of a linear as its graph holds them, `(i, o)` flat or not."""
    if (blocks := arrays.get(f"{stem(parameter)}.blocks")) is not None:
        return from_blocks(blocks, blocking_of(parameter, tensor))
    stored = arrays.get(f"{stem(parameter)}.weight")  # of fp16: floats
    return arrays[f"{stem(parameter)}.codes"] if stored is None else stored


def stem(parameter):
    return f"bert.{parameter.removesuffix('.weight')}"


def names_of(session):
    return [value.name for value in session.get_inputs()]


@every_case
def test_the_float_graph_equals_the_restored_model(made, graph, tokens, case):
    path, report = graph(case, Compute.FP32)
    assert max(check.max_diff for check in report.values) <= 1e-4
    session = make_session(path, threads=1)
    masked = torch_predict(restore_task(made(case), "sst2"))
    for batch, sequence in ((1, 1), (4, 16), (7, 33)):
        feeds = tokens(names_of(session), batch, sequence, padded=True)
        found = ort_predict(session)(feeds)
        np.testing.assert_allclose(found, masked(feeds), rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", [name for name in CASES if name not in BLOCKED])
def test_groups_that_are_no_blocks_are_refused_in_our_words(made, tmp_path, case):
    request = ExportRequest(made(case).path, "sst2", tmp_path / "x", Compute.NBITS, NEAR)
    with pytest.raises(ExportError, match=r"has a scale for each (8|20) weights"):
        export_onnx(request)
    assert not (tmp_path / "x").exists()


@every_case
def test_the_integer_graph_is_near_the_restored_model(made, graph, tokens, case):
    path, report = graph(case, Compute.INT8)
    assert max(check.relative for check in report.values) <= 0.25
    session = make_session(path, threads=1)
    masked = torch_predict(restore_task(made(case), "sst2"))
    for batch, sequence in ((1, 1), (5, 24)):
        feeds = tokens(names_of(session), batch, sequence, padded=True)
        np.testing.assert_allclose(ort_predict(session)(feeds), masked(feeds), rtol=0, atol=0.3)


@pytest.mark.parametrize(("case", "compute"), EVERY)
def test_every_removed_weight_is_a_zero_and_only_masked_linears_count(made, graph, case, compute):
    path, report = graph(case, compute)
    patch, facts, arrays = made(case).patch("sst2"), report.graph, arrays_of(path)
    wanted = sum(int((~mask.to_bool()).sum()) for mask in patch.masks.values())
    assert (facts.mask_zeros, facts.removed) == (wanted, wanted)
    assert facts.masked_weights == sum(mask.to_bool().size for mask in patch.masks.values())
    assert (facts.masked_weights > 0) == (CASES[case].masks != "none")
    linears = made(case).backbone.linears
    held = {name: codes_in(arrays, name, linears[name]) for name in patch.masks}
    assert facts.code_zeros == sum(int((array == 0).sum()) for array in held.values())
    for name, mask in patch.masks.items():
        assert not held[name].reshape(mask.shape[::-1]).T[~mask.to_bool()].any()


@pytest.mark.parametrize(
    ("case", "compute"), [one for one in EVERY if one[0] not in {"threes", "mixed"}]
)
def test_zero_free_codes_have_no_zero_but_the_masks(graph, case, compute):
    facts = graph(case, compute)[1].graph
    assert facts.code_zeros == facts.mask_zeros


@every_case
def test_the_float_graph_holds_the_codes_and_scales_of_the_task(made, graph, case):
    arrays = arrays_of(graph(case, Compute.FP32)[0])
    own = made(case).patch("sst2").over(made(case).backbone)
    forms = set()
    for name, tensor in own.linears.items():
        codes, scales = arrays[f"{stem(name)}.codes"], arrays[f"{stem(name)}.scales"]
        assert codes.dtype == np.int8
        np.testing.assert_array_equal(codes.reshape(tensor.shape[::-1]).T, tensor.codes)
        np.testing.assert_array_equal(scales.reshape(-1, tensor.shape[0]).T, tensor.scales)
        forms.add(codes.ndim == 2)
    assert forms == {case == "signs, uneven"}  # 20 divides neither 32 nor 64


@every_case
def test_the_integer_graph_keeps_codes_wherever_a_row_has_one_scale(made, graph, case):
    arrays, artifact = arrays_of(graph(case, Compute.INT8)[0]), made(case)
    patch = artifact.patch("sst2")
    own = replace(patch, masks={}).over(artifact.backbone)
    divisors = GraphBuilder(artifact, ModelContext.of_artifact(artifact), Compute.INT8).divisors
    kept = 0
    for name, tensor in own.linears.items():
        divisor = divisors.get(f"bert.{name}")
        weights = channel_weights(tensor, divisor)
        mask = patch.masks.get(name)
        keep = np.ones(tensor.shape, bool) if mask is None else mask.to_bool()
        np.testing.assert_array_equal(arrays[f"{stem(name)}.codes"], weights.codes * keep.T)
        np.testing.assert_array_equal(arrays[f"{stem(name)}.scales"], weights.scales)
        if divisor is None and CASES[case].group is None:
            kept += 1
            np.testing.assert_array_equal(weights.codes.T, tensor.codes)
    assert (kept > 0) == (CASES[case].group is None)


@pytest.mark.parametrize("compute", list(Compute))
def test_own_values_take_the_place_of_the_backbones(made, graph, compute):
    arrays, artifact = arrays_of(graph("signs, own", compute)[0]), made("signs, own")
    patch, seen = artifact.patch("sst2"), 0
    assert patch.dense
    for name, shared in artifact.backbone.dense.items():
        wanted = patch.dense.get(name, shared).astype(np.float32)
        found = arrays[f"model.bert.{name}"]
        np.testing.assert_array_equal(found, wanted)
        seen += name in patch.dense
    assert seen == len(patch.dense)


@pytest.mark.parametrize("part", ["gains", "dense", "masks"])
@pytest.mark.parametrize("compute", list(Compute))
def test_a_graph_that_forgot_a_part_of_the_patch_is_found(
    made, graph, tmp_path, sentiment, part, compute
):
    artifact = made("signs, own")
    less = replace(artifact.patch("sst2"), **{part: {}})
    entry = replace(artifact.entry("sst2"), zeros=less.count.zeros, weights=less.count.weights)
    other = create_artifact(
        tmp_path / "less",
        artifact.backbone,
        source=artifact.manifest.source,
        scheme=artifact.manifest.scheme,
        files={file: artifact.file(file) for file in artifact.manifest.files},
        first=(entry, less),
    )
    out, tolerance = tmp_path / "out", replace(NEAR, rtol=None)
    export_onnx(ExportRequest(other.path, "sst2", out, compute, tolerance, verify=False))
    strict = EXACT if compute is Compute.FP32 else Tolerance.of(compute, max_drop=100.0, rtol=0.15)
    forgot = verify(Subject(out / "model.onnx", artifact, "sst2", compute, strict, sentiment))
    assert any("differ by" in line for line in forgot.findings)
    if part == "masks":
        assert any("zeros in their places" in line for line in forgot.findings)
    right = verify(Subject(graph("signs, own", compute)[0], artifact, "sst2", compute, strict))
    assert right.ok, right.findings


def test_requantising_may_round_a_code_to_0_and_the_count_at_the_masks_places_stays_right():
    codes = np.array([[3, -1, 1, 1], [1, 1, -1, 3]], dtype=np.int8)
    scales = np.array([[1.0, 0.003], [0.5, 0.5]], dtype=np.float16)
    tensor = QuantTensor(codes, scales, 2, 2, zero_free=True)
    keep = np.array([[1, 0, 1, 1], [1, 1, 1, 0]], dtype=bool)
    found = channel_weights(BitMask.from_bool(keep).apply(tensor)).codes.T
    # 1 * 0.003 is less than half a step of 3 * 1.0 / 127
    assert found.tolist() == [[127, 0, 0, 0], [127, 127, -127, 0]]
    assert not found[~keep].any()
    assert int((found == 0).sum()) > int((~keep).sum())


def test_a_graph_with_codes_rounded_to_0_passes_and_counts_them_apart(
    made, artifacts, tmp_path, sentiment
):
    sound, old = made("signs in groups"), open_artifact(artifacts["bert"])
    linears = dict(sound.backbone.linears)
    scales = linears[LAST].scales.copy()
    scales[:, 0] *= np.float16(0.001)
    linears[LAST] = replace(linears[LAST], scales=scales)
    artifact = create_artifact(
        tmp_path / "faint",
        replace(sound.backbone, linears=linears),
        source=old.manifest.source,
        scheme=old.manifest.scheme,
        files={file: old.file(file) for file in old.manifest.files},
        first=(sound.entry("sst2"), sound.patch("sst2")),
    )
    request = ExportRequest(artifact.path, "sst2", tmp_path / "out", Compute.INT8, NEAR, sentiment)
    report = export_onnx(request)
    assert report.ok, report.findings
    facts = report.graph
    assert facts.code_zeros > facts.removed == facts.mask_zeros > 0
