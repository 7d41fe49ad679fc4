"""Several tasks over one file of weights: the same answers, and one copy of what they share."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from export_kit import KINDS, shared_request
from hypothesis import given
from hypothesis import strategies as st

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.external_masks import (
    Form,
    decode_flips,
    encode_flips,
    stack_bits,
    stack_flips,
    unstack_bits,
    unstack_flips,
)
from maskpack.exporters.options import Compute, Layout, SharedRequest
from maskpack.formats import ArtifactError, ConfigError, ExportError, open_artifact
from maskpack.formats.algebra import rename_task
from maskpack.runtime import Session
from maskpack.tasks import find_task

COMPUTES = ("fp32", "int8")


@given(st.lists(st.booleans(), max_size=40), st.lists(st.integers(0, 3000), max_size=6))
def test_flips_come_back(near, far):
    removed = np.array([*near, False], dtype=bool)
    for gap in far:
        removed = np.concatenate([removed, np.zeros(gap, dtype=bool), [True]])
    steps = encode_flips(removed)
    assert steps.dtype == np.uint8
    assert np.array_equal(decode_flips(steps, len(removed)), removed)


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=5))
def test_stacked_masks_come_back(matrices):
    removed = {str(place): np.array(gone) for place, gone in enumerate(matrices)}
    sizes = {name: gone.size for name, gone in removed.items()}
    steps, counts = stack_flips(removed)
    assert counts.sum() == len(steps)
    assert counts.tolist() == [int(gone.sum()) for gone in removed.values()]  # none is far
    for found in (unstack_flips(steps, sizes), unstack_bits(stack_bits(removed), sizes)):
        assert list(found) == list(removed)
        assert all(np.array_equal(found[name], removed[name]) for name in removed)


def test_a_far_step_counts_where_it_ends():
    removed = {"a": np.zeros(300, bool), "b": np.zeros(300, bool)}
    removed["b"][250] = True
    steps, counts = stack_flips(removed)
    assert steps.tolist() == [0, 0, 41]
    assert counts.tolist() == [1, 2]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute", COMPUTES)
def test_every_graph_is_within_its_tolerance_of_torch(shared, artifacts, kind, compute):
    _, reports = shared(kind, compute)
    tasks = open_artifact(artifacts[kind]).manifest.tasks
    assert set(reports) == set(tasks)
    for report in reports.values():
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > 0
        assert max(check.max_diff for check in report.values) < (1e-4 if compute == "fp32" else 0.5)


@pytest.mark.parametrize("kind", ["bert", "grouped"])
@pytest.mark.parametrize("compute", COMPUTES)
def test_masks_and_unpacking_fold_when_a_session_is_made(shared, tmp_path, kind, compute):
    """What runs is what the folded graph runs: no node that only touches constants is left."""
    out, _ = shared(kind, compute)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(out / "sst2.onnx"), options)
    left = onnx.load(str(tmp_path / "optimised.onnx"), load_external_data=False).graph
    constants = {tensor.name for tensor in left.initializer if tensor.dims}  # not an axis's length
    idle = [node for node in left.node if node.input and constants.issuperset(node.input)]
    assert not idle
    kinds = {node.op_type for node in left.node}
    assert not kinds & {"ScatterElements", "BitwiseAnd", "CumSum", "Split", "Round"}


def externals(graph):
    return {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in onnx.load(str(graph), load_external_data=False).graph.initializer
        if tensor.external_data
    }


@pytest.mark.parametrize("compute", COMPUTES)
def test_what_tasks_share_is_stored_once_on_pages_of_its_own(shared, compute):
    out, _ = shared("bert", compute)
    first, second = (externals(out / f"{task}.onnx") for task in ("sst2", "other"))
    assert first == second
    assert any(name.endswith("query.codes") for name in first)
    assert all(place["location"] == "backbone.bin" for place in first.values())
    assert all(int(place["offset"]) % 4096 == 0 for place in first.values())
    inside = onnx.load(str(out / "sst2.onnx"), load_external_data=False).graph.initializer
    own = {tensor.name for tensor in inside if not tensor.external_data}
    assert any("classifier" in name for name in own)
    assert not any("query" in name and name.endswith(".codes") for name in own)


@pytest.mark.parametrize("compute", COMPUTES)
def test_one_task_alone_has_the_same_bytes_as_among_others(shared, artifacts, tmp_path, compute):
    out, _ = shared("bert", compute)
    alone = shared_request(artifacts["bert"], tmp_path / "x", compute, ("other",), verify=False)
    assert export_shared(alone) == {}
    for name in ("backbone.bin", "other.onnx", "other.json"):
        assert (tmp_path / "x" / name).read_bytes() == (out / name).read_bytes()
    assert not (tmp_path / "x" / "sst2.onnx").exists()


@pytest.fixture
def trained(tiny_model, sentiment, tmp_path):
    """`learned(**options)`: an artifact with a task learned with them."""

    def make(**options):
        usual = {
            "steps": 12,
            "batch_size": 16,
            "max_length": 16,
            "precision": "fp32",
            "teacher": "none",
            "bits": 8,
        }
        config = FitConfig(**{**usual, **options})
        fit_task(
            FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment)
        )
        return tmp_path / "a"

    return make


@pytest.mark.parametrize("compute", COMPUTES)
def test_no_where_is_of_a_type_that_the_runtime_has_no_kernel_for(trained, tmp_path, compute):
    """ONNX Runtime has none for int8: 1.20 and older refuse such a graph."""
    artifact = trained(margin=1.3)
    export_shared(shared_request(artifact, tmp_path / "out", compute, verify=False))
    held = onnx.load(str(tmp_path / "out" / "sst2.onnx"), load_external_data=False)
    graph = onnx.shape_inference.infer_shapes(held, strict_mode=True).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    types |= {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    chosen = [
        types[name] for node in graph.node if node.op_type == "Where" for name in node.input[1:]
    ]
    assert onnx.TensorProto.INT32 in chosen
    assert not {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} & set(chosen)


OWN = {"train_scales": True, "train_bias": True, "train_norm": True, "margin": 1.3}


@pytest.mark.parametrize(
    ("options", "form", "compute"),
    [
        ({"sparsity": 0.5}, Form.BITS, "fp32"),
        ({"sparsity": 0.5}, Form.BITS, "int8"),
        ({"bits": 2, "group": 16, "refine": 2, "margin": 1.3}, Form.FLIPS, "fp32"),
        ({"bits": 1, "group": 16, "refine": 2, "sparsity": 0.4}, Form.BITS, "int8"),
        ({"bits": 4, "group": 24, "margin": 1.3}, Form.FLIPS, "fp32"),  # does not divide a row
        ({"bits": 4, "group": 24, "margin": 1.3}, Form.FLIPS, "int8"),
        (OWN, Form.FLIPS, "fp32"),
        (OWN, Form.FLIPS, "int8"),
    ],
)
def test_every_kind_of_task_is_right(trained, tmp_path, options, form, compute):
    artifact = trained(**options)
    (report,) = export_shared(shared_request(artifact, tmp_path / "out", compute)).values()
    assert report.ok, report.findings
    held = onnx.load(str(tmp_path / "out" / "sst2.onnx"), load_external_data=False)
    names = {tensor.name for tensor in held.graph.initializer}
    assert f"masks.{form}" in names


def test_a_session_answers_with_every_task(shared):
    session = Session(shared("bert", "int8")[0])
    assert session.tasks == ("other", "sst2")
    answers = [session.predict(["good", "bad film"], task=task) for task in session.tasks]
    assert answers[0] != answers[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "backbone.bin").write_bytes(b"x" * 5000),
            "is not what `sst2.onnx`",
        ),
        (lambda folder: (folder / "sst2.onnx").write_bytes(b"noise"), "cannot load"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_the_runtime_sees_it(
    shared, tmp_path, change, message
):
    folder = shutil.copytree(shared("bert", "int8")[0], tmp_path / "x")
    session = Session(folder)
    change(folder)
    with pytest.raises(ExportError, match=message):
        session.predict(["good"], task="sst2")


def test_weights_outside_the_folder_are_not_looked_for(shared, tmp_path):
    folder = shutil.copytree(shared("bert", "int8")[0], tmp_path / "x")
    config = json.loads((folder / "sst2.json").read_text())
    (folder / "sst2.json").write_text(json.dumps({**config, "weights_file": "../backbone.bin"}))
    with pytest.raises(ExportError, match="`weights_file` is neither `backbone.bin` nor"):
        Session(folder)


def test_what_cannot_be_exported_leaves_nothing(artifacts, tmp_path):
    with pytest.raises(ArtifactError, match="has no task `third`"):
        export_shared(shared_request(artifacts["bert"], tmp_path / "x", tasks=("third",)))
    with pytest.raises(ConfigError, match="named twice"):
        shared_request(artifacts["bert"], tmp_path / "x", tasks=("sst2", "sst2"))
    for tasks in ((), ("sst2", "other")):
        spare = shared_request(artifacts["bert"], tmp_path / "x", tasks=tasks, data={"x": tmp_path})
        with pytest.raises(ConfigError, match="data of `x`, which is not exported"):
            export_shared(spare)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("layout", [Layout.SHARED, Layout.SWAP], ids=str)
def test_each_task_is_judged_on_rows_of_its_own(artifacts, sentiment, tmp_path, layout):
    few = tmp_path / "few.tsv"
    lines = (sentiment / "dev.tsv").read_text().splitlines()
    few.write_text("\n".join(lines[:6]))
    request = shared_request(
        artifacts["bert"], tmp_path / "x", data={"sst2": sentiment, "other": few}, layout=layout
    )
    reports = export_shared(request)
    rows = {task: report.accuracy.rows for task, report in reports.items()}
    assert rows == {"sst2": len(lines) - 1, "other": 5}
    told = json.loads((tmp_path / "x" / "other.maskpack_report.json").read_text())
    assert told["accuracy"]["rows"] == 5


def test_a_task_without_rows_is_judged_by_its_values(artifacts, sentiment, tmp_path):
    reports = export_shared(
        shared_request(artifacts["bert"], tmp_path / "x", data={"sst2": sentiment})
    )
    assert reports["sst2"].accuracy is not None
    assert (reports["other"].accuracy, reports["other"].ok) == (None, True)


def test_a_task_does_not_replace_a_file_of_the_tokenizer(artifacts, tmp_path):
    artifact = shutil.copytree(artifacts["bert"], tmp_path / "a")
    rename_task(artifact, "other", "tokenizer")
    with pytest.raises(ExportError, match="would replace the tokenizer's `tokenizer.json`"):
        export_shared(shared_request(artifact, tmp_path / "x", verify=False))
    assert not (tmp_path / "x").exists()


def test_a_graph_outside_its_tolerance_is_kept_under_a_name_that_says_so(artifacts, tmp_path):
    strict = SharedRequest(
        artifacts["bert"], ("sst2",), tmp_path / "x", Compute.INT8, Tolerance(1e-9, 0.0)
    )
    (report,) = export_shared(strict).values()
    assert not report.ok
    assert (tmp_path / "x.failed" / "backbone.bin").is_file()
    assert not (tmp_path / "x").exists()
