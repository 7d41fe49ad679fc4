"""Long texts in training: windows whose outputs are joined, and the metric of evaluation is that of `predict --windows`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.repeat import recorded_run
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.formats import ConfigError, open_artifact
from maskpack.models.load import tokenizer_of
from maskpack.runtime import Session
from maskpack.tasks import find_task
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import assess, task_of
from maskpack.tasks.evaluation.exported import assess_exported
from maskpack.tasks.pieces import EncodedTextPieces
from maskpack.tasks.windows import WindowRule

IDLE = ["the", "film", "was", "story", "very", "we", "it"]
LENGTH = 12
KINDS = ("classification", "multi-label", "regression")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Kind -> texts of 11 to 30 words, of which some tell the label."""
    rng, folder = np.random.default_rng(2), tmp_path_factory.mktemp("rows")
    lines = {kind: [] for kind in KINDS}
    for number in range(160):
        telling = [("good", "awful")[number % 2]] * 3
        words = [*rng.choice(IDLE, rng.integers(8, 24)), *telling]
        text = " ".join(words)
        lines["classification"].append({"text": text, "label": ("up", "down")[number % 2]})
        lines["regression"].append({"text": text, "label": float(2 - 4 * (number % 2))})
        both = number % 3 == 0
        more = ["happy", "happy", "happy", *words] if both else words
        labels = [("up", "down")[number % 2], *(["glad"] if both else [])]
        lines["multi-label"].append({"text": " ".join(more), "label": labels})
    for kind, own in lines.items():
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, own)) + "\n")
    return {kind: folder / f"{kind}.jsonl" for kind in KINDS}


def task_for(kind, **options):
    return find_task(
        "long", text_field="text", label_field="label", kind=kind, windows=True, **options
    )


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_learned_and_measured_as_devices_answer_them(
    kind, rows, tiny_model, quick, tmp_path
):
    task, data = task_for(kind, stride=4, prefix="we : "), rows[kind]
    config = quick(steps=200, max_length=LENGTH, margin=0.3, lr=3e-3, head_lr=1e-2)
    run = fit_task(FitRequest(str(tiny_model), task, tmp_path / "a", config, data=data))
    cut = find_task("long", text_field="text", label_field="label", kind=kind, prefix="we : ")
    short = fit_task(FitRequest(str(tiny_model), cut, tmp_path / "b", config, data=data))
    if kind != "multi-label":  # `happy` is not cut off
        assert run.score > short.score + 0.1, "what tells the label is cut off there"
    artifact = open_artifact(tmp_path / "a")
    entry = artifact.entry("long")
    assert entry.data["windows"] == 4
    assert task_of(entry).windows == WindowRule(4, texts=True)
    assert "windows" not in open_artifact(tmp_path / "b").entry("long").data
    again = assess(artifact, "long", data=data).scores
    assert {name: again[name] for name in run.scores} == pytest.approx(run.scores, abs=1e-6)
    tree = recorded_run(artifact, "long").tree["run"]
    assert (tree["windows"], tree["stride"]) == (True, 4)

    exact = Tolerance(1e-4, 0.0)
    request = ExportRequest(tmp_path / "a", "long", tmp_path / "g", "fp32", exact, data=data)
    report = export_onnx(request)
    assert report.ok, report.findings
    scores = assess_exported(artifact, tmp_path / "g", data=data).scores
    assert scores == pytest.approx(again, abs=1e-6)
    session = Session(tmp_path / "g")
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    texts = [line["text"] for line in lines][:30]
    found = session.predict(texts, windows=True, stride=4)
    joined = session.logits(texts, windows=True, stride=4)
    assert max(one.windows for one in found) > 1
    if kind == "regression":
        assert [one.score for one in found] == pytest.approx(joined[:, 0].tolist(), abs=1e-6)
    elif kind == "classification":
        assert [entry.labels.index(one.label) for one in found] == joined.argmax(axis=1).tolist()


def test_rows_are_texts_and_outputs_are_joined_as_devices_join_them(tiny_artifact):
    context = ModelContext.of_artifact(open_artifact(tiny_artifact))
    rng = np.random.default_rng(0)
    texts = tuple((" ".join(rng.choice(IDLE, size)),) for size in (3, 30, 1, 17, 45))
    rule = WindowRule(3, texts=True)
    split = Split(texts, np.array([0, 1, 0, 1, 1]), windows=rule)
    encoded = context.preprocessor().encode(split, max_length=LENGTH)
    assert isinstance(encoded, EncodedTextPieces)
    assert len(encoded) == 5
    assert encoded.counts.tolist()[0::2][:2] == [1, 1]
    lengths = [len(tokenizer_of(context.files)(text[0])["input_ids"]) for text in texts]
    assert [int(each) for each in encoded.lengths] >= lengths
    assert encoded.widest <= LENGTH
    order = np.array([4, 0, 3])
    some = encoded.take(order)
    for number, row in enumerate(order):
        own, whole = (
            one.feeds(np.array([place])) for one, place in ((some, number), (encoded, row))
        )
        np.testing.assert_array_equal(own["input_ids"], whole["input_ids"])
    windows = int(encoded.counts[order].sum())
    logits = rng.standard_normal((windows, 2)).astype(np.float32)
    joined = encoded.of_longest(logits, order)
    np.testing.assert_allclose(encoded.per_row(torch.from_numpy(logits), order), joined, atol=1e-6)
    shares = some.shares
    first = int(some.counts[0])
    np.testing.assert_allclose(joined[0], shares[:first] @ logits[:first], atol=1e-6)
    assert shares[:first].sum() == pytest.approx(1.0)
    highest = replace(encoded, highest=True)
    np.testing.assert_array_equal(highest.of_longest(logits, order)[0], logits[:first].max(axis=0))
    tensors = highest.per_row(torch.from_numpy(logits), order).numpy()
    np.testing.assert_array_equal(tensors, highest.of_longest(logits, order))
    both = encoded.take(np.array([0, 1])).followed_by([encoded.take(np.array([2, 3, 4]))])
    np.testing.assert_array_equal(both.counts, encoded.counts)
    np.testing.assert_array_equal(both.shares, encoded.shares)
    assert [both.row_of(place) for place in range(len(both.ids))] == np.repeat(
        np.arange(5), both.counts
    ).tolist()


def test_teachers_units_and_dense_models_read_windows_too(rows, tiny_model, quick, tmp_path):
    data, task = rows["classification"], task_for("classification")
    options = {"steps": 20, "max_length": LENGTH, "teacher": "twin", "teacher_states": 1.0}
    for name, more in (("plain", {}), ("units", {"units": "heads,neurons", "keep_units": 0.5})):
        config = quick(**options, **more, keep_states=True)
        run = fit_task(FitRequest(str(tiny_model), task, tmp_path / name, config, data=data))
        assert run.steps == 20
    parts = quick(**{**options, "teacher": "none", "teacher_states": None}, accumulate=2)
    fit_task(FitRequest(str(tiny_model), task, tmp_path / "parts", parts, data=data))
    config = BaselineConfig(
        steps=150, batch_size=16, max_length=LENGTH, precision="fp32", lr=1e-3, head_lr=1e-2
    )
    dense = run_baseline(BaselineRequest(str(tiny_model), task, config, data=data))
    assert dense.scores["accuracy"] > 0.8


def test_what_cannot_be_joined_is_refused():
    with pytest.raises(ConfigError, match="`long` is a label-retrieval"):
        task_for("label-retrieval")
    with pytest.raises(ConfigError, match="`windows` cuts one text a row, `long` has two"):
        task_for("classification", pair_field="other")
    with pytest.raises(ConfigError, match="`stride` is of rows that are cut into windows"):
        find_task("x", text_field="a", label_field="b", stride=3)
