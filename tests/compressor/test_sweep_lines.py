"""A sweep's table from its results alone: labels, repeated runs, references, and what is refused."""

from __future__ import annotations

import math

import pytest

from maskpack.compressor.sweep.table import tables_of_lines
from maskpack.formats import ConfigError


def line(label="mask bits=4", seed=0, score=0.5, **changes):
    tree = {
        "method": "mask",
        "model": "m",
        "task": "t",
        "metric": "accuracy",
        "scores": {"accuracy": score},
        "majority": {"accuracy": 0.4},
        "bits": 4,
        "seed": seed,
        "sparsity": 0.1,
        "coded_bytes": 100,
        "seconds": 1.0,
        "weights": 10,
        "collapsed": False,
    }
    if label is not None:
        tree |= {"label": label, "sweep_model": "m", "sweep_task": "t"}
    return {**tree, **changes}


def dense(seed=0, score=0.6, label="dense"):
    return line(label, seed, score, method="full", weights=0, bits=32)


def test_mean_sd_and_points_are_those_of_the_lines():
    (table,) = tables_of_lines([dense(), dense(1, 0.8), line(), line(seed=1, score=0.9)])
    assert [row.arm.label for row in table.rows] == ["dense", "mask bits=4"]
    assert table.reference == "dense"
    row = table.rows[1]
    assert row.score.mean == pytest.approx(0.7)
    assert row.score.sd == pytest.approx(0.4 / math.sqrt(2))
    assert row.points.mean == pytest.approx(0.0)
    assert (row.runs, table.planned) == (2, 2)
    assert table.majority == {"t": 0.4}


@pytest.mark.parametrize(
    ("label", "family", "varied"),
    [
        ("mask bits=4", "mask", {"bits": 4}),
        ("two words lr=0.1 init=snip", "two words", {"lr": 0.1, "init": "snip"}),
        ("mask", "mask", {}),
        ("a=1", "a=1", {}),
        ("x y=1 z", "x y=1 z", {}),
    ],
)
def test_a_label_is_taken_apart(label, family, varied):
    (table,) = tables_of_lines([line(label)])
    arm = table.rows[0].arm
    assert (arm.label, arm.family, dict(arm.varied)) == (label, family, varied)


def test_lines_of_single_runs_are_named_by_what_they_are():
    (table,) = tables_of_lines([line(None), line(None, bits=8), dense(label=None)])
    assert [row.arm.label for row in table.rows] == ["mask bits=4", "mask bits=8", "full"]
    assert table.reference == "full"


def test_a_run_that_is_there_twice_counts_as_its_last_line_says():
    (table,) = tables_of_lines([line(score=0.1), line(score=0.9)])
    assert (table.rows[0].score.mean, table.rows[0].runs) == (0.9, 1)


def test_a_correlation_that_some_seeds_lack_is_left_out():
    both = {"accuracy": 0.5, "matthews": 0.1}
    (table,) = tables_of_lines([line(scores=both), line(seed=1)])
    assert table.rows[0].cells["t"].mcc is None
    (table,) = tables_of_lines([line(scores=both), line(seed=1, scores=both)])
    assert table.rows[0].cells["t"].mcc.mean == pytest.approx(0.1)


def test_each_model_has_its_table_and_two_dense_methods_are_no_reference():
    tables = tables_of_lines([
        dense(label="a"), dense(label="b"), line(sweep_model="n"),
    ])  # fmt: skip
    assert [(table.model, table.reference) for table in tables] == [("m", None), ("n", None)]
    (table,) = tables_of_lines([dense(label="a"), dense(label="b")], reference="b")
    assert table.reference == "b"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "there is no result"),
        ([{"a": 1}], "line 1 is no result of a run: it has no `method`"),
        ([line(), {**line(), "scores": {}}], "line 2 is no result"),
        ([{**line(), "seed": "x"}], "a figure is missing or no number"),
        ([{**line(), "majority": None}], "a figure is missing or no number"),
        ([{**line(), "bits": True}], "a figure is missing or no number"),
        ([{**line(), "seconds": math.nan}], "a figure is missing or no number"),
        ([line(metric=["accuracy"])], "a figure is missing or no number"),
        ([line(score=math.inf)], "a figure is missing or no number"),
        (
            [line(), line(seed=1, metric="f1", scores={"f1": 0.5}, majority={"f1": 0.1})],
            "task `t` is judged by `accuracy` in one line and by `f1` in another",
        ),
    ],
)
def test_what_is_no_result_is_refused(lines, message):
    with pytest.raises(ConfigError, match=message) as caught:
        tables_of_lines(lines)
    assert caught.value.hint
