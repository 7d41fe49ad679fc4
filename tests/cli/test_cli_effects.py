"""What options on labels did is printed, and part of the JSON."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def rare(write):
    """A file of rows with a rare label; every fifth row has it."""
    lines = [
        f"word{row % 18} {'good' if row % 5 == 0 else 'bad'},{'rare' if row % 5 == 0 else 'usual'}"
        for row in range(250)
    ]
    return write("rows.csv", "\n".join(["text,label", *lines, ""]))


def fit(model, data, out, *more):
    return ["fit", model, "-t", "own", "--data", data, "-o", out, *more]


def test_weights_of_labels_are_printed_with_their_recall(main, work, tiny_model, rare, short):
    weighted = [*short, "--class-weight", "balanced"]
    done = main(*fit(tiny_model, rare, "a", *weighted))
    assert done.code == 0
    assert "own: loss weighted by label, mean recall 0." in done.out
    (line,) = (line for line in done.out.splitlines() if line.split()[:1] == ["rare"])
    assert line.split()[1:3] == ["20.0%", "2.5"]
    told = json.loads(main(*fit(tiny_model, rare, "b", *weighted, "--json")).out)
    first, second = told["class_weights"]["classes"]
    assert (first["label"], first["weight"]) == ("rare", 2.5)
    assert told["class_weights"]["mean_recall"] == (first["recall"] + second["recall"]) / 2
    plain = main(*fit(tiny_model, rare, "c", *short))
    assert "weighted by label" not in plain.out


def test_weights_of_a_number_are_refused_with_the_option_to_leave_out(main, work, tiny_model):
    (work / "n.csv").write_text("text,label\n" + "the film,1.5\nfood,2.5\n" * 20)
    done = main(*fit(tiny_model, "n.csv", "a", "--regression", "--class-weight", "balanced"))
    assert done.code == 1
    assert "`own` is a regression" in done.err
    assert "hint: leave `--class-weight` out" in done.err


def test_a_file_of_options_repeats_the_weights(main, work, tiny_model, rare, short):
    main(
        *fit(tiny_model, rare, "a", *short, "--class-weight", "balanced", "--save-config", "r.yml")
    )
    assert "class_weight: balanced" in (work / "r.yml").read_text()
    assert main("fit", "--config", "r.yml", "-o", "b").code == 0
    files = [sorted((work / out).rglob("*.safetensors")) for out in ("a", "b")]
    one, other = ([path.read_bytes() for path in each] for each in files)
    assert one == other
    shown = main("inspect", "a", "-t", "own", "--config")
    assert "class_weight: balanced" in shown.out


def test_a_temperature_is_printed_with_what_it_did(main, work, tiny_model, rare, short):
    asked = [*short, "--calibrate", "temperature"]
    done = main(*fit(tiny_model, rare, "a", *asked))
    assert done.code == 0
    assert "fitted on 22 training rows that were held out" in done.out
    assert (
        "held out 22 of 225 training rows, the same for every seed, to fit the head on" in done.err
    )
    (line,) = (line for line in done.out.splitlines() if "calibration error" in line)
    told = json.loads(main(*fit(tiny_model, rare, "b", *asked, "--json")).out)["tuning"]
    effect = told["temperature"]
    assert line.split()[-2:] == [f"{effect[f'ece_{when}']:.4f}" for when in ("before", "after")]
    assert main("check", "a").code == 0


def test_thresholds_are_printed_beside_the_metrics_of_a_half(main, work, tiny_model, write, short):
    lines = [
        f"word{row % 18} {('bad', 'good')[row // 3 % 2]},{'rare' if row % 3 == 0 else 'usual'}"
        for row in range(300)
    ]
    data = write("thirds.csv", "\n".join(["text,label", *lines, ""]))
    asked = [*short, "--threshold", "tuned"]
    done = main(*fit(tiny_model, data, "a", *asked))
    assert done.code == 0
    assert "own: thresholds, fitted on 27 training rows that were held out" in done.out
    assert "thresholds of 0.5" in done.out
    told = json.loads(main(*fit(tiny_model, data, "b", *asked, "--json")).out)
    (effect,) = told["tuning"]["thresholds"]
    (line,) = (line for line in done.out.splitlines() if line.split()[:1] == ["rare"])
    wanted = [effect[name] for name in ("threshold", "f1_before", "f1_after")]
    assert [float(cell) for cell in line.split()[2:]] == pytest.approx(wanted, abs=6e-4)
    assert told["tuning"]["scores_before"].keys() == told["scores"].keys()
    assert "threshold: tuned" in main("inspect", "a", "-t", "own", "--config").out


def test_few_rows_are_refused_with_the_option_to_leave_out(
    main, work, tiny_model, sentiment, short
):
    done = main(
        "fit", tiny_model, "-t", "sst2", "--data", sentiment, *short, "--threshold", "tuned"
    )
    assert done.code == 1
    assert "`threshold` needs 10 held-out rows, a tenth of the 96 training rows is 9" in done.err
    assert "hint: give 100 training rows or more, or leave `--threshold` out" in done.err
