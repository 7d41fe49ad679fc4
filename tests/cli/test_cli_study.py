"""`compress study bits`, and `compress path` between two of its kind."""

from __future__ import annotations

import json

import pytest
import yaml

from maskpack.compressor.sweep.study import StudyRequest, study_of_bits
from maskpack.formats import ConfigError


def test_a_study_runs_and_goes_on(main, tiny_model, sentiment, work):
    args = ["study", "bits", tiny_model, "--task", "sst2", "--data", sentiment, "--seeds", "0"]
    options = (
        "--bits 4,1 --estimators threshold,bernoulli --steps 4 --batch-size 16 --max-length 16"
    )
    found = main(*args, *options.split(), "--no-pictures", "--alone")
    assert found.code == 0, found.err
    for label in ("dense", "threshold bits=4", "threshold bits=1", "bernoulli bits=1"):
        assert f"| {label}" in found.out
    lines = (work / "study" / "study.jsonl").read_text().splitlines()
    assert len(lines) == 5
    again = main(*args, *options.split(), "--no-pictures", "--alone")
    assert again.out == found.out
    assert (work / "study" / "study.jsonl").read_text().splitlines() == lines
    bernoulli = next(json.loads(line) for line in lines if "bernoulli" in line)
    assert bernoulli["options"]["sparsity"] == 0.1


def test_the_plan_is_a_file_for_a_sweep(main, tiny_model, sentiment, work):
    args = ["study", "bits", tiny_model, "--task", "sst2", "--data", sentiment, "--dry-run"]
    assert main(*args, "--bits", "2").code == 0
    plan = yaml.safe_load((work / "study" / "study.yaml").read_text())
    assert plan["seeds"] == [0, 1, 2]
    assert plan["methods"]["threshold"]["teacher"] == "run:dense"
    shown = main("sweep", "study/study.yaml", "--dry-run")
    assert "6 runs, 6 to do" in shown.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "4,x"], "`bits` is `4,x`"),
        (["--bits", "5"], "`bits` has 5, expected 8, 4, 2 or 1"),
        (["--seeds", "0,0"], "`seeds` is (0, 0), expected one or more, each once"),
        (["--estimators", "none"], "no estimator `none`"),
    ],
)
def test_what_cannot_be_compared_is_refused(main, tiny_model, sentiment, work, options, words):
    found = main("study", "bits", tiny_model, "--task", "sst2", "--data", sentiment, *options)
    assert (found.code, words in found.err) == (1, True), found.err
    assert not (work / "study").exists()


def test_the_function_beside_it():
    plan = study_of_bits(StudyRequest("demo", "reviews", estimators=("topk",), taught=False))
    assert plan["models"] == ["demo"]
    assert plan["methods"]["topk"] == {
        "bits": [8, 4, 2, 1],
        "estimator": "topk",
        "sparsity": 0.1,
        "teacher": "none",
    }
    with pytest.raises(ConfigError, match="`seeds` is"):
        StudyRequest("demo", "reviews", seeds=())


def test_a_path_is_shown(main, tiny_model, sentiment, work):
    options = "--steps 20 --batch-size 16 --max-length 16 --bits 4 --teacher none --margin 0.5"
    cycles = "--schedule restarts --cycles 2 --snapshots"
    args = ["fit", tiny_model, "--task", "sst2", "--data", sentiment, "-o", "artifact"]
    assert main(*args, *options.split(), *cycles.split()).code == 0
    args = ["path", "artifact", "sst2-1", "sst2", "--data", sentiment, "--points", "3"]
    shown = main(*args)
    assert "share of sst2" in shown.out
    assert "above the line" in shown.err
    assert len(main(*args, "--json").json["points"]) == 3
