"""Several labels a row in exported graphs: the same yes and no everywhere, in every layout."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import Layout, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ExportError, open_artifact
from maskpack.runtime import Session
from maskpack.runtime.outputs import DECODERS
from maskpack.runtime.task import TaskConfig
from maskpack.tasks import find_task
from maskpack.tasks.context import restore_task
from maskpack.tasks.task import Kind

TASK = find_task("tones", text_field="text", label_field="tones", kind=Kind.MULTI_LABEL)
LABELS = ("bad", "good", "quite")
TEXTS = ["the good film", "bad and good food", "", "we were very sad " * 5]
LOOSE = Tolerance.of(Compute.INT8, max_drop=100.0, rtol=0.5)
CARD = TaskConfig("tones", "multi-label", LABELS, 16, (0, "[PAD]"))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model):
    """An artifact with that task, and its rows."""
    folder = tmp_path_factory.mktemp("tones")
    rng, lines = np.random.default_rng(0), []
    for row in range(60):
        told = [name for bit, name in enumerate(LABELS) if row >> bit & 1]
        words = [*rng.choice(("the", "film", "was", "food"), size=3), *told]
        lines.append(json.dumps({"text": " ".join(words), "tones": told}))
    data = folder / "rows.jsonl"
    data.write_text("\n".join(lines))
    config = FitConfig(
        steps=60,
        batch_size=16,
        max_length=16,
        precision="fp32",
        teacher="none",
        head_lr=1e-2,
        margin=0.5,
        trunk=1,  # leaves a layer for the layout of that name
    )
    fit_task(FitRequest(str(tiny_model), TASK, folder / "artifact", config, data=data))
    return folder / "artifact", data


@pytest.fixture(scope="module")
def exported(tmp_path_factory, artifact):
    """Folder with the float graph, and its verdict."""
    out = tmp_path_factory.mktemp("graphs") / "tones"
    path, data = artifact
    return out, export_onnx(ExportRequest(path, "tones", out, Compute.FP32, LOOSE, data=data))


def wanted_shares(path):
    model, tokenizer = (
        restore_task(open_artifact(path), "tones"),
        AutoTokenizer.from_pretrained(path),
    )
    rows = []
    for text in TEXTS:
        fed = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            rows.append(model(**fed).logits.sigmoid()[0].numpy())
    return np.array(rows)


def test_the_folder_says_what_the_logits_mean(exported):
    folder, report = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert config["id2label"] == {str(place): name for place, name in enumerate(LABELS)}
    assert json.loads((folder / "task.json").read_text())["kind"] == "multi-label"
    assert report.ok
    assert (report.accuracy.metric, report.accuracy.agreement) == ("micro_f1", 1.0)


def test_a_session_answers_with_the_labels_above_a_half(exported, artifact):
    found = Session(exported[0]).predict(TEXTS)
    wanted = wanted_shares(artifact[0])
    shares = np.array([[answer.scores[label] for label in LABELS] for answer in found])
    assert shares == pytest.approx(wanted, abs=2e-5)
    assert not np.allclose(shares.sum(axis=1), 1.0, atol=1e-2)
    for answer, row in zip(found, wanted, strict=True):
        assert answer.labels == tuple(np.array(LABELS)[row > 0.5])
        assert (answer.label, answer.score) == (None, max(answer.scores.values()))
        assert answer.to_dict() == {"labels": list(answer.labels), "scores": answer.scores}


@pytest.mark.parametrize("layout", list(Layout), ids=str)
def test_every_layout_says_the_same(tmp_path, artifact, layout):
    path, data = artifact
    if layout is Layout.FOLDED:
        request = ExportRequest(path, "tones", tmp_path / "g", Compute.INT8, LOOSE, data=data)
        reports = {"tones": export_onnx(request)}
    else:
        reports = export_shared(
            SharedRequest(
                path,
                ("tones",),
                tmp_path / "g",
                Compute.INT8,
                LOOSE,
                data={"tones": data},
                layout=layout,
            )
        )
    assert reports["tones"].ok, reports["tones"].findings
    (answer,) = Session(tmp_path / "g").predict([TEXTS[1]])
    assert set(answer.scores) == set(LABELS)
    assert answer.labels is not None


def test_a_package_answers_so_too(tmp_path, exported):
    out = write_package(PackageRequest(exported[0], tmp_path / "p", Target.ORT)).out
    task = runpy.run_path(str(out / "predict.py"))["Task"]("tones")
    (wanted,) = Session(exported[0]).predict([TEXTS[0]], batch_size=1)
    found = task.answer(TEXTS[0])
    assert found["labels"] == list(wanted.labels)
    assert found["scores"] == pytest.approx(wanted.scores, abs=1e-5)


def test_the_web_example_means_the_same():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    folder = Path(__file__).parents[2] / "exporters/package/templates"
    source = (folder / "graphs.mjs").read_text()
    (meaning,) = re.findall(r"^export (function meaning.*?^})", source, re.MULTILINE | re.DOTALL)
    logits = [3.0, -0.5, 0.25]
    call = f"meaning({CARD.to_json()}, {json.dumps(logits)})"
    done = subprocess.run(
        [node, "-e", f"{meaning}\nconsole.log(JSON.stringify({call}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    (wanted,) = CARD.decoder.predictions(CARD.labels, np.array([logits], dtype=np.float32), [])
    found = json.loads(done.stdout)
    assert found["labels"] == ["bad", "quite"] == list(wanted.labels)
    assert found["scores"] == pytest.approx(wanted.scores, abs=1e-6)


def test_large_logits_are_certain_without_a_warning():
    (answer,) = CARD.decoder.predictions(
        CARD.labels, np.array([[1000.0, -1000.0, 0.0]], dtype=np.float32), []
    )
    assert list(answer.scores.values()) == [1.0, 0.0, 0.5]
    assert answer.labels == ("bad",)


def test_rows_agree_where_all_labels_do():
    left = np.array([[1.0, -1.0], [1.0, 2.0]], dtype=np.float32)
    right = np.array([[9.0, -0.1], [1.0, -2.0]], dtype=np.float32)
    assert DECODERS["multi-label"].same(left, right).tolist() == [True, False]
    assert DECODERS["multi-label"].agreement(left, right) == 0.5


def test_a_card_of_several_labels_comes_back_and_an_unknown_kind_is_refused_by_name():
    assert TaskConfig.from_json(CARD.to_json()) == CARD
    odd = CARD.to_json().replace("multi-label", "ranking")
    with pytest.raises(ExportError, match="unknown kind `ranking`") as caught:
        TaskConfig.from_json(odd)
    assert "multi-label" in caught.value.hint
    with pytest.raises(ExportError, match="1 labels for a multi-label"):
        TaskConfig("tones", "multi-label", ("one",), 16, (0, ""))
