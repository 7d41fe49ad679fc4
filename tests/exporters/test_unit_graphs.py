"""Graphs of tasks with removed units: small matrices, the same function, in every family, layout and arithmetic."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from matrix import matrix
from onnx.numpy_helper import from_array, to_array
from torch import nn
from unit_kit import random_units, units_removed, without_units

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.arithmetic import find_arithmetic
from maskpack.exporters.bench.reference import float_graph, masked_graph
from maskpack.exporters.export import export_shared
from maskpack.exporters.graph.shrink import shrink
from maskpack.exporters.graph.units import ALL, Kept, Shrunk
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import Compute, Layout, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.exporters.session import make_session
from maskpack.exporters.verify import Subject, verify
from maskpack.formats import ExportError, QuantTensor, add_task, open_artifact
from maskpack.formats.reader import Artifact
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, UnitPart, Units
from maskpack.models.units import unit_groups
from maskpack.runtime import Session
from maskpack.tasks import find_task
from maskpack.tasks.context import task_config

FAMILIES = (
    *("bert", "albert", "gpt2", "roberta", "electra", "distilbert"),
    *("llama", "modernbert", "xlnet", "deberta-v2", "deberta-v2-own"),
)
EXACT = 1e-4  # of a logit; what fp32 graphs promise
CASES = [  # all of one family, and for the others a few that meet every pair: each case traces a graph
    case
    for case in matrix(FAMILIES, ["folded", "shared"], ["fp32", "int8", "nbits"], [8, 4])
    if not case.marks or case.values[0] == "bert"
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, family_models, sentiment):
    """`trained(kind, bits)`: an artifact of three steps; its masks remove single weights."""
    made: dict[tuple[str, int], Path] = {}

    def make(kind, bits=8):
        if (kind, bits) not in made:
            out = tmp_path_factory.mktemp("trained") / "artifact"
            config = FitConfig(
                bits=bits,
                group=0 if bits == 8 else 16,
                refine=0,
                steps=3,
                batch_size=16,
                max_length=16,
                precision="fp32",
                teacher="none",
                margin=0.5,
            )
            fit_task(
                FitRequest(str(family_models(kind)), find_task("sst2"), out, config, data=sentiment)
            )
            made[kind, bits] = out
        return made[kind, bits]

    return make


def export(artifact, out, layout="folded", compute="fp32", **options):
    """Export `sst2`; its report. The metric of an untrained encoder may drop freely."""
    way, tolerance = Compute(compute), Tolerance.of(Compute(compute), max_drop=100.0)
    if layout == "folded":
        return export_onnx(ExportRequest(artifact, "sst2", out, way, tolerance))
    request = SharedRequest(artifact, (), out, way, tolerance, layout=Layout(layout), **options)
    return export_shared(request)["sst2"]


def graph_of(folder):
    """The graph of `sst2` in an exported folder."""
    found = [folder / name for name in ("model.onnx", "sst2.onnx", "base.onnx")]
    return next(path for path in found if path.is_file())


IDS = np.random.default_rng(0).integers(5, 50, (3, 12), dtype=np.int64)
FEEDS = {
    "input_ids": IDS,
    "attention_mask": np.ones_like(IDS),
    "token_type_ids": np.zeros_like(IDS),
}


def logits(folder):
    """Answers to random tokens."""
    return make_session(graph_of(folder), threads=1).run(None, FEEDS)[0]


def arrays(folder):
    """Constants of a graph by name, those of files beside it as well."""
    model = onnx.load(str(graph_of(folder)))
    return {tensor.name: to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize(("kind", "layout", "compute", "bits"), CASES)
def test_a_graph_without_units_computes_what_the_masked_torch_model_does(
    trained, tmp_path, kind, layout, compute, bits
):
    """Two groups lost all of their units, the others half; single weights are masked as well."""
    with units_removed():
        report = export(trained(kind, bits), tmp_path / "out", layout, compute)
    assert report.ok, report.findings
    assert report.graph.removed == report.graph.mask_zeros > report.graph.left_out > 0
    assert report.graph.wrong == 0
    if compute == "fp32":
        assert max(check.max_diff for check in report.values) <= EXACT


@pytest.mark.parametrize("kind", FAMILIES[:3])
def test_an_fp16_graph_is_small_too(trained, tmp_path, kind):
    with units_removed():
        report = export(trained(kind), tmp_path / "out", compute="fp16")
    assert report.ok, report.findings
    assert report.graph.left_out > 0


def test_matrices_are_as_small_as_the_kept_units(trained, tmp_path):
    path = trained("bert")
    with units_removed(empty=1):
        export(path, tmp_path / "out", compute="int8")
        kept = open_artifact(path).patch("sst2").units.kept
    heads, neurons = (int(each.sum()) for each in kept[2:])
    stored = {name: array.shape for name, array in arrays(tmp_path / "out").items()}
    layer = "bert.encoder.layer.{}.{}.codes"
    assert (heads, neurons) == (2, 32)
    assert stored[layer.format(1, "attention.self.value")] == (32, heads * 8)
    assert stored[layer.format(1, "attention.output.dense")] == (heads * 8, 32)
    assert stored[layer.format(1, "intermediate.dense")] == (32, neurons)
    assert stored[layer.format(1, "output.dense")] == (neurons, 32)
    # of a layer that lost all units only biases are left
    assert not [name for name in stored if ".layer.0." in name and name.endswith(".codes")]


@pytest.mark.parametrize(
    ("kind", "layout"), [*((k, "folded") for k in FAMILIES), ("bert", "shared")]
)
def test_of_layers_without_units_biases_are_left(trained, tmp_path, kind, layout):
    """Every family without any unit: what is left are embeddings, biases, norms and the head."""
    with units_removed(empty=2):
        report = export(trained(kind), tmp_path / "out", layout, "fp32")
        linears = open_artifact(trained(kind)).backbone.linears
        groups = open_artifact(trained(kind)).patch("sst2").units.names
    assert report.ok, report.findings
    assert max(check.max_diff for check in report.values) <= EXACT
    assert report.graph.left_out == sum(linears[name].size for name in groups)
    model = onnx.load(str(graph_of(tmp_path / "out")), load_external_data=False)
    assert "Softmax" not in {node.op_type for node in model.graph.node}
    held = {tensor.name for tensor in model.graph.initializer}
    linears = tuple(name.removesuffix("weight") for name in groups)
    of_linears = {one for one in held if any(each in one for each in linears)}
    assert {one.rpartition(".")[2] for one in of_linears} <= {"bias"}


@pytest.mark.parametrize("empty", ["heads", "neurons"])
def test_a_layer_without_one_kind_of_units_keeps_the_other(trained, tmp_path, empty, monkeypatch):
    def some(groups, **_):
        kept = tuple(np.full(g.count, g.kind != empty or g.layer > 0) for g in groups)
        return Units(tuple(groups), kept)

    monkeypatch.setattr("unit_kit.random_units", some)
    with units_removed():
        report = export(trained("bert"), tmp_path / "out", compute="int8")
    assert report.ok, report.findings
    model = onnx.load(str(graph_of(tmp_path / "out")))
    nodes = [*model.graph.node]  # those of an attention are in a branch
    nodes += [own for node in model.graph.node for side in node.attribute for own in side.g.node]
    counts = [sum(n.op_type == kind for n in nodes) for kind in ("Softmax", "Erf")]
    assert counts == ([1, 2] if empty == "heads" else [2, 1])


def test_a_matrix_that_should_be_gone_is_found(trained, tmp_path):
    """A graph of a task that kept units is not one of a task that lost them all."""
    path = trained("bert")
    with units_removed(empty=0):
        export(path, tmp_path / "out", compute="int8")
    tolerance = Tolerance(atol=None, max_drop=100.0, rtol=1e9)
    with units_removed(empty=1):
        graph = graph_of(tmp_path / "out")
        report = verify(Subject(graph, open_artifact(path), "sst2", "int8", tolerance))
    assert not report.ok
    assert report.graph.removed < report.graph.mask_zeros


@pytest.mark.parametrize("layout", ["folded", "shared"])
@pytest.mark.parametrize("bits", [8, 4])
def test_integers_scales_and_divisors_are_those_of_zeros_in_place(trained, tmp_path, layout, bits):
    path = trained("bert", bits)
    with units_removed():
        export(path, tmp_path / "small", layout, "int8")
        units = open_artifact(path).patch("sst2").units
    with units_removed(known=False):
        report = export(path, tmp_path / "whole", compute="int8")
    assert report.graph.left_out == 0
    linears = open_artifact(path).backbone.linears
    shrunk = Shrunk.of(units, linears, find_arithmetic("int8").block)
    small, whole = arrays(tmp_path / "small"), arrays(tmp_path / "whole")
    for name, kept in shrunk.held.items():
        stem = f"bert.{name.removesuffix('.weight')}"
        scales = whole[f"{stem}.scales"]
        own = small[f"{stem}.scales"]
        if layout == "folded":
            np.testing.assert_array_equal(small[f"{stem}.codes"], kept.of(whole[f"{stem}.codes"]))
            np.testing.assert_array_equal(own, scales if kept.rows is None else scales[kept.rows])
        else:
            np.testing.assert_array_equal(own, scales)


def test_int8_answers_are_those_of_zeros_in_place_where_removed_units_have_no_bias(
    trained, tmp_path, monkeypatch
):
    """With a bias a removed unit still takes part in the range to which activations are rounded."""
    path, plain = trained("bert"), Artifact.patch

    def patch(self, task):
        own = plain(self, task)
        units = random_units(unit_groups(task_config(self, self.entry(task))))
        dense = dict(own.dense)
        for group, kept in zip(units.groups, units.kept, strict=True):
            for part in group.parts:
                name = part.name.removesuffix("weight") + "bias"
                if part.axis == ROWS:
                    bias = np.array(dense.get(name, self.backbone.dense[name]))
                    bias[part.entries(~kept)] = 0
                    dense[name] = bias
        found = without_units(replace(own, dense=dense), self.backbone, units)
        return found if known else replace(found, units=None)

    monkeypatch.setattr(Artifact, "patch", patch)
    for known in (True, False):
        export(path, tmp_path / f"known-{known}", compute="int8")
    small, whole = (logits(tmp_path / f"known-{known}") for known in (True, False))
    np.testing.assert_allclose(small, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("compute", ["fp32", "int8", "nbits"])
@pytest.mark.parametrize("bits", [8, 4])
def test_folded_and_shared_graphs_give_the_same_answers(trained, tmp_path, compute, bits):
    with units_removed():
        for layout in ("folded", "shared"):
            options = {"packed": True} if layout == "shared" else {}
            export(trained("bert", bits), tmp_path / layout, layout, compute, **options)
    folded, shared = (logits(tmp_path / layout) for layout in ("folded", "shared"))
    np.testing.assert_allclose(folded, shared, rtol=0, atol=1e-6)


def test_a_shared_graph_lists_rows_and_columns_over_a_whole_backbone(trained, tmp_path):
    path = trained("bert")
    with units_removed():
        export(path, tmp_path / "small", "shared", "int8")
    export(path, tmp_path / "whole", "shared", "int8")
    small, whole = (tmp_path / name / "backbone.bin" for name in ("small", "whole"))
    assert small.read_bytes() == whole.read_bytes()
    found = arrays(tmp_path / "small")
    lists = {name: array for name, array in found.items() if name.startswith("masks.kept")}
    # heads and neurons of the layer that has some: rows and columns of a group are one list
    assert sorted(len(one) for one in lists.values()) == [16, 32]
    kept = [int(np.unpackbits(found["masks.bits"]).sum())]
    kept.append(int(np.unpackbits(arrays(tmp_path / "whole")["masks.bits"]).sum()))
    assert kept[0] > kept[1]  # no mask removes what the lists leave out anyway


def test_tasks_with_units_and_without_share_a_backbone(trained, tmp_path, sentiment, family_models):
    path = tmp_path / "artifact"
    shutil.copytree(trained("bert"), path)
    config = FitConfig(
        bits=8, group=0, steps=3, batch_size=16, max_length=16, precision="fp32", teacher="none"
    )
    task = find_task("sst2")
    fit_task(
        FitRequest(str(family_models("bert")), task, path, config, data=sentiment, name="plain")
    )
    with units_removed(tasks=("sst2",)):
        report = export(path, tmp_path / "out", "shared", "fp32")
    assert report.ok, report.findings
    assert json.loads((tmp_path / "out/plain.maskpack_report.json").read_text())["ok"]
    session = Session(tmp_path / "out")
    assert len(session.predict(["the good film"], task="plain")) == 1


def test_an_artifact_that_stores_units_is_exported_small(trained, tmp_path):
    path, task = tmp_path / "artifact", "small"
    shutil.copytree(trained("bert"), path)
    artifact = open_artifact(path)
    entry = artifact.entry("sst2")
    units = random_units(unit_groups(task_config(artifact, entry)))
    patch = without_units(artifact.patch("sst2"), artifact.backbone, units)
    count, file = patch.count, f"tasks/{task}.safetensors"
    own = replace(entry, name=task, file=file, zeros=count.zeros, weights=count.weights)
    add_task(path, own, patch)
    tolerance = Tolerance.of(Compute.FP32, max_drop=100.0)
    report = export_onnx(ExportRequest(path, task, tmp_path / "out", Compute.FP32, tolerance))
    assert report.ok, report.findings
    assert report.graph.left_out > 0


def test_a_benchmark_takes_a_small_graph_apart(trained, tmp_path):
    """What `compress bench` compares with: the same weights as floats, and the masked model in its whole size."""
    path = trained("bert")
    with units_removed():
        export(path, tmp_path / "out", compute="fp32")
        whole = masked_graph(open_artifact(path), "sst2")
    small = float_graph(graph_of(tmp_path / "out"))
    assert len(small) < len(whole) * 0.8
    found = [make_session(data, threads=1).run(None, FEEDS)[0] for data in (small, whole)]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-4)


def test_swap_keeps_zeros_in_place_and_says_so(trained, tmp_path, caplog):
    with units_removed(), caplog.at_level(logging.WARNING):
        report = export(trained("bert"), tmp_path / "out", "swap", "fp32")
    assert report.ok, report.findings
    assert report.graph.left_out == 0
    assert "`sst2`" in caplog.text
    assert "no speed" in caplog.text


def test_a_plain_model_has_zeros_in_place(trained, tmp_path):
    path = trained("bert")
    with units_removed():
        artifact = open_artifact(path)
        model = write_hf(artifact, "sst2", tmp_path / "plain")
        zeros = artifact.patch("sst2").count.zeros
    assert model.zeros >= zeros
    assert model.parameters == write_hf(open_artifact(path), "sst2", tmp_path / "all").parameters


@pytest.fixture
def verified(trained, tmp_path):
    """`verified(change, layout, compute)`: the report on a graph whose constants were changed."""

    def run(change, layout="folded", compute="int8"):
        path = trained("bert")
        with units_removed():
            export(path, tmp_path / "out", layout, compute)
            model = onnx.load(str(graph_of(tmp_path / "out")), load_external_data=False)
            for tensor in model.graph.initializer:
                array = change(tensor.name)
                if array is not None:
                    old = to_array(tensor, str(tmp_path / "out")).copy()
                    tensor.CopyFrom(from_array(np.ascontiguousarray(array(old)), tensor.name))
            graph = graph_of(tmp_path / "out")
            graph.write_bytes(model.SerializeToString())
            tolerance = Tolerance(atol=None, max_drop=100.0, rtol=1e9)
            return verify(Subject(graph, open_artifact(path), "sst2", compute, tolerance))

    return run


def largest_plus_one(codes):
    flat = codes.reshape(-1)
    place = int(np.argmax(np.abs(flat.astype(np.int16))))
    flat[place] -= np.sign(flat[place])
    return codes


@pytest.mark.parametrize("compute", ["int8", "fp32"])
def test_one_changed_integer_of_a_small_matrix_is_found_whatever_the_tolerance(verified, compute):
    name = "bert.encoder.layer.1.intermediate.dense.codes"
    report = verified(lambda one: largest_plus_one if one == name else None, compute=compute)
    assert report.graph.wrong == 1
    assert report.findings == ("1 integers are not those of the backbone at their places",)


def test_rows_of_other_units_are_found(verified):
    name = "bert.encoder.layer.1.intermediate.dense.codes"
    report = verified(
        lambda one: (lambda codes: np.roll(codes, 1, axis=1)) if one == name else None
    )
    assert report.graph.wrong > 100


def test_another_list_of_kept_rows_is_found(verified):
    def change(name):
        return (lambda one: one[::-1]) if name.startswith("masks.kept") else None

    report = verified(change, "shared")
    assert report.graph.wrong > 0
    assert any("integers are not those" in finding for finding in report.findings)


def test_an_unchanged_graph_has_no_finding(verified):
    assert verified(lambda _: None).ok


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_packages_of_small_graphs_answer_as_their_originals(trained, tmp_path, target, layout):
    with units_removed():
        export(trained("bert"), tmp_path / "out", layout, "int8")
    write_package(PackageRequest(tmp_path / "out", tmp_path / "package", target))
    names = {path.suffix for path in (tmp_path / "package").iterdir()}
    assert (".ort" in names) == (target == Target.MOBILE)


def test_an_attention_that_counts_its_heads_otherwise_is_refused_by_name():
    base = nn.Module()
    base.attention = nn.Module()
    base.attention.query, base.attention.num_heads = nn.Linear(8, 8), 3
    part = UnitPart("attention.query.weight", ROWS, 0, 2)
    units = Units((UnitGroup("heads", 5, 4, (part,)),), (np.array([True, False, True, True]),))
    with pytest.raises(ExportError, match=r"`attention\.num_heads` is 3.* the 4 heads of layer 5"):
        shrink(base, Shrunk(units))


def matrix_of(bits, group, shape=(8, 64)):
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, shape).astype(np.int8)
    scales = rng.uniform(0.1, 1, (shape[0], -(-shape[1] // group))).astype(np.float32)
    return QuantTensor(codes, scales, bits, group)


def shrunk_of(tensor, width, kept, compute):
    """What is left of the columns of one linear."""
    parts = (UnitPart("a.weight", COLUMNS, 0, width),)
    group = UnitGroup("heads", 0, tensor.shape[1] // width, parts)
    units = Units((group,), (np.array(kept, dtype=np.bool_),))
    return Shrunk.of(units, {"a.weight": tensor}, find_arithmetic(compute).block)


def test_blocks_of_nbits_go_whole_or_stay_where_they_have_scales_of_their_own():
    grouped, rows = matrix_of(4, 32), matrix_of(4, 64)
    kept = [True, False, False, False]  # of 16 columns each
    assert shrunk_of(grouped, 16, kept, "nbits").units.kept[0].tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert shrunk_of(rows, 16, kept, "nbits").units.kept[0].tolist() == kept
    assert shrunk_of(grouped, 16, kept, "int8").units.kept[0].tolist() == kept


def test_a_group_without_units_keeps_one_and_a_task_that_removes_none_is_not_shrunk():
    tensor = matrix_of(8, 64)
    assert shrunk_of(tensor, 16, [False] * 4, "int8").units.kept[0].tolist() == [True] + [False] * 3
    assert shrunk_of(tensor, 16, [True] * 4, "int8") is None


@pytest.mark.parametrize("group", [64, 16, 24])
def test_the_tensor_of_kept_rows_and_columns_has_the_weights_of_the_whole(group):
    tensor = matrix_of(4, group)
    kept = Kept(np.array([1, 5, 6]), np.array([0, 3, 17, 40, 63]))
    wanted = tensor.dequantize()[np.ix_(kept.rows, kept.columns)]
    np.testing.assert_array_equal(kept.tensor(tensor).dequantize(), wanted)
    np.testing.assert_array_equal(ALL.tensor(tensor).dequantize(), tensor.dequantize())
    inside = kept.inside(np.ones(tensor.size, dtype=np.bool_), tensor.shape)
    assert inside.sum() == 15


def foreign(group):
    """Half a head, or a neuron without the rows that make it."""
    if group.kind == "heads":
        parts = tuple(replace(part, width=part.width // 2) for part in group.parts)
        return replace(group, count=2 * group.count, parts=parts)
    return replace(group, parts=tuple(part for part in group.parts if part.axis == COLUMNS))


@pytest.mark.parametrize("layout", ["folded", "shared"])
def test_units_that_are_none_of_the_model_stay_as_zeros(trained, tmp_path, layout):
    """A file may describe any rows and columns; only of the model's own groups a graph can leave something out."""
    with units_removed(change=foreign):
        report = export(trained("bert"), tmp_path / "out", layout, "fp32")
    assert report.ok, report.findings
    assert report.graph.left_out == 0
    assert report.graph.removed == report.graph.mask_zeros > 0
