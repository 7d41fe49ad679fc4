"""Graphs of large models, here of tiny ones that are taken for large: files, values, and answers."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch

from maskpack.exporters import verify as verify_module
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.graph import store
from maskpack.exporters.options import ExportRequest, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ExportError, open_artifact, tensors
from maskpack.models.linears import layer_of
from maskpack.models.outline import build_outline, fill_weights
from maskpack.runtime import Session
from maskpack.runtime.task import GRAPH, GRAPH_DATA
from maskpack.tasks.context import restore_task, task_config

COMPUTES = ("int8", "fp32", "nbits", "fp16")
TEXTS = ["the film was good", "bad and sad"]


@pytest.fixture
def large(monkeypatch):
    """Every backbone is a large one, and every graph has its constants beside it."""
    monkeypatch.setattr(tensors, "MOST_UNPACKED", 0)
    monkeypatch.setattr(store, "MOST_INLINE", 0)


def export(artifact, out, compute, sentiment):
    request = ExportRequest(
        artifact, "sst2", out, compute, Tolerance.of(compute), data=sentiment / "dev.tsv"
    )
    return export_onnx(request)


def values_of(folder):
    graph = onnx.load(str(folder / GRAPH))
    return {one.name: onnx.numpy_helper.to_array(one) for one in graph.graph.initializer}


@pytest.mark.parametrize("compute", COMPUTES)
def test_constants_beside_a_graph_are_those_inside_it(
    compute, tiny_artifact, sentiment, tmp_path, monkeypatch
):
    inside = export(tiny_artifact, tmp_path / "in", compute, sentiment)
    monkeypatch.setattr(tensors, "MOST_UNPACKED", 0)
    monkeypatch.setattr(store, "MOST_INLINE", 0)
    beside = export(tiny_artifact, tmp_path / "out", compute, sentiment)
    assert inside.ok
    assert beside.ok
    own, other = values_of(tmp_path / "in"), values_of(tmp_path / "out")
    assert list(own) == list(other)
    for name, value in own.items():
        assert (value.dtype, value.shape) == (other[name].dtype, other[name].shape), name
        assert value.tobytes() == other[name].tobytes(), name
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in (tmp_path / "in").iterdir()} | {GRAPH_DATA}
    assert beside.graph.removed == inside.graph.removed > 0
    assert beside.graph.bytes == (tmp_path / "out" / GRAPH).stat().st_size
    assert beside.graph.bytes < inside.graph.bytes
    task = json.loads((tmp_path / "out" / "task.json").read_text())
    data = (tmp_path / "out" / GRAPH_DATA).read_bytes()
    assert (task["weights_file"], task["weights_sha256"]) == (
        GRAPH_DATA,
        hashlib.sha256(data).hexdigest(),
    )
    answers = [
        [each.scores for each in Session(tmp_path / name).predict(TEXTS)] for name in ("in", "out")
    ]
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("large")
def test_a_file_of_constants_that_changed_is_refused(tiny_artifact, sentiment, tmp_path):
    export(tiny_artifact, tmp_path / "out", "int8", sentiment)
    path = tmp_path / "out" / GRAPH_DATA
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    with pytest.raises(ExportError, match=GRAPH_DATA):
        Session(tmp_path / "out").predict(TEXTS)
    path.unlink()
    with pytest.raises(ExportError, match="cannot read"):
        Session(tmp_path / "out").predict(TEXTS)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_layouts_that_share_weights_are_the_same_files(
    layout, tiny_artifact, sentiment, tmp_path, monkeypatch
):
    def files(out):
        data = {"sst2": sentiment / "dev.tsv"}
        tolerance = Tolerance.of("int8")
        request = SharedRequest(
            tiny_artifact, ("sst2",), out, "int8", tolerance, layout=layout, data=data
        )
        assert all(report.ok for report in export_shared(request).values())
        return {path.name: path.read_bytes() for path in out.iterdir() if "report" not in path.name}

    taken_for_large = files(tmp_path / "large")
    monkeypatch.setattr(tensors, "MOST_UNPACKED", 2**28)
    monkeypatch.setattr(store, "MOST_INLINE", 2**29)
    assert files(tmp_path / "small") == taken_for_large


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("target", [Target.ORT, Target.WEB, Target.MOBILE])
def test_a_package_brings_the_constants_along(target, tiny_artifact, sentiment, tmp_path):
    export(tiny_artifact, tmp_path / "out", "int8", sentiment)
    write_package(PackageRequest(tmp_path / "out", tmp_path / "package", target))
    names = {path.name for path in (tmp_path / "package").rglob("*") if path.is_file()}
    assert (GRAPH_DATA in names) == (target is not Target.MOBILE)


@pytest.mark.usefixtures("large")
def test_layers_of_a_large_model_are_filled_while_they_compute(tiny_artifact, monkeypatch):
    artifact = open_artifact(tiny_artifact)
    model, filled = restore_task(artifact, "sst2", for_answers=True), []
    integers = {f"bert.{name}" for name in artifact.backbone.linears}

    def look(*_):
        there = {n for n, p in model.named_parameters() if n in integers and p.stride() != (0, 0)}
        filled.append({layer_of(name) for name in there})

    for layer in model.bert.encoder.layer:
        layer.attention.register_forward_pre_hook(look)
    feeds = {"input_ids": torch.tensor([[2, 6, 7, 3]]), "attention_mask": torch.ones(1, 4).long()}
    with torch.inference_mode():
        found = model(**feeds).logits
    look()
    assert filled == [{None, 0}, {None, 1}, {None}]
    monkeypatch.setattr(tensors, "MOST_UNPACKED", 2**28)
    with torch.inference_mode():
        assert torch.equal(restore_task(artifact, "sst2")(**feeds).logits, found)


def test_an_outline_holds_no_integer_weight(tiny_artifact):
    artifact = open_artifact(tiny_artifact)
    config = task_config(artifact, artifact.entry("sst2"))
    model = build_outline(artifact.backbone, config)
    for name in artifact.backbone.linears.keys() | artifact.backbone.embeddings.keys():
        parameter = model.bert.get_parameter(name)
        assert parameter.untyped_storage().nbytes() == 4
        assert not parameter.any()
    for name, value in artifact.backbone.dense.items():
        assert np.array_equal(model.bert.get_parameter(name).detach().numpy(), value)
    fill_weights(model, artifact.backbone)
    for name, tensor in artifact.backbone.linears.items():
        assert np.array_equal(model.bert.get_parameter(name).detach().numpy(), tensor.dequantize())


def test_torch_has_answered_before_the_graph_is_loaded(
    tiny_artifact, sentiment, tmp_path, monkeypatch
):
    order = []
    for name in ("_torch_answers", "make_session"):
        whole = getattr(verify_module, name)

        def noted(*args, name=name, whole=whole, **options):
            order.append(name)
            return whole(*args, **options)

        monkeypatch.setattr(verify_module, name, noted)
    export(tiny_artifact, tmp_path / "out", "int8", sentiment)
    assert order == ["_torch_answers", "make_session"]
