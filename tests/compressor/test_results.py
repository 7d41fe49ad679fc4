from __future__ import annotations

import json
from dataclasses import replace

import pytest

from maskpack.compressor.types import RunResult

RESULT = RunResult(
    method="mask",
    model="demo",
    task="sst2",
    bits=4,
    seed=0,
    train_rows=100,
    eval_rows=50,
    steps=7,
    seconds=1.5,
    metric="matthews",
    scores={"matthews": 0.25, "accuracy": 0.7},
    majority={"matthews": 0.0, "accuracy": 0.5},
    weights=1000,
    zeros=10,
)


def test_the_score_is_that_of_the_main_metric():
    assert RESULT.score == 0.25
    assert replace(RESULT, metric="accuracy").score == 0.7


@pytest.mark.parametrize(("score", "collapsed"), [(-0.1, True), (0.0, True), (0.01, False)])
def test_a_result_no_better_than_the_commonest_answer_has_collapsed(score, collapsed):
    assert replace(RESULT, scores={"matthews": score}).collapsed is collapsed


def test_the_line_of_json_holds_every_figure_and_the_derived_sizes():
    tree = json.loads(RESULT.to_json())
    assert "\n" not in RESULT.to_json()
    assert tree["sparsity"] == 0.01
    assert tree["entropy_bpp"] == pytest.approx(0.0808, abs=1e-4)
    assert tree["entropy_bytes"] == 11  # 80.8 bits
    assert tree["collapsed"] is False
    assert {"method", "scores", "majority", "options", "seconds", "zeros"} <= set(tree)


def test_weights_of_removed_units_cost_their_units_bits_only():
    units = replace(RESULT, zeros=510, unit_weights=500, unit_bytes=9, head_bytes=100)
    assert (units.beside_units.weights, units.beside_units.zeros) == (500, 10)
    tree = json.loads(units.to_json())
    assert tree["sparsity"] == 0.51
    assert tree["entropy_bytes"] == 9  # 500 weights of .1414 bits
    assert tree["coded_bytes"] == 9 + 9 + 100
    assert tree["unit_bytes"] == 9


def test_a_baseline_without_a_mask_has_no_sparsity():
    tree = json.loads(replace(RESULT, weights=0, zeros=0).to_json())
    assert (tree["sparsity"], tree["entropy_bpp"], tree["entropy_bytes"]) == (0.0, 0.0, 0)
