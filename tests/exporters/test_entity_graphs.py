"""Entities beside classes on one backbone: learned, exported in every layout, and answered as torch and transformers do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import Compute, SharedRequest
from maskpack.formats import ConfigError, open_artifact
from maskpack.runtime import Entities, Entity, Session
from maskpack.tasks import find_task
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.evaluation.evaluate import assess, encode_for, evaluation_split
from maskpack.tasks.evaluation.exported import assess_exported
from maskpack.tasks.types import TASK_TYPES

KIND = "token-classification"
FILLER = ["the", "film", "was", "story", "very", "we", "it"]
GOOD = ["good", "great", "fine", "nice", "happy"]
EXACT = Tolerance.of(Compute.FP32)


def names(rows, seed):
    """Rows of words and tags: good food is of one kind, two words of it, and what is bad of the other."""
    rng = np.random.default_rng(seed)
    for _ in range(rows):
        words, tags = [], []
        for _ in range(rng.integers(3, 8)):
            draw = rng.random()
            if draw < 0.25:
                words += [str(rng.choice(GOOD)), "food"]
                tags += ["B-praise", "I-praise"]
            elif draw < 0.4:
                words.append("bad")
                tags.append("B-blame")
            words.append(str(rng.choice(FILLER)))
            tags.append("O")
        yield words, tags


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """A folder with words and tags in lines."""
    folder = tmp_path_factory.mktemp("tagged")
    for name, rows in (("train", 120), ("dev", 40)):
        text = "\n\n".join(
            "\n".join(f"{word}\t{tag}" for word, tag in zip(*row, strict=True))
            for row in names(rows, rows)
        )
        (folder / f"{name}.conll").write_text(text)
    return folder


@pytest.fixture(scope="module")
def task():
    return find_task("names", text_field="text", label_field="label", kind=KIND)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment, tagged, quick, task):
    """A classifier and a tagger."""
    out = tmp_path_factory.mktemp("both") / "artifact"
    options = quick(steps=150, max_length=32, head_lr=0.3)
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, quick(), data=sentiment))
    fit_task(FitRequest(str(tiny_model), task, out, options, data=tagged))
    return out


TEXTS = ["the good food was bad", "we was great food", "it was nice food , bad", "", "film"]


def answers(artifact, texts=TEXTS):
    """What the masked torch model says, by hand: entities of the tags at the first tokens of words."""
    opened = open_artifact(artifact)
    model = restore_task(opened, "names")
    tokenizer = ModelContext.of_artifact(opened).preprocessor().tokenizer
    found = []
    for text in texts:
        read = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**read).logits[0]
        tags, spans = [], []
        for token, word in enumerate(read.encodings[0].word_ids):
            if word is not None and word != read.encodings[0].word_ids[token - 1]:
                tags.append(opened.entry("names").labels[int(logits[token].argmax())])
                spans.append(read.encodings[0].offsets[token])
        entities = []
        for tag, (start, end) in zip(tags, spans, strict=True):
            if tag.startswith("I-") and entities and entities[-1][:1] == (tag[2:],):
                entities[-1] = (tag[2:], entities[-1][1], end)
            elif tag != "O":
                entities.append((tag[2:], start, end))
            else:
                entities.append(())
        found.append([one for one in entities if one])
    return found


def bare(entities):
    return [(one.label, one.start, one.end) for one in entities.entities]


def test_entities_are_learned(artifact, tagged):
    found = assess(open_artifact(artifact), "names", data=tagged)
    assert found.scores["entity_f1"] > 0.8
    assert found.majority == {"entity_f1": 0, "entity_precision": 0, "entity_recall": 0}
    assert [one.label for one in found.classes] == ["blame", "praise"]
    assert all(one.f1 > 0.7 and one.rows > 10 for one in found.classes)


def test_a_folded_graph_gives_entities_with_offsets(artifact, tagged, tmp_path):
    out = tmp_path / "graph"
    report = export_onnx(ExportRequest(artifact, "names", out, "fp32", EXACT, data=tagged))
    assert report.ok
    assert report.accuracy.max_diff < 1e-4
    found = Session(out).predict(TEXTS)
    assert [bare(one) for one in found] == answers(artifact)
    first = found[0].entities
    assert [one.text for one in first] == ["good food", "bad"]
    assert all(0.5 < one.score <= 1 for one in first)
    assert found[0].to_dict()["entities"][0] == {
        "label": "praise", "start": 4, "end": 13, "text": "good food", "score": first[0].score,
    }  # fmt: skip
    assert found[0].cell == "praise: good food|blame: bad"
    assert found[3] == Entities(())
    scores = assess_exported(open_artifact(artifact), out, data=tagged).scores
    assert scores == assess(open_artifact(artifact), "names", data=tagged).scores


@pytest.mark.parametrize("layout", ["shared", "swap", "trunk"])
def test_a_tagger_and_a_classifier_share_a_backbone(artifact, tagged, sentiment, tmp_path, layout):
    data = {"names": tagged, "sst2": sentiment}
    if layout == "trunk":
        pytest.skip("masks of all layers leave no trunk")
    out = tmp_path / layout
    request = SharedRequest(artifact, (), out, "fp32", EXACT, data=data, layout=layout)
    reports = export_shared(request)
    assert all(report.ok and report.accuracy.max_diff < 1e-4 for report in reports.values())
    session = Session(out)
    assert [bare(one) for one in session.predict(TEXTS, task="names")] == answers(artifact)
    (both, *_) = session.predict_all(TEXTS[:1])
    assert both["sst2"].label in {"negative", "positive"}
    assert [type(one) for one in both["names"].entities] == [Entity, Entity]
    if layout == "swap":
        assert (out / "base-token-classification.onnx").is_file()
        config = json.loads((out / "names.json").read_text())
        assert (config["base"], config["requires"]) == ("base-token-classification.onnx", ["base"])
        assert "base" not in json.loads((out / "sst2.json").read_text())


def test_a_trunk_carries_both(tmp_path, tiny_model, sentiment, tagged, quick, task):
    place, out = tmp_path / "a", tmp_path / "g"
    for one, data in ((find_task("sst2"), sentiment), (task, tagged)):
        fit_task(
            FitRequest(str(tiny_model), one, place, quick(layers="1", max_length=32), data=data)
        )
    data = {"names": tagged, "sst2": sentiment}
    reports = export_shared(SharedRequest(place, (), out, "fp32", EXACT, data=data, layout="trunk"))
    assert all(report.ok for report in reports.values())
    session = Session(out)
    both = session.predict_all(TEXTS)
    assert [one["names"] for one in both] == session.predict(TEXTS, task="names")
    turned = session.predict_all(TEXTS, tasks=["sst2", "names"])
    assert [one["names"] for one in turned] == [one["names"] for one in both]


def test_transformers_gives_the_same_entities(artifact, tmp_path):
    folder = tmp_path / "plain"
    write_hf(open_artifact(artifact), "names", folder)
    pipe = transformers.pipeline(KIND, str(folder), aggregation_strategy="first")
    theirs = [[(e["entity_group"], e["start"], e["end"]) for e in pipe(text)] for text in TEXTS]
    assert theirs == answers(artifact)


def test_int8_and_a_prefix(tmp_path, tiny_model, tagged, quick, task):
    own = replace(task, prefixes=("story : ", ""))
    place, out = tmp_path / "a", tmp_path / "g"
    fit_task(
        FitRequest(
            str(tiny_model), own, place, quick(steps=150, max_length=32, head_lr=0.3), data=tagged
        )
    )
    tolerance = Tolerance.of(Compute.INT8, max_drop=100.0)
    report = export_onnx(ExportRequest(place, "names", out, "int8", tolerance, data=tagged))
    assert report.texts.same
    (found,) = Session(out).predict(["the good food"])
    assert [(one.start, one.end, one.text) for one in found.entities] == [(4, 13, "good food")]


@pytest.mark.parametrize(
    "kind",
    [
        "xlnet",
        *(
            pytest.param(k, marks=pytest.mark.slow)
            for k in ("llama", "modernbert", "roberta", "mpnet", "qwen3", "gemma2")
        ),
    ],
)
def test_other_families(kind, family_models, tagged, tmp_path, quick, task):
    """XLNet's texts are padded on the left elsewhere; here an output must have one place."""
    place, out = tmp_path / "a", tmp_path / "g"
    fit_task(
        FitRequest(
            str(family_models(kind)), task, place, quick(steps=3, max_length=32), data=tagged
        )
    )
    report = export_onnx(ExportRequest(place, "names", out, "fp32", EXACT, data=tagged))
    assert report.ok
    assert report.accuracy.agreement == 1.0
    assert not json.loads((out / "task.json").read_text()).get("pad_side")


def test_pooling_is_refused(tmp_path, tiny_model, tagged, quick, task):
    request = FitRequest(str(tiny_model), task, tmp_path / "a", quick(pooling="mean"), data=tagged)
    with pytest.raises(ConfigError, match="a token-classification answers for each token"):
        fit_task(request)


def test_parts_of_a_step_add_up_to_its_loss(artifact, tagged):
    """Whatever the number of words in each part."""
    opened = open_artifact(artifact)
    entry = opened.entry("names")
    rows = encode_for(ModelContext.of_artifact(opened), entry, evaluation_split(entry, data=tagged))
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(rows), 32, 5)).astype("f4")
    targets = DistillationTargets(rng.normal(size=logits.shape).astype("f4"), 0.7, 2.0)
    loss = TaskLoss(TASK_TYPES[KIND], rows.labels, targets)
    some = np.arange(12)
    whole = float(loss(torch.from_numpy(logits[some]), some))
    parts = [some[:2], some[2:3], some[3:]]
    own = sum(
        len(one) / 12 * float(loss(torch.from_numpy(logits[one][:, :20]), one)) for one in parts
    )
    assert max(rows.lengths) <= 20
    assert own == pytest.approx(whole, rel=1e-5)
    counted = rows.labels[some] != -100
    flat = torch.from_numpy(logits[some][counted])
    right = torch.from_numpy(rows.labels[some][counted])
    plain = TaskLoss(TASK_TYPES[KIND], rows.labels)
    usual = (rows.labels != -100).sum() / len(rows)
    wanted = torch.nn.functional.cross_entropy(flat, right, reduction="sum") / (12 * usual)
    assert float(plain(torch.from_numpy(logits[some]), some)) == pytest.approx(float(wanted))
    empty = rows.labels.copy()
    empty[0] = -100
    for labelled in (True, False):
        known = np.ones(len(rows), dtype=np.bool_)
        known[0] = labelled
        own = TaskLoss(TASK_TYPES[KIND], empty, targets, known)
        for some in (np.array([0]), np.array([0, 1])):
            assert np.isfinite(float(own(torch.from_numpy(logits[some]), some)))
