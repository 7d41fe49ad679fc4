"""The table's numbers, by hand."""

from __future__ import annotations

import math

import pytest
import yaml

from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.table import Spread, count_foreign, tabulate

SCORES = {  # label -> task -> one value a seed
    "dense": {"reviews": [0.80, 0.90], "tickets": [0.60, 0.60]},
    "mask": {"reviews": [0.79, 0.87], "tickets": [0.60, 0.50]},
}
MAJORITY = {"reviews": 0.5, "tickets": 0.5}


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.yaml"
    tree = {
        "models": ["a"],
        "tasks": ["reviews", "tickets"],
        "seeds": [3, 4],
        "methods": {"dense": {"method": "full"}, "mask": None},
        "reference": "dense",
    }
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return read_plan(path)


def line(run):
    _, task, label, seed = run.names
    value = SCORES[label][task][seed - 3]
    mask = label == "mask"
    return {
        "sweep_key": run.key,
        "label": label,
        "metric": "accuracy",
        "scores": {"accuracy": value, "matthews": 2 * value - 1},
        "majority": {"accuracy": MAJORITY[task]},
        "collapsed": value <= MAJORITY[task],
        "weights": 1000 if mask else 0,
        "sparsity": 0.02 * (seed - 2) if mask else 0.0,
        "coded_bytes": 100 if mask else 4000,
        "bits": 8 if mask else 32,
        "seconds": float(seed),
    }


def test_means_deviations_and_differences(plan):
    (table,) = tabulate(plan, [line(run) for run in plan.runs])
    dense, mask = table.rows
    assert table.metrics == {"reviews": "accuracy", "tickets": "accuracy"}
    assert table.majority == MAJORITY
    assert dense.cells["reviews"].score.mean == pytest.approx(0.85)
    assert dense.cells["reviews"].score.sd == pytest.approx(0.1 / math.sqrt(2))
    assert dense.score.mean == pytest.approx(0.725)
    assert dense.points == Spread(0.0, 0.0)
    # seed 3: -1 and 0 points, seed 4: -3 and -10 points; means -0.5 and -6.5
    assert mask.points.mean == pytest.approx(-3.5)
    assert mask.points.sd == pytest.approx(6 / math.sqrt(2))
    assert mask.cells["reviews"].mcc.mean == pytest.approx(0.66)
    assert mask.cells["tickets"].collapsed == (4,)
    assert mask.sparsity == pytest.approx(0.03)
    assert dense.sparsity is None
    assert (mask.coded_bytes, mask.bits, mask.seconds) == (100, 8, 3.5)
    assert (mask.runs, table.planned) == (4, 4)


def test_seeds_are_paired_while_some_are_missing(plan):
    lines = [line(run) for run in plan.runs if run.names[2:] != ("dense", 4)]
    (table,) = tabulate(plan, lines)
    dense, mask = table.rows
    assert mask.points.mean == pytest.approx(-0.5)
    assert math.isnan(mask.points.sd)
    assert (dense.runs, mask.runs) == (2, 4)


def test_a_mean_over_tasks_needs_every_task(plan):
    (table,) = tabulate(plan, [line(run) for run in plan.runs if run.task.name == "reviews"])
    assert all(row.score is None and row.points is None for row in table.rows)
    assert set(table.majority) == {"reviews"}


def test_lines_of_other_options_do_not_count(plan):
    lines = [line(run) for run in plan.runs]
    foreign = {**lines[0], "sweep_key": "other", "scores": {"accuracy": 0.0, "matthews": 0.0}}
    old = {"method": "mask"}  # of another tool
    assert count_foreign(plan, [*lines, foreign, old]) == 2
    assert tabulate(plan, [*lines, foreign, old]) == tabulate(plan, lines)


def test_no_line_is_no_table(plan):
    assert tabulate(plan, []) == ()


def test_each_share_that_runs_pass_is_a_row_of_its_own(plan):
    """Shares on the way have their own means over seeds, tasks and differences to the reference."""
    lines = []
    for run in plan.runs:
        own = line(run)
        if run.names[2] == "mask":
            way = {"scores": {"accuracy": 0.4 + 0.1 * (run.seed - 3)}, "zeros": 100}
            own["snapshots"] = [{**way, "coded_bytes": 40}]
            own["options"] = {"continual": "0.1,0.5"}
        lines.append(own)
    dense, mask = tabulate(plan, lines)[0].rows
    assert dense.stops == ()
    (stop,) = mask.stops
    assert stop.arm.label == "mask, 10 % zeros"
    assert stop.cells["reviews"].by_seed == pytest.approx({3: 0.4, 4: 0.5})
    assert stop.cells["tickets"].collapsed == (3, 4), "no better than the majority"
    assert stop.score.mean == pytest.approx(0.45)
    assert stop.score.sd == pytest.approx(0.1 / math.sqrt(2))
    # seed 3: -40 and -20 points, seed 4: -40 and -10
    assert stop.points.mean == pytest.approx(-27.5)
    assert (stop.sparsity, stop.coded_bytes, stop.runs) == (0.1, 40, 4)
    assert mask.score.mean == pytest.approx(0.69)
