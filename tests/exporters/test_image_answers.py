"""Images with any number of labels, and with a number: learned, measured, exported, answered and packaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from image_kit import COLOURS, make_image_model
from PIL import Image
from test_package_images import lines_of

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.adopt import AdoptRequest, adopt_models
from maskpack.compressor.repeat import recorded_run
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ConfigError, open_artifact
from maskpack.runtime import Session
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.options import TaskOptions, Type

KINDS = ("image-multi-label", "image-regression")
WAYS = {
    "image-multi-label": TaskOptions(label_separator="|"),
    "image-regression": TaskOptions(regression=True),
}
LABELS = ((), ("cat",), ("dog",), ("cat", "dog"))


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Kind -> a table of images. The left half is red for `cat`, the right half green for `dog`; the number says how bright one is."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    lines = {kind: ["image,label"] for kind in KINDS}
    for number in range(120):
        labels, light = LABELS[number % 4], int(rng.integers(0, 100))
        halves = [COLOURS[name] if name in labels else (128, 128, 128) for name in COLOURS]
        pixels = np.repeat(np.array(halves, dtype=np.uint8)[None], 8, axis=0).repeat(4, axis=1)
        noise = rng.integers(-20, 20, pixels.shape)
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(
            root / f"{number}.png"
        )
        lines[KINDS[0]].append(f"{number}.png,{'|'.join(labels)}")
        grey = np.clip(255 * light / 100 + noise, 0, 255).astype(np.uint8)
        Image.fromarray(grey).save(root / f"grey{number}.png")
        lines[KINDS[1]].append(f"grey{number}.png,{100 + light}")
    for kind, own in lines.items():
        (root / f"{kind}.csv").write_text("\n".join(own) + "\n")
    return {kind: root / f"{kind}.csv" for kind in KINDS}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_image_model("vit", tmp_path_factory.mktemp("model") / "vit")


def task_of(kind, table):
    return task_of_said(Said("seen", named=False, data=table, options=WAYS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_is_learned_exported_answered_and_packaged(kind, tables, model, quick, tmp_path):
    table = tables[kind]
    task = task_of(kind, table)
    assert (task.kind, task.texts) == (kind, ("image",))
    config = quick(steps=150, head_lr=1e-2, margin=0.5, lr=3e-3)
    run = fit_task(FitRequest(str(model), task, tmp_path / "a", config, data=table))
    assert run.score > max(0.8, run.majority[run.metric] + 0.2)
    artifact = open_artifact(tmp_path / "a")
    entry = artifact.entry("seen")
    assert entry.requires == (("target-scale",) if kind == KINDS[1] else ())
    said = recorded_run(artifact, "seen").tree["run"]
    assert said["type"] == Type.IMAGES
    assert ("regression" in said, "multi_label" in said) == (kind == KINDS[1], kind == KINDS[0])
    request = ExportRequest(
        tmp_path / "a", "seen", tmp_path / "g", "fp32", Tolerance(1e-4, 0.0), data=table
    )
    report = export_onnx(request)
    assert report.ok, report.findings
    assert report.accuracy.graph == pytest.approx(run.score, abs=1e-6)
    session, photos = Session(tmp_path / "g"), sorted(table.parent.glob("*.png"))[:12]
    answers = session.predict(photos)
    package = write_package(PackageRequest(tmp_path / "g", tmp_path / "x", Target.ORT))
    lines, code, told = lines_of(package.out, *photos)
    assert code == 0, told
    for line, own in zip(lines, answers, strict=True):
        if kind == KINDS[0]:
            assert tuple(line["labels"]) == own.labels
            assert line["scores"] == pytest.approx(own.scores, abs=1e-5)
        else:
            assert line["score"] == pytest.approx(own.score, abs=1e-3)
            assert 90 < own.score < 210


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_such_a_task_is_adopted(kind, tables, model, quick, tmp_path):
    config = BaselineConfig(steps=100, batch_size=16, precision="fp32", lr=1e-3, head_lr=1e-2)
    task = task_of(kind, tables[kind])
    run_baseline(BaselineRequest(str(model), task, config, tmp_path / "b", data=tables[kind]))
    saved = json.loads((tmp_path / "b" / "config.json").read_text())
    assert saved["problem_type"] == task.type.problem_type
    for name, columns in (("labelled", WAYS[kind]), ("alone", TaskOptions())):
        rows = tables[kind]
        if name == "alone":
            rows = rows.with_name(f"{kind}-alone.csv")
            lines = tables[kind].read_text().splitlines()
            rows.write_text("\n".join(line.partition(",")[0] for line in lines) + "\n")
        request = AdoptRequest(
            {"seen": str(tmp_path / "b")},
            tmp_path / name,
            str(model),
            quick(teacher=None, steps=60, margin=0.5),
            data={"seen": rows},
            columns=columns,
        )
        (done,) = adopt_models(request).tasks
        assert open_artifact(tmp_path / name).entry("seen").kind == kind
        assert done.labelled == (name == "labelled")
        assert done.result.score > 0.5


def test_what_contradicts_a_type_is_refused(tables):
    assert TaskOptions(type=Type.IMAGES, regression=True).kind == KINDS[1]
    assert TaskOptions(type=Type.IMAGES, multi_label=True).kind == KINDS[0]
    with pytest.raises(ConfigError, match="contradict each other"):
        TaskOptions(type=Type.IMAGES, regression=True, multi_label=True)
    with pytest.raises(ConfigError, match="has not a number"):
        TaskOptions(type=Type.QUESTIONS, regression=True)
    plain = Said("seen", data=tables[KINDS[0]], named=False, options=TaskOptions(type=Type.TEXT))
    assert task_of_said(plain).kind == "classification"
