"""Vectors from texts alone: what a teacher finds near is what a mask learns, in `adopt` and `refit`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.adopt import AdoptRequest, adopt_models
from maskpack.compressor.refit import RefitRequest, refit_tasks
from maskpack.formats import DataError, check_artifact, open_artifact
from maskpack.tasks import find_task
from maskpack.tasks.options import TaskOptions, Type
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.vectors import nearest

WORDS = ["the", "film", "was", "story", "very", "we", "it"]
TASKS = {
    "retrieval": find_task(
        "find", text_field="query", label_field="positive", kind="retrieval", prefix="we : "
    ),
    "similarity": find_task(
        "find", text_field="query", pair_field="positive", label_field="score", kind="similarity"
    ),
    "label-retrieval": find_task(
        "find", text_field="query", label_field="word", kind="label-retrieval"
    ),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Pairs of texts that share one telling word, and all texts alone, as lines and as a table."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("rows")

    def text(word):
        return " ".join(rng.permutation([*rng.choice(WORDS, 3), word]))

    found = []
    for number in range(120):
        word, other = (f"word{n}" for n in rng.choice(9, 2, replace=False))
        second = text(word if number % 2 else other)
        row = {"query": text(word), "positive": text(word), "word": word}
        found.append({**row, "other": second, "score": number % 2})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n")
    texts = [row["query"] for row in found]
    (folder / "texts.txt").write_text("\n".join(texts) + "\n")
    (folder / "texts.jsonl").write_text(
        "\n".join(json.dumps({"query": text, "id": n}) for n, text in enumerate(texts)) + "\n"
    )
    return folder


def test_rows_say_what_a_teacher_says():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((30, 4)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    texts = [f"t{number}" for number in range(30)]
    near = nearest(points)
    own, labels = TASK_TYPES["retrieval"].rows_of_texts(texts, points)
    assert own == tuple((text,) for text in texts)
    assert labels.tolist() == [texts[other] for other in near]
    own, labels = TASK_TYPES["similarity"].rows_of_texts(texts, points)
    assert own[:3] == (("t0", texts[near[0]]), ("t1", "t2"), ("t2", texts[near[2]]))
    places = {text: row for row, text in enumerate(texts)}
    cosines = [float(points[places[a]] @ points[places[b]]) for a, b in own]
    assert labels.tolist() == pytest.approx(cosines, abs=1e-6)
    own, labels = TASK_TYPES["label-retrieval"].rows_of_texts(texts, points)
    assert (labels == labels[near]).all()
    assert len(set(labels.tolist())) > 1


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("ending", ["txt", "jsonl"])
def test_tasks_go_to_fewer_bits_on_texts_alone(kind, ending, rows, tiny_model, quick, tmp_path):
    config = quick(bits=8, group=0, steps=60, margin=0.5, lr=3e-3)
    request = FitRequest(
        str(tiny_model), TASKS[kind], tmp_path / "old", config, data=rows / "rows.jsonl"
    )
    fit_task(request)
    steps = 200 if kind == "label-retrieval" else 60  # chance is far up there, on eleven rows
    again = RefitRequest(
        tmp_path / "old",
        str(tiny_model),
        tmp_path / "new",
        quick(bits=4, steps=steps, teacher=None, margin=0.5),
        texts=rows / f"texts.{ending}",
    )
    (done,) = refit_tasks(again).tasks
    assert check_artifact(tmp_path / "new") == []
    assert not done.labelled
    run, entry = done.result, open_artifact(tmp_path / "new").entry("find")
    assert entry.kind == kind
    assert entry.data["labels"] == "of the old task"
    # the old task is right by what it says itself; of labels it finds the nearest text of some
    assert run.original["spearman" if kind == "similarity" else "recall_at_1"] > 0.9
    more = 0.02 if kind == "label-retrieval" else 0.05
    assert run.score > run.majority[run.metric] + more
    assert entry.config == open_artifact(tmp_path / "old").entry("find").config


def test_a_folder_of_sentence_transformers_is_adopted_from_texts_or_rows(
    rows, tiny_model, quick, tmp_path
):
    dense, task = tmp_path / "dense", TASKS["retrieval"]
    config = BaselineConfig(steps=30, batch_size=16, max_length=16, precision="fp32", lr=5e-4)
    request = BaselineRequest(str(tiny_model), task, config, dense, data=rows / "rows.jsonl")
    run_baseline(request)
    learn = quick(bits=8, group=0, steps=200, teacher=None, margin=0.3, lr=3e-3)
    columns = TaskOptions(type=Type.VECTORS)
    asked = AdoptRequest(
        {"find": str(dense)}, tmp_path / "a", str(tiny_model), learn, texts=rows / "texts.txt"
    )
    (done,) = adopt_models(replace(asked, columns=columns)).tasks
    assert not done.labelled
    assert done.result.original["recall_at_1"] > 0.9
    assert done.result.score > done.result.majority["ndcg_at_10"] + 0.1
    artifact = open_artifact(tmp_path / "a")
    assert (artifact.entry("find").kind, artifact.entry("find").labels) == ("retrieval", ())
    assert artifact.entry("find").config["prefix"] == ["we : ", "we : "]
    named = replace(columns, text_field="query", label_field="positive")
    with_rows = replace(
        asked, out=tmp_path / "b", texts=None, data={"find": rows / "rows.jsonl"}, columns=named
    )
    (done,) = adopt_models(with_rows).tasks
    assert done.labelled
    few = tmp_path / "few.txt"
    few.write_text("a\nb\na\n")
    with pytest.raises(DataError, match="holds 2 different texts, and vectors are compared"):
        adopt_models(replace(asked, out=tmp_path / "c", texts=few, columns=columns))
