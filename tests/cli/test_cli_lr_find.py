"""`compress lr-find`, and `--find-lr` of `baseline` and `fit`."""

from __future__ import annotations

import re

import pytest


@pytest.fixture
def args(tiny_model, sentiment):
    """A model, its task, and options of a quick run."""
    options = "--batch-size 16 --max-length 16 --precision fp32"
    return [tiny_model, "--task", "sst2", "--data", sentiment, *options.split()]


def test_the_curve_is_shown_and_told(main, args, work):
    shown = main("lr-find", *args, "--method", "full", "--picture", "rates.svg")
    assert shown.code == 0, shown.err
    assert "range test of lr" in shown.out
    assert re.search(r"next: --lr \d\S* --head-lr \d", shown.err)
    assert "learning rate" in (work / "rates.svg").read_text()
    tree = main("lr-find", *args, "--method", "full", "--json", "--steps", "40").json
    assert len(tree["rates"]) == len(tree["losses"]) <= 40
    assert tree["suggestion"] < tree["lowest"]


def test_a_baseline_takes_the_rate(main, args):
    found = main("baseline", *args, "--method", "full", "--steps", "5", "--find-lr", "--json")
    rate = re.search(r"suggests --lr (\S+) --head-lr (\S+)", found.err)
    assert rate is not None, found.err
    assert found.json["options"]["lr"] == pytest.approx(float(rate[1]))
    assert found.json["options"]["head_lr"] == pytest.approx(float(rate[2]))


def test_a_mask_with_a_threshold_needs_none(main, args, work):
    found = main("fit", *args, "-o", "artifact", "--find-lr")
    assert found.code == 1
    assert "the rate of scores of estimator threshold cancels" in found.err
    assert not (work / "artifact").exists()


def test_a_picture_has_a_known_kind(main, args):
    found = main("lr-find", *args, "--method", "full", "--picture", "rates.jpg")
    assert (found.code, "is no name of a picture" in found.err) == (1, True)
