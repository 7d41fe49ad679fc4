"""`compress study`, and `compress path` between two of its kind."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

from maskpack.compressor.sweep.study import StudyRequest, ZerosStudy, study_of_bits, study_of_zeros
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


def test_one_run_a_seed_draws_quality_against_zeros(main, tiny_model, sentiment, work):
    args = ["study", "zeros", tiny_model, "--task", "sst2", "--data", sentiment, "--seeds", "0,1"]
    args += ["--shares", "0.1,0.3,0.6", "--steps", "30", "--batch-size", "16", "--alone"]
    found = main(*args, "--max-length", "16")
    assert found.code == 0, found.err
    assert len((work / "study" / "study.jsonl").read_text().splitlines()) == 4, "no run a share"
    labels = [f"zeros bits=4{at}" for at in (", 10 % zeros", ", 30 % zeros", "")]
    for label, share in zip(labels, ("10.00%", "30.00%", "60.00%"), strict=True):
        rows = [line for line in found.out.splitlines() if line.startswith(f"| {label} ")]
        row = rows[0]  # the second table is of Matthews correlations
        assert share in row
        assert "2/2" in row
    root = ET.fromstring((work / "study" / "quality-sparsity.svg").read_text())
    words = {"".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"zeros in the mask, %", "dense (reference)", "zeros bits=4"} <= words
    (table,) = main(*args, "--max-length", "16", "--json", "--no-pictures").json
    (row,) = [each for each in table["rows"] if each["family"] == "zeros"]
    assert [each["sparsity"] for each in row["stops"]] == pytest.approx([0.1, 0.3], abs=1e-3)
    assert (work / "study" / "quality-sparsity.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shares", "0.2,0.1"], "`shares` is `0.2,0.1`, expected two rising shares or more"),
        (["--shares", "half"], "`shares` is `half`"),
        (["--estimators", "topk"], "`--estimators` says nothing about a study of zeros"),
        (["--sparsity", "0.2"], "`--sparsity` says nothing about a study of zeros"),
    ],
)
def test_zeros_that_cannot_be_passed_are_refused(main, tiny_model, sentiment, work, options, words):
    found = main("study", "zeros", tiny_model, "--task", "sst2", "--data", sentiment, *options)
    assert (found.code, words in found.err) == (1, True), found.err
    assert not (work / "study").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bits", "4,x"], "`bits` is `4,x`"),
        (["--bits", "5"], "`bits` has 5, expected 8, 4, 2 or 1"),
        (["--seeds", "0,0"], "`seeds` is (0, 0), expected one or more, each once"),
        (["--estimators", "none"], "no estimator `none`"),
        (["--shares", "0.1,0.2"], "`--shares` says nothing about a study of bits"),
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
    chosen = study_of_bits(StudyRequest("demo", "reviews", estimators=("maskllm",)))
    assert chosen["methods"]["maskllm"]["pattern"] == "2:4"
    assert chosen["methods"]["maskllm"]["sparsity"] == 0.5
    zeros = study_of_zeros(ZerosStudy("demo", "reviews"))
    assert zeros["methods"]["zeros"]["continual"] == "0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    assert zeros["reference"] == "dense"
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


@pytest.mark.parametrize("data", ["hub:some/rows", "hub:some/rows:small"])
def test_a_data_set_of_the_hub_keeps_its_name_in_a_plan(data):
    for plan in (
        study_of_bits(StudyRequest("demo", "reviews", data=Path(data))),
        study_of_zeros(ZerosStudy("demo", "reviews", data=Path(data))),
    ):
        assert plan["tasks"]["reviews"]["data"] == data
