"""Images: ViT, DeiT and DINOv2 learn a mask and are exported in every layout; graphs answer as torch and transformers do."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from image_kit import COLOURS, GATED, KINDS, make_image_model, picture, write_images
from PIL import Image
from unit_kit import units_removed

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.exporters.bench.unit_costs import unit_costs_of
from maskpack.exporters.graph.attention import OPERATOR, FuseAttention
from maskpack.exporters.graph.trace import trace
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import CostRequest
from maskpack.exporters.readings import read_rows
from maskpack.exporters.session import make_session
from maskpack.formats import ConfigError, DataError, ModelError, open_artifact
from maskpack.formats.unit_costs import UnitCosts
from maskpack.models.families import family_of
from maskpack.models.load import load_pretrained
from maskpack.runtime import Session, materialize
from maskpack.runtime.images import ImageRule
from maskpack.runtime.readers import ImageReader
from maskpack.runtime.task import pick_task
from maskpack.tasks import find_task
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.evaluation.evaluate import assess, evaluation_split

EXACT = Tolerance(1e-4, 0.0)


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("pets"))


@pytest.fixture(scope="module")
def task():
    return find_task("pets", text_field="image", label_field="label", kind="image-classification")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return cache(lambda kind: make_image_model(kind, root / kind))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory, models, pets, task, quick):
    """`artifacts(kind)`: one with two tasks over one backbone."""
    root = tmp_path_factory.mktemp("artifacts")

    @cache
    def made(kind):
        for name, seed in (("pets", 0), ("again", 1)):
            config = quick(steps=60, seed=seed)
            own = replace(task, name=name)
            fit_task(FitRequest(str(models(kind)), own, root / kind, config, data=pets))
        return root / kind

    return made


def pictures(count=5):
    rng = np.random.default_rng(7)
    return [picture(label, rng) for _ in range(count) for label in COLOURS]


def torch_logits(artifact, images):
    """What transformers' own processor and the masked model make of images."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(artifact.path, use_fast=False)
    model = restore_task(artifact, "pets")
    with torch.no_grad():
        return model(**processor(images, return_tensors="pt")).logits.numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_is_learned_and_the_folded_graph_answers_as_torch(kind, artifacts, pets, tmp_path):
    artifact = open_artifact(artifacts(kind))
    assert assess(artifact, "pets", data=pets).scores["accuracy"] == 1.0
    patch = artifact.patch("pets")
    assert patch.count.zeros > 0
    assert all(name.startswith("encoder.layer.") for name in patch.masks), "linears alone"
    assert "embeddings.patch_embeddings.projection.weight" in artifact.backbone.dense

    request = ExportRequest(artifact.path, "pets", tmp_path / "g", "fp32", EXACT, data=pets)
    report = export_onnx(request)
    assert report.ok, report.findings
    assert {check.batch for check in report.values} == {1, 2, 3, 5}
    assert report.texts.same
    (value,) = onnx.load(str(tmp_path / "g" / "model.onnx")).graph.input
    sizes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
    assert (value.name, sizes) == ("pixel_values", ["batch", 3, 8, 8])

    images = pictures()
    session = Session(tmp_path / "g")
    np.testing.assert_allclose(
        session.logits(images, batch_size=3), torch_logits(artifact, images), atol=1e-5
    )
    assert [one.label for one in session.predict(images)] == ["cat", "dog"] * 5


@pytest.mark.parametrize(
    ("kind", "layout", "compute"),
    [
        ("vit", "shared", "fp32"),
        ("vit", "swap", "int8"),
        ("deit", "shared", "int8"),
        ("deit", "swap", "fp32"),
        ("dinov2", "shared", "int8"),
        ("dinov2", "swap", "fp32"),
    ],
)
def test_tasks_share_weights(kind, layout, compute, artifacts, pets, tmp_path):
    data = {"pets": pets, "again": pets}
    # random weights: what int8 changes on noise says nothing, its answers to images do
    tolerance = EXACT if compute == "fp32" else Tolerance(None, 0.0)
    request = SharedRequest(
        artifacts(kind), (), tmp_path / "g", compute, tolerance, data=data, layout=layout
    )
    for report in export_shared(request).values():
        assert report.ok, report.findings
        assert report.accuracy.agreement == 1.0
    session = Session(tmp_path / "g")
    for name in data:
        answers = session.predict(pictures(), task=name)
        assert [one.label for one in answers] == ["cat", "dog"] * 5
    assert not (tmp_path / "g" / "tokenizer.json").exists()


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_tasks_stand_on_a_trunk(kind, models, pets, task, quick, tmp_path):
    data = {"pets": pets, "again": pets}
    for name in data:
        own = replace(task, name=name)
        config = quick(steps=60, trunk=1, seed=len(name))
        fit_task(FitRequest(str(models(kind)), own, tmp_path / "a", config, data=pets))
    request = SharedRequest(
        tmp_path / "a", (), tmp_path / "g", "fp32", EXACT, data=data, layout="trunk"
    )
    for report in export_shared(request).values():
        assert report.ok, report.findings
    session = Session(tmp_path / "g")
    found = session.predict_all(pictures())
    for name in data:
        assert [one[name] for one in found] == session.predict(pictures(), task=name)
        assert [one[name].label for one in found] == ["cat", "dog"] * 5


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vit", {"bits": 2, "refine": 20}),
        ("dinov2", {"bits": 1, "refine": 20}),
        ("deit", {"bits": 4, "quantizer": "gptq"}),
    ],
)
def test_codes_are_calibrated_on_images_of_the_task(
    kind, options, models, pets, task, quick, tmp_path
):
    config = quick(steps=60, group=16, **options)
    run = fit_task(FitRequest(str(models(kind)), task, tmp_path / "a", config, data=pets))
    assert run.scores["accuracy"] > run.majority["accuracy"]
    artifact = open_artifact(tmp_path / "a")
    assert artifact.manifest.scheme.bits == options["bits"]
    assert {tensor.bits for tensor in artifact.backbone.linears.values()} == {options["bits"]}
    request = ExportRequest(artifact.path, "pets", tmp_path / "g", "fp32", EXACT, data=pets)
    report = export_onnx(request)
    assert report.ok, report.findings


@pytest.mark.parametrize("bits", [2, 1])
def test_refined_codes_copy_the_float_model_on_images(bits, models, pets, tmp_path):
    """Hidden states of the last layer on images that were not seen are nearer with refined codes; a folder gives the images."""
    folder, dev = pets / "train", pets / "validation"
    model = str(models("vit"))
    apart = {}
    for refine in (0, 150):
        config = BackboneConfig(bits=bits, group=16, refine=refine, calibration=str(folder))
        artifact = make_backbone(model, tmp_path / f"{refine}", config)
        float_model = load_pretrained(model).model.eval()
        rule = ImageRule.of_json(artifact.file("preprocessor_config.json"))
        paths = sorted(path for path in dev.rglob("*") if path.is_file())
        values = torch.from_numpy(rule.values(np.stack([rule.pixels(path) for path in paths])))
        coded = copy.deepcopy(float_model)
        parameters = dict(coded.named_parameters())
        with torch.no_grad():
            for name, tensor in artifact.backbone.linears.items():
                parameters[name].copy_(torch.from_numpy(tensor.dequantize()))
            for name, array in artifact.backbone.dense.items():
                parameters[name].copy_(torch.from_numpy(array.astype(np.float32)))
            states = [one(pixel_values=values).last_hidden_state for one in (float_model, coded)]
        apart[refine] = float((states[0] - states[1]).square().mean() / states[0].var())
    assert apart[150] < 0.8 * apart[0], apart


def test_int8_divides_by_peaks_on_images_that_are_made_up(artifacts, pets, tmp_path):
    request = ExportRequest(
        artifacts("vit"), "pets", tmp_path / "g", "int8", Tolerance(None, 0.0), data=pets
    )
    report = export_onnx(request)
    assert report.ok
    nodes = [node.op_type for node in onnx.load(str(tmp_path / "g" / "model.onnx")).graph.node]
    assert nodes.count("MatMulInteger") == 12, "six linears of two layers"
    assert "Conv" in nodes, "patches are embedded in float"


@pytest.mark.parametrize(
    ("kind", "compute"), [("vit", "fp16"), ("dinov2", "fp16"), ("deit", "nbits")]
)
def test_other_arithmetic(kind, compute, artifacts, pets, tmp_path):
    request = ExportRequest(
        artifacts(kind), "pets", tmp_path / "g", compute, Tolerance(0.05, 0.0), data=pets
    )
    report = export_onnx(request)
    assert report.ok, report.findings
    (value,) = onnx.load(str(tmp_path / "g" / "model.onnx")).graph.input
    assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def folded(artifacts, pets, tmp_path_factory):
    out = tmp_path_factory.mktemp("folded") / "g"
    export_onnx(ExportRequest(artifacts("deit"), "pets", out, "fp32", EXACT, data=pets))
    return out


def test_what_a_row_may_be(folded, tmp_path):
    (image, *_) = pictures()
    image.save(tmp_path / "a.png")
    forms = [image, np.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png")]
    forms.append((tmp_path / "a.png").read_bytes())
    found = Session(folded).logits(forms)
    assert (found == found[0]).all()


def test_many_images_are_read_some_at_a_time(folded, monkeypatch):
    images, session = pictures(), Session(folded)
    wanted, answers = session.logits(images), session.predict(images)
    held = []
    usual = ImageReader.encode_each
    monkeypatch.setattr(ImageReader, "most", 4)
    monkeypatch.setattr(
        ImageReader, "encode_each", lambda self, rows: held.append(len(rows)) or usual(self, rows)
    )
    np.testing.assert_allclose(session.logits(images), wanted, atol=1e-6)
    found = session.predict(images)
    assert held == [4, 4, 2]
    assert [one.label for one in found] == [one.label for one in answers]


def test_an_image_that_cannot_be_read_stops_no_other(folded, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no image")
    session, good = Session(folded), pictures(1)[0]
    found = session.predict_each([good, tmp_path / "no.png", good])
    assert [type(one) for one in found] == [type(found[0]), DataError, type(found[0])]
    with pytest.raises(DataError, match="^row 2: image `.*no.png` is no image that Pillow reads"):
        session.predict([good, tmp_path / "no.png"])
    with pytest.raises(DataError, match="row 1: an array of float64"):
        session.predict([np.zeros((4, 4, 3))])


SCRIPT = """
import sys
from maskpack.runtime import Session
print(Session(sys.argv[1]).predict([sys.argv[2]])[0].label)
heavy = {"torch", "transformers", "onnx", "onnx_ir", "typer"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_device_needs_neither_torch_nor_transformers(folded, pets):
    image = pets / "validation" / "dog" / "0.png"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folded), str(image)],
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "dog"), done.stderr


def test_a_processor_that_reads_otherwise_is_found(folded, artifacts, pets):
    artifact = open_artifact(artifacts("deit"))
    context, entry = ModelContext.of_artifact(artifact), artifact.entry("pets")
    files, split = pick_task(folded, None), evaluation_split(entry, data=pets)
    assert read_rows(context, entry, files, split).findings == ()
    before = files.processor.read_text()
    try:
        files.processor.write_text(json.dumps({**json.loads(before), "resample": 2}))
        (finding,) = read_rows(context, entry, files, split).findings
        assert finding == "`preprocessor_config.json` reads images otherwise than training did"
    finally:
        files.processor.write_text(before)


def test_optimum_and_a_pipeline_of_transformers_load_the_folder(folded):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
        from transformers import AutoImageProcessor, pipeline

        model = optimum.ORTModelForImageClassification.from_pretrained(folded)
        processor = AutoImageProcessor.from_pretrained(folded, use_fast=False)
        ask = pipeline("image-classification", model=model, image_processor=processor)
        images = pictures()
        theirs = [max(one, key=lambda each: each["score"]) for one in ask(images)]
    ours = Session(folded).predict(images)
    assert [one["label"] for one in theirs] == [one.label for one in ours]
    np.testing.assert_allclose(
        [one["score"] for one in theirs], [one.score for one in ours], atol=1e-5
    )


def test_the_plain_model_is_one_of_transformers(artifacts, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    for kind in ("vit", "dinov2"):
        artifact = open_artifact(artifacts(kind))
        write_hf(artifact, "pets", tmp_path / kind)
        model = AutoModelForImageClassification.from_pretrained(tmp_path / kind)
        processor = AutoImageProcessor.from_pretrained(tmp_path / kind, use_fast=False)
        images = pictures()
        with torch.no_grad():
            found = model(**processor(images, return_tensors="pt")).logits.numpy()
        np.testing.assert_array_equal(found, torch_logits(artifact, images))
        assert model.config.id2label == {0: "cat", 1: "dog"}


def test_a_shared_task_is_folded_with_its_processor(artifacts, tmp_path):
    request = SharedRequest(artifacts("vit"), (), tmp_path / "g", "fp32", EXACT, verify=False)
    export_shared(request)
    materialize(tmp_path / "g", tmp_path / "own", task="pets")
    rule = ImageRule.of_json((tmp_path / "own" / "preprocessor_config.json").read_bytes())
    assert rule.size == (8, 8)
    assert Session(tmp_path / "own").predict(pictures(1))[0].label == "cat"


def test_head_and_dense_baselines_and_a_teacher_that_is_trained_first(
    models, pets, task, quick, tmp_path
):
    usual = {"steps": 60, "batch_size": 16, "precision": "fp32", "head_lr": 1e-2}
    for method in ("head", "full"):
        config = BaselineConfig(method=method, **usual)
        run = run_baseline(BaselineRequest(str(models("deit")), task, config, data=pets))
        assert run.scores["accuracy"] > run.majority["accuracy"]
    config = quick(steps=20, teacher="twin", teacher_states=1.0)
    run = fit_task(FitRequest(str(models("deit")), task, tmp_path / "a", config, data=pets))
    assert run.options["teacher"] == "twin"


def test_a_fine_tuned_classifier_of_images_is_where_a_task_starts(
    models, pets, task, quick, tmp_path
):
    config = BaselineConfig(steps=60, batch_size=16, precision="fp32", head_lr=1e-2)
    dense = tmp_path / "dense"
    run_baseline(BaselineRequest(str(models("vit")), task, config, dense, data=pets))
    run = fit_task(FitRequest(str(dense), task, tmp_path / "a", quick(steps=5), data=pets))
    assert run.original["accuracy"] == 1.0


def test_what_a_model_of_images_cannot_do_is_refused(
    models, tiny_model, pets, task, quick, tmp_path
):
    vit, bert = str(models("vit")), str(tiny_model)
    with pytest.raises(ModelError, match="has no `ForImageClassification` of `bert`"):
        fit_task(FitRequest(bert, task, tmp_path / "a", quick(), data=pets))
    with pytest.raises(ConfigError, match="are calibrated on images, and there are none") as caught:
        make_backbone(vit, tmp_path / "a", BackboneConfig(bits=2))
    assert caught.value.hint == "give a folder of images as `calibration`"
    with pytest.raises(ConfigError, match="`prefix` stands before texts"):
        prefixed = replace(task, prefixes=("query: ", ""))
        fit_task(FitRequest(vit, prefixed, tmp_path / "a", quick(), data=pets))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    other = make_image_model("vit", tmp_path / "vit", size=16)
    place = other / "preprocessor_config.json"
    tree = json.loads(place.read_text())
    place.write_text(json.dumps({**tree, "size": {"height": 8, "width": 8}}))
    with pytest.raises(ModelError, match="gives images of 8 x 8 pixels, the model reads 16 x 16"):
        fit_task(FitRequest(str(other), task, tmp_path / "a", quick(), data=pets))
    place.unlink()
    with pytest.raises(ModelError, match="has no `preprocessor_config.json`"):
        fit_task(FitRequest(str(other), task, tmp_path / "a", quick(), data=pets))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_what_units_cost_is_measured_on_pixels(kind, models, tmp_path):
    found = unit_costs_of(CostRequest(model=str(models(kind)), runs=2))
    assert found.costs.length == 17, (
        "16 patches of 2 x 2 pixels and one token, whatever is asked for"
    )
    assert found.costs.shape.heads == 4
    assert found.timed[-1].heads == (0, 0)
    assert all(each.ms > 0 for each in found.timed)
    path = tmp_path / "costs.json"
    path.write_text(found.costs.to_json())
    assert UnitCosts.read(path) == found.costs


@pytest.mark.parametrize("kind", KINDS)
def test_attention_of_images_is_one_operator(kind, artifacts, pets, tmp_path):
    """There is no padding, so that the graph needs no branch for it."""
    request = ExportRequest(
        artifacts(kind), "pets", tmp_path / "g", "int8", Tolerance(None, 0.0), data=pets
    )
    report = export_onnx(request)
    assert report.ok, report.findings
    nodes = [one.op_type for one in onnx.load(str(tmp_path / "g" / "model.onnx")).graph.node]
    assert (nodes.count(OPERATOR), "Softmax" in nodes, "If" in nodes) == (2, False, False)
    classifier = restore_task(open_artifact(artifacts(kind)), "pets", attention="eager")
    plain = trace(classifier, family_of(kind))
    before = ir.serde.serialize_model(plain).SerializeToString()
    assert FuseAttention()(plain).modified
    after = ir.serde.serialize_model(plain).SerializeToString()
    noise = np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    wanted, found = (
        make_session(one, threads=1).run(None, {"pixel_values": noise})[0]
        for one in (before, after)
    )
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("compute", ["fp32", "int8"])
@pytest.mark.parametrize("kind", ["vit", "dinov2", GATED])
def test_graphs_leave_units_out_and_an_empty_sub_layer_is_its_bias(
    kind, compute, models, pets, task, quick, tmp_path
):
    """Layer 0 lost all heads and neurons; what is left of a sub-layer of DINOv2 is scaled besides."""
    fit_task(FitRequest(str(models(kind)), task, tmp_path / "a", quick(steps=5), data=pets))
    usual = Tolerance(1e-4 if compute == "fp32" else None, 100.0)
    with units_removed(empty=1):
        request = ExportRequest(tmp_path / "a", "pets", tmp_path / "g", compute, usual, data=pets)
        report = export_onnx(request)
        assert report.ok, report.findings
        assert report.graph.left_out > 0
        shared = SharedRequest(
            tmp_path / "a", (), tmp_path / "s", compute, usual, data={"pets": pets}
        )
        (other,) = export_shared(shared).values()
        assert other.ok, other.findings
    names = [one.name for one in onnx.load(str(tmp_path / "g" / "model.onnx")).graph.initializer]
    assert [name for name in names if "layer.1." in name and "query" in name]
    assert not [name for name in names if "layer.0." in name and "query" in name]
    scales = [name for name in names if "layer.0.layer_scale" in name]
    assert len(scales) == (0 if kind == "vit" else 2)


@pytest.mark.parametrize("kind", ["vit", "deit", "dinov2", GATED])
def test_whole_heads_and_neurons_go_and_graphs_are_smaller(
    kind, models, pets, task, quick, tmp_path
):
    config = quick(steps=60, units="heads,neurons", keep_units=0.5)
    for name in ("pets", "again"):
        own = replace(task, name=name)
        run = fit_task(FitRequest(str(models(kind)), own, tmp_path / "a", config, data=pets))
        assert run.scores["accuracy"] > run.majority["accuracy"]
    patch = open_artifact(tmp_path / "a").patch("pets")
    kept = {(one.kind, one.layer): (one.kept, one.count) for one in patch.units.counts()}
    neurons = {"dinov2": 128, GATED: 88}.get(kind, 64)
    assert sum(count for _, count in kept.values()) == 2 * (4 + neurons)
    assert 0 < sum(own for own, _ in kept.values()) < 0.7 * 2 * (4 + neurons)
    for compute, atol in (("fp32", 1e-4), ("int8", None)):
        out = tmp_path / compute
        request = ExportRequest(
            tmp_path / "a", "pets", out, compute, Tolerance(atol, 0.0), data=pets
        )
        report = export_onnx(request)
        assert report.ok, report.findings
        arrays = onnx.load(str(out / "model.onnx")).graph.initializer
        sizes = {tuple(one.dims) for one in arrays if len(one.dims) == 2}
        assert not {(32, neurons), (neurons, 32)} & sizes, "no feed-forward matrix is whole"
    images = pictures()
    np.testing.assert_allclose(
        Session(tmp_path / "fp32").logits(images),
        torch_logits(open_artifact(tmp_path / "a"), images),
        atol=1e-5,
    )
    data = {"pets": pets, "again": pets}
    request = SharedRequest(tmp_path / "a", (), tmp_path / "s", "fp32", EXACT, data=data)
    for report in export_shared(request).values():
        assert report.ok, report.findings
