"""Products on blocks of 4-bit codes: what is stored, what is computed, where it is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from export_kit import KINDS, shared_request
from hypothesis import given
from hypothesis import strategies as st

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.arithmetic.nbits import (
    NBITS_OP,
    Blocking,
    blocking_of,
    float_weight,
    from_blocks,
    to_blocks,
)
from maskpack.exporters.bench.reference import float_graph
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.options import Compute, ExportRequest, Layout
from maskpack.exporters.session import make_session, ort_predict
from maskpack.formats import ConfigError, ExportError, QuantTensor
from maskpack.runtime import Session
from maskpack.tasks import find_task

TEXTS = ["the good film", "bad", "we were very happy and the food was great"]


def tensor(outputs, inputs, bits, group):
    rng = np.random.default_rng(3)
    limit = 2 ** (bits - 1) - 1
    codes = rng.integers(-limit, limit + 1, (outputs, inputs), dtype=np.int8)
    if bits == 1:
        codes = rng.choice(np.array([-1, 1], dtype=np.int8), (outputs, inputs))
    scales = rng.uniform(0.1, 1, (outputs, -(-inputs // group))).astype("f2")
    return QuantTensor(codes, scales, bits, group, zero_free=bits == 1)


@given(
    st.integers(1, 5),
    st.integers(1, 70),
    st.sampled_from([(4, 16), (4, 32), (8, 16)]),
    st.integers(0, 9),
)
def test_blocks_give_the_codes_back(outputs, inputs, kind, seed):
    bits, size = kind
    blocking = Blocking(outputs, inputs, bits, size)
    limit = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(seed)
    codes = rng.integers(-limit, limit + 1, (inputs, outputs), dtype=np.int8)
    stored = to_blocks(codes, blocking)
    assert stored.shape == (outputs, -(-inputs // size), size * bits // 8)
    np.testing.assert_array_equal(from_blocks(stored, blocking), codes)


@pytest.mark.parametrize(
    ("inputs", "bits", "group", "size", "stored"),
    [
        (64, 4, 16, 16, 4),
        (64, 2, 48, 16, 4),
        (96, 1, 32, 32, 4),
        (384, 4, 64, 64, 4),
        (384, 8, 384, 128, 8),
        (48, 8, 48, 32, 8),
        (10, 4, 10, 16, 4),  # one block, padded
        (512, 4, 256, 128, 4),
    ],
)
def test_blocks_are_the_largest_with_one_scale(inputs, bits, group, size, stored):
    one = tensor(3, inputs, bits, group)
    blocking = blocking_of("w", one)
    assert (blocking.size, blocking.bits) == (size, stored)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("inputs", "group"), [(64, 16), (60, 32), (33, 33)])
def test_blocks_stand_for_the_weights(bits, inputs, group):
    from maskpack.exporters.arithmetic.nbits import block_scales

    one = tensor(5, inputs, bits, group)
    blocking = blocking_of("w", one)
    stored = to_blocks(one.codes.T, blocking)
    weight = float_weight(stored, block_scales(one, blocking), blocking)
    np.testing.assert_array_equal(weight, one.dequantize().T)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_a_graph_is_near_torch_and_removes_what_the_mask_does(exported, shared, kind, layout):
    if layout == "folded":
        report = exported(kind, "nbits").report
    else:
        report = shared(kind, "nbits")[1]["sst2"]
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > 0
    assert max(check.max_diff for check in report.values) < 0.5


@pytest.mark.parametrize("kind", ["bert", "grouped", "albert"])
def test_layouts_are_one_function(exported, shared, artifacts, tmp_path, tokens, kind):
    wide = tmp_path / "wide"
    export_shared(shared_request(artifacts[kind], wide, "nbits", packed=False, verify=False))
    folded = make_session(exported(kind, "nbits").graph)
    names = [value.name for value in folded.get_inputs()]
    for shape in ((1, 1), (2, 7), (5, 33)):
        feeds = tokens(names, *shape, padded=shape[0] > 1)
        wanted = ort_predict(folded)(feeds)
        for folder in (shared(kind, "nbits")[0], wide):
            found = ort_predict(make_session(folder / "sst2.onnx"))(feeds)
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_four_bits_lie_in_the_file_as_four(exported):
    one = exported("grouped", "nbits")
    arrays = one.arrays()
    for name, linear in one.artifact.backbone.linears.items():
        blocks = arrays[f"{one.stem(name)}.blocks"]
        assert blocks.dtype == np.uint8
        assert blocks.nbytes == linear.codes.size / 2
        assert f"{one.stem(name)}.codes" not in arrays
    kinds = [node.op_type for node in one.proto().graph.node]
    assert kinds.count(NBITS_OP) == len(one.artifact.backbone.linears)
    assert "MatMulInteger" not in kinds


def test_packing_folds_when_a_session_is_made(shared, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(shared("grouped", "nbits")[0] / "sst2.onnx"), options)
    left = onnx.load(str(tmp_path / "optimised.onnx"), load_external_data=False).graph
    constants = {tensor.name for tensor in left.initializer if tensor.dims}  # not an axis's length
    assert not [node for node in left.node if node.input and constants.issuperset(node.input)]
    assert not {node.op_type for node in left.node} & {"ScatterElements", "BitwiseAnd", "Pad"}


@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_its_twin_is_the_masked_model(exported, shared, tokens, layout):
    exact = exported("grouped", "fp32").graph
    folder = shared("grouped", "nbits")[0]
    graph = exported("grouped", "nbits").graph if layout == "folded" else folder / "sst2.onnx"
    twin, exact = make_session(float_graph(graph)), make_session(exact)
    feeds = tokens([value.name for value in exact.get_inputs()], 3, 11, padded=True)
    np.testing.assert_allclose(ort_predict(twin)(feeds), ort_predict(exact)(feeds), atol=1e-5)


def test_a_text_does_not_depend_on_its_batch_mates(exported):
    session = Session(exported("grouped", "nbits").folder)
    together = session.predict(TEXTS)
    for text, answer in zip(TEXTS, together, strict=True):
        alone = session.predict([text])[0]
        assert alone.scores == pytest.approx(answer.scores, abs=1e-5)


@pytest.mark.parametrize("bits", [2, 1])
def test_a_mask_over_zero_free_codes_still_fits(tiny_model, sentiment, tmp_path, bits):
    options = {
        "steps": 12,
        "batch_size": 16,
        "max_length": 16,
        "precision": "fp32",
        "teacher": "none",
        "refine": 2,
    }
    config = FitConfig(bits=bits, group=16, sparsity=0.2, **options)
    task, out = find_task("sst2"), tmp_path / "a"
    fit_task(FitRequest(str(tiny_model), task, out, config, data=sentiment))
    tolerance = Tolerance.of(Compute.NBITS, max_drop=100.0, rtol=0.5)
    request = ExportRequest(out, "sst2", tmp_path / "x", Compute.NBITS, tolerance, data=sentiment)
    report = export_onnx(request)
    assert report is not None
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > 0


def test_groups_that_are_no_blocks_are_refused():
    with pytest.raises(ExportError, match="`w` has a scale for each 24 weights"):
        blocking_of("w", tensor(3, 48, 4, 24))


def test_the_swap_layout_has_no_constant_weights_to_block(artifacts, tmp_path):
    with pytest.raises(ConfigError, match="the swap layout masks them in every run"):
        shared_request(artifacts["bert"], tmp_path / "x", "nbits", layout=Layout.SWAP)
