"""Vectors from texts with labels: texts of one label find each other; learned, measured, exported, evaluated on graphs."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
import torch

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.repeat import recorded_run
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.formats import ConfigError, DataError, open_artifact
from maskpack.runtime import Session
from maskpack.tasks import partners
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.evaluation.exported import assess_exported
from maskpack.tasks.evaluation.metrics import ndcg_at_10, recall_at_1, recall_at_10
from maskpack.tasks.options import TaskOptions, Type
from maskpack.tasks.types import TASK_TYPES, label_vectors, vectors

WORDS = ["the", "film", "was", "story", "very", "we", "it"]
VECTORS = TaskOptions(type=Type.VECTORS)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Texts whose label is their one telling word."""
    rng = np.random.default_rng(5)
    lines = []
    for number in range(240):
        word = number % 6
        text = " ".join(rng.permutation([*rng.choice(WORDS, 3), f"word{word}"]))
        lines.append(json.dumps({"text": text, "label": f"about {word}"}))
    path = tmp_path_factory.mktemp("rows") / "intents.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_examples_of_the_modules_are_true():
    for module in (label_vectors, vectors, partners):
        assert doctest.testmod(module).failed == 0


def test_columns_of_text_and_label_are_taken_as_such(rows):
    task = task_of_said(Said("intents", named=False, data=rows, options=VECTORS))
    assert (task.kind, task.texts, task.label) == ("label-retrieval", ("text",), "label")
    named = TaskOptions(type=Type.VECTORS, same_label=True, text_field="text", label_field="label")
    assert task_of_said(Said("intents", data=rows, options=named)).kind == "label-retrieval"
    for wrong in ({"regression": True, "type": Type.VECTORS}, {"type": Type.TEXT}, {}):
        with pytest.raises(ConfigError, match="`same_label` is of vectors"):
            TaskOptions(same_label=True, **wrong)
    data = load_data(task, data=rows)
    assert len(data.dev) == 24, "four of each label are held out"
    assert np.bincount(data.dev.labels).tolist() == [4] * 6


def test_labels_of_one_row_each_are_refused(tmp_path, rows):
    task = task_of_said(Said("intents", named=False, data=rows, options=VECTORS))
    path = tmp_path / "few.csv"
    path.write_text("text,label\na,x\nb,y\nc,x\n")
    other = tmp_path / "dev.csv"
    other.write_text("text,label\na,x\nb,y\n")
    with pytest.raises(DataError, match="evaluation split .* 2 rows of 2 labels, at most 1 of one"):
        load_data(task, data=path, eval_data=other)


def test_metrics_count_all_right_texts():
    """Of four texts of a label, found at ranks 0, 2 and not among ten; by hand."""
    ranks = np.full((3, 10), -1)
    ranks[0, :3] = 0, 2, 10
    ranks[1, :1] = 10
    assert recall_at_1(ranks, ranks) == 0.5, "the third row has no text to find"
    assert recall_at_10(ranks, ranks) == 0.5
    best = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert ndcg_at_10(ranks, ranks) == pytest.approx(((1 + 1 / np.log2(4)) / best + 0) / 2)


def test_ranks_are_those_of_a_plain_search():
    rng = np.random.default_rng(1)
    labels, points = rng.integers(0, 4, 50), rng.standard_normal((50, 5)).astype(np.float32)
    found = label_vectors.label_ranks(points, labels)
    for row in range(50):
        near = points @ points[row]
        order = [other for other in np.argsort(-near, kind="stable") if other != row]
        hits = [rank for rank, other in enumerate(order) if labels[other] == labels[row]]
        wanted = [min(rank, 10) for rank in hits][:10]
        assert found[row].tolist() == [*wanted, *[-1] * (10 - len(wanted))]


def test_the_loss_leaves_out_other_texts_of_the_label():
    kind = TASK_TYPES["label-retrieval"]
    rng = torch.Generator().manual_seed(0)
    groups = torch.nn.functional.normalize(torch.randn(4, 2, 8, generator=rng), dim=-1)
    labels = torch.tensor([0, 0, 1, 2])
    near = 20 * groups[:, 0] @ groups[:, 1].T
    wanted = []
    for row in range(4):
        others = [other for other in range(4) if other == row or labels[other] != labels[row]]
        wanted.append(torch.logsumexp(near[row, others], 0) - near[row, row])
    assert kind.loss(groups, labels) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)


@pytest.mark.parametrize("teacher", ["none", "twin"])
def test_such_vectors_are_learned_exported_and_measured_on_the_graph(
    teacher, rows, tiny_model, quick, tmp_path
):
    options = TaskOptions(type=Type.VECTORS, prefix="we : ")
    task = task_of_said(Said("intents", named=False, data=rows, options=options))
    config = quick(steps=200, margin=0.3, lr=3e-3, teacher=teacher)
    run = fit_task(FitRequest(str(tiny_model), task, tmp_path / "a", config, data=rows))
    assert run.metric == "ndcg_at_10"
    assert run.score > run.majority["ndcg_at_10"] + 0.1
    artifact = open_artifact(tmp_path / "a")
    assert assess(artifact, "intents", data=rows).scores == run.scores
    tree = recorded_run(artifact, "intents").tree["run"]
    assert (tree["type"], tree["same_label"]) == (Type.VECTORS, True)
    exact = Tolerance(1e-4, 5.0)  # rounding decides between texts that are equally near
    request = ExportRequest(tmp_path / "a", "intents", tmp_path / "g", "fp32", exact, data=rows)
    report = export_onnx(request)
    assert report.ok, report.findings
    scores = assess_exported(artifact, tmp_path / "g", data=rows).scores
    assert scores == pytest.approx(run.scores, abs=0.05)
    assert Session(tmp_path / "g").embed(["film word1"]).shape == (1, 32)


def test_held_out_rows_among_which_nothing_is_found_are_refused(tmp_path, tiny_model, quick):
    """A metric without a value would let a run with patience end with what it began with."""
    path = tmp_path / "few.csv"
    lines = [f"{WORDS[n % len(WORDS)]} number{n},about {n % 9}" for n in range(19)]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    task = task_of_said(Said("intents", named=False, data=path, options=VECTORS))
    asked = FitRequest(
        str(tiny_model), task, tmp_path / "a", quick(patience=2), data=path, eval_data=path
    )
    with pytest.raises(ConfigError, match="ndcg_at_10 has no value on the 1 training rows"):
        fit_task(asked)
    assert not (tmp_path / "a").exists()
