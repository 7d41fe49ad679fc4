"""One graph for all tasks: each adapter makes it the task that its folded graph is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from export_kit import KINDS, shared_request
from safetensors.numpy import load_file

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import Layout
from maskpack.exporters.session import make_session, ort_predict
from maskpack.formats import ConfigError, ExportError, open_artifact
from maskpack.runtime import Session
from maskpack.runtime.task import TaskConfig
from maskpack.tasks import find_task

WORDS = ("good", "bad", "word1", "fine", "film")
COMPUTES = ("fp32", "int8")


def request(artifact, out, compute="int8", tasks=(), **options):
    return shared_request(artifact, out, compute, tasks, **{"layout": Layout.SWAP, **options})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute", COMPUTES)
def test_every_task_is_within_its_tolerance_of_torch(swapped, artifacts, kind, compute):
    _, reports = swapped(kind, compute)
    assert set(reports) == set(open_artifact(artifacts[kind]).manifest.tasks)
    for report in reports.values():
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > 0
        assert max(check.max_diff for check in report.values) < (1e-4 if compute == "fp32" else 0.5)


@pytest.mark.parametrize("kind", ["bert", "grouped", "albert"])
@pytest.mark.parametrize("compute", COMPUTES)
def test_all_layouts_are_one_function(
    swapped, shared, exported, artifacts, tmp_path, tokens, kind, compute
):
    """Folded, shared (narrow and wide codes) and swap: the same logits, whichever holds the mask."""
    made, narrow, wide = swapped(kind, compute)[0], shared(kind, compute)[0], tmp_path / "wide"
    options = {"layout": Layout.SHARED, "packed": False, "verify": False}
    export_shared(request(artifacts[kind], wide, compute, **options))
    base = make_session(made / "base.onnx")
    for task in open_artifact(artifacts[kind]).manifest.tasks:
        folded = make_session(exported(kind, compute, task).graph)
        names = [value.name for value in folded.get_inputs()]
        plain = load_file(made / f"{task}.safetensors")
        graphs = {
            "swap": made / f"{task}.onnx_adapter",
            "shared, packed": narrow / f"{task}.onnx",
            "shared": wide / f"{task}.onnx",
        }
        layouts = {name: ort_predict(make_session(path)) for name, path in graphs.items()}
        for shape in ((1, 1), (2, 7), (5, 33)):
            feeds = tokens(names, *shape, padded=shape[0] > 1)
            wanted = ort_predict(folded)(feeds)
            found = {name: predict(feeds) for name, predict in layouts.items()}
            found["feeds"] = base.run(["logits"], {**feeds, **plain})[0]
            for name, logits in found.items():
                np.testing.assert_allclose(logits, wanted, atol=1e-5, err_msg=name)


def test_the_graph_alone_is_the_first_task_and_an_adapter_is_all_that_another_adds(swapped, tokens):
    out, _ = swapped("bert", "int8")
    base = make_session(out / "base.onnx")
    feeds = tokens([value.name for value in base.get_inputs()], 4, 9)
    alone, first, second = (
        ort_predict(make_session(out / name))(feeds)
        for name in ("base.onnx", "other.onnx_adapter", "sst2.onnx_adapter")
    )
    np.testing.assert_array_equal(alone, first)
    assert np.abs(first - second).max() > 1e-3
    weights = (out / "backbone.bin").stat().st_size
    assert (out / "sst2.onnx_adapter").stat().st_size < weights / 10


def test_adapters_and_feeds_hold_the_same(swapped):
    out, _ = swapped("bert", "int8")
    adapter = onnxruntime.AdapterFormat.read_adapter(str(out / "sst2.onnx_adapter"))
    plain = load_file(out / "sst2.safetensors")
    found = adapter.get_parameters()
    assert set(found) == set(plain)
    for name, array in plain.items():
        np.testing.assert_array_equal(found[name].numpy(), array)
    assert {"masks.bits", "model.classifier.weight"} < set(plain)  # a weight in ten: bits win
    optional = {v.name for v in make_session(out / "base.onnx").get_overridable_initializers()}
    assert optional == set(plain)


def test_tasks_may_have_classes_biases_and_scales_of_their_own(tiny_model, tmp_path):
    usual = {
        "steps": 12,
        "batch_size": 16,
        "max_length": 16,
        "precision": "fp32",
        "teacher": "none",
        "bits": 8,
    }
    own = {"train_scales": True, "train_bias": True, "train_norm": True, "margin": 1.3}
    for name, options, classes in (
        ("two", {}, 2),
        ("three", own, 3),
        ("half", {"sparsity": 0.5}, 2),
    ):
        rows = [f"{word} film\t{place % classes}" for place, word in enumerate(WORDS)] * 4
        data = tmp_path / name
        data.mkdir()
        for split in ("train", "dev"):
            (data / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
        task = replace(find_task("sst2"), raw_labels=tuple("012"[:classes]), labels=())
        config = FitConfig(**{**usual, **options})
        fit_task(FitRequest(str(tiny_model), task, tmp_path / "a", config, data=data, name=name))
    for tasks in ((), ("two", "three")):
        out = tmp_path / f"out-{len(tasks)}"
        options = {"tasks": tasks, "verify": True}
        found = export_shared(request(tmp_path / "a", out, **options))
        assert all(report.ok for report in found.values()), found
        answers = Session(out).predict(["good film"], task="three")
        assert set(answers[0].scores) == {"0", "1", "2"}
        held = load_file(out / "three.safetensors")
        assert any(name.endswith("LayerNorm.weight") for name in held)
        assert ("masks.bits" in held) == (not tasks)  # with half of all weights removed bits win
        assert load_file(out / "two.safetensors")["model.classifier.weight"].shape == (2, 32)


def test_one_session_serves_all_tasks(swapped, exported):
    out, _ = swapped("bert", "int8")
    texts = ["good", "bad film", "the story was sad and very poor"]
    session = Session(out, keep=2)
    assert session.tasks == ("other", "sst2")
    for task in ("sst2", "other", "sst2"):
        folded = exported("bert", "int8", task).folder
        wanted = [answer.scores for answer in Session(folded).predict(texts)]
        found = [answer.scores for answer in session.predict(texts, task=task)]
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    first, second = session._loaded.values()
    assert first.graph is second.graph


def test_a_runtime_without_adapters_gets_plain_inputs(swapped, monkeypatch):
    out, _ = swapped("bert", "int8")
    wanted = Session(out).predict(["good", "bad film"], task="sst2")
    monkeypatch.delattr(onnxruntime, "LoraAdapter")  # as before 1.20
    assert Session(out).predict(["good", "bad film"], task="sst2") == wanted


def damage_card(**changes):
    def change(folder):
        config = json.loads((folder / "sst2.json").read_text())
        (folder / "sst2.json").write_text(json.dumps({**config, **changes}))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "backbone.bin").write_bytes(b"x" * 5000),
            "backbone.bin` is not what `base.onnx`",
        ),
        (lambda folder: (folder / "base.onnx").write_bytes(b"x"), "base.onnx` is not what `sst2`"),
        (lambda folder: (folder / "base.onnx").unlink(), "cannot read"),
        (
            lambda folder: shutil.copy(folder / "other.onnx_adapter", folder / "sst2.onnx_adapter"),
            "sst2.onnx_adapter` is not what `sst2`",
        ),
        (damage_card(graph_sha256="0" * 64), "is not what `sst2`"),
        (damage_card(adapter_sha256=None), "the digest"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot load"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_the_runtime_sees_it(
    swapped, tmp_path, change, message
):
    folder = shutil.copytree(swapped("bert", "int8")[0], tmp_path / "x")
    change(folder)
    with pytest.raises(ExportError, match=message):
        Session(folder).predict(["good"], task="sst2")


def test_a_second_task_of_another_export_is_not_served_by_the_first_ones_graph(swapped, tmp_path):
    folder = shutil.copytree(swapped("bert", "int8")[0], tmp_path / "x")
    session = Session(folder)
    session.predict(["good"], task="other")
    damage_card(graph_sha256="0" * 64)(folder)
    with pytest.raises(ExportError, match="is not what `sst2`"):
        session.predict(["good"], task="sst2")


def test_the_same_tasks_give_the_same_bytes(swapped, artifacts, tmp_path):
    out, _ = swapped("bert", "int8")
    export_shared(request(artifacts["bert"], tmp_path / "again", verify=False))
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name
    assert TaskConfig.from_json((out / "sst2.json").read_text()).swap is not None


def test_the_graph_is_valid_onnx_and_points_into_its_own_folder(swapped):
    out, _ = swapped("bert", "int8")
    onnx.checker.check_model(str(out / "base.onnx"))
    held = onnx.load(str(out / "base.onnx"), load_external_data=False).graph.initializer
    places = {e.value for t in held for e in t.external_data if e.key == "location"}
    assert places == {"backbone.bin"}


def test_a_folded_graph_shares_nothing(artifacts, tmp_path):
    with pytest.raises(ConfigError, match="has its weights to itself"):
        request(artifacts["bert"], tmp_path / "x", layout=Layout.FOLDED)
