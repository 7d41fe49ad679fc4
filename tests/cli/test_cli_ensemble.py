"""`--ensemble` of `predict` and `eval --onnx`: tasks that answer as one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import Tolerance, export_shared
from maskpack.exporters.options import SharedRequest
from maskpack.runtime import Session
from maskpack.tasks import find_task

BOTH = ("one", "two")
TEXTS = ["good fine film", "bad word1", "film film", "word1 good"]


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model, sentiment, quick):
    """Two tasks on one backbone, and their graphs."""
    root = tmp_path_factory.mktemp("ensemble")
    for seed, name in enumerate(BOTH):
        config = quick(seed=seed, margin=0.5)
        request = FitRequest(str(tiny_model), find_task("sst2"), root / "artifact", config)
        fit_task(replace(request, data=sentiment, name=name))
    exact = Tolerance.of("fp32")
    export_shared(
        SharedRequest(root / "artifact", (), root / "graphs", "fp32", exact, verify=False)
    )
    return root / "artifact", root / "graphs"


def test_lines_and_tables_have_the_answers_of_the_mean(main, made, work):
    folder = made[1]
    (work / "texts.txt").write_text("\n".join(TEXTS))
    args = ["predict", folder, "--ensemble", "one, two", "--texts", "texts.txt"]
    wanted = Session(folder).predict(TEXTS, task=BOTH)
    lines = [json.loads(line) for line in main(*args).out.splitlines()]
    assert [line["label"] for line in lines] == [one.label for one in wanted]
    assert [line["score"] for line in lines] == pytest.approx([one.score for one in wanted])
    alone = Session(folder).predict(TEXTS, task="one")
    assert [one.score for one in alone] != pytest.approx([one.score for one in wanted])
    table = main(*args, "--csv").out.splitlines()
    assert table[0] == "text,one"
    assert [line.rsplit(",", 1)[1] for line in table[1:]] == [one.label for one in wanted]


def test_metrics_are_of_the_mean(main, made, sentiment):
    artifact, folder = made
    args = ["eval", artifact, "--onnx", folder, "--data", sentiment, "--json"]
    found = main(*args, "--ensemble", "two,one").json
    assert found["task"] == "two"
    rows = sum(one["given"] for one in found["classes"])
    session = Session(folder)
    texts = [line.split("\t")[0] for line in (sentiment / "dev.tsv").read_text().splitlines()[1:]]
    labels = list(session.config("one").labels)
    given = [one.label for one in session.predict(texts, task=BOTH)]
    assert rows == len(texts)
    assert [one["given"] for one in found["classes"]] == [given.count(name) for name in labels]
    assert np.isfinite(list(found["scores"].values())).all()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--ensemble", "one,two", "--task", "one"], "`--ensemble` goes without `--task`"),
        (["--ensemble", "one,two", "--all"], "`--all` goes without `--ensemble`"),
        (["--ensemble", "one"], "an ensemble is of two different tasks or more, not of one"),
        (["--ensemble", "one,three"], "no task `three` is here"),
    ],
)
def test_what_says_nothing_is_refused(main, made, args, words):
    found = main("predict", made[1], *args, stdin="film")
    assert found.code == 1
    assert words in found.err


def test_torch_models_are_no_ensemble(main, made, sentiment):
    found = main("eval", made[0], "--ensemble", "one,two", "--data", sentiment)
    assert found.code == 1
    assert "`--ensemble` is for `--onnx`" in found.err
