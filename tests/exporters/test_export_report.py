"""The verdict as a value: what is out of tolerance, and the JSON that carries it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from maskpack.exporters import Compute, Report, Tolerance
from maskpack.exporters.report import AccuracyCheck, GraphFacts, ValueCheck
from maskpack.exporters.session import relative_error
from maskpack.exporters.verify import check_tolerance
from maskpack.formats import ConfigError, DataError

GOOD = ValueCheck(batch=2, sequence=16, padded=True, max_diff=0.5, argmax=2, relative=0.1)
ACCURACY = AccuracyCheck(
    100, "accuracy", graph=0.9, torch=0.9, agreement=1.0, max_diff=0.5, relative=0.1
)
FACTS = GraphFacts(1234, 56, 18, 8, masked_weights=100, mask_zeros=10, code_zeros=12, removed=10)
REPORT = Report(
    task="reviews",
    compute="int8",
    atol=1.0,
    max_drop=0.5,
    session={"onnxruntime": "1.31.1", "providers": "CPUExecutionProvider"},
    graph=FACTS,
    values=(GOOD, replace(GOOD, batch=5, padded=False, max_diff=0.25)),
    accuracy=replace(ACCURACY, torch=0.95, reference=0.96),
    findings=("a finding", "and another"),
    rtol=0.25,
)


def findings(*, atol=1.0, rtol=None, max_drop=0.5, value=GOOD, accuracy=ACCURACY):
    return check_tolerance(Tolerance(atol, max_drop, rtol), [value], accuracy)


def test_a_graph_within_tolerance_has_no_findings():
    assert findings() == []
    assert findings(accuracy=None) == []


def test_what_lies_exactly_at_the_tolerance_passes():
    assert findings(atol=0.5, rtol=0.1, max_drop=0.0) == []


@pytest.mark.parametrize("difference", [0.51, math.inf, math.nan])
def test_a_value_beyond_the_tolerance_is_found_with_its_shape(difference):
    (line,) = findings(atol=0.5, value=replace(GOOD, max_diff=difference), accuracy=None)
    shown = f"{difference:.3g}"
    assert line == f"values at batch 2, sequence 16 differ by {shown}, tolerated 0.5"


def test_every_shape_is_judged():
    checks = [replace(GOOD, sequence=s, max_diff=d) for s, d in ((1, 2.0), (7, 0.1), (33, 3.0))]
    lines = check_tolerance(Tolerance(1.0, 0.5), checks, None)
    assert [line.split(" differ")[0] for line in lines] == [
        "values at batch 2, sequence 1",
        "values at batch 2, sequence 33",
    ]


@pytest.mark.parametrize("difference", [1.5, math.inf, math.nan])
def test_a_logit_of_the_evaluation_data_beyond_the_tolerance_is_found(difference):
    (line,) = findings(accuracy=replace(ACCURACY, max_diff=difference))
    assert line.startswith("logits on the evaluation data differ by ")
    assert line.endswith("tolerated 1")


@pytest.mark.parametrize(
    ("relative", "shown"), [(0.2, "20.0%"), (math.inf, "inf%"), (math.nan, "nan%")]
)
def test_an_error_beyond_the_relative_tolerance_is_found_on_tokens_and_on_data(relative, shown):
    assert findings(
        rtol=0.15,
        value=replace(GOOD, relative=relative),
        accuracy=replace(ACCURACY, relative=relative),
    ) == [
        f"values at batch 2, sequence 16 differ by {shown} of their size, tolerated 15.0%",
        f"logits on the evaluation data differ by {shown} of their size, tolerated 15.0%",
    ]


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ([3.0, 4.0], [3.0, 4.0], 0.0),
        ([3.0, 4.0], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([6.0, 8.0], [3.0, 4.0], 1.0),
        ([3.0, 4.5], [3.0, 4.0], 0.1),
        ([math.nan, 4.0], [3.0, 4.0], math.nan),
    ],
)
def test_the_relative_error_is_a_root_mean_square_over_another(left, right, wanted):
    found = relative_error(np.array([left], "f4"), np.array([right], "f4"))
    assert found == pytest.approx(wanted, nan_ok=True)


def test_the_relative_error_to_what_is_not_a_number_is_not_a_number():
    left, right = np.array([[1.0, 2.0]], "f4"), np.array([[math.nan, 2.0]], "f4")
    assert math.isnan(relative_error(left, right))


@pytest.mark.parametrize(("graph", "shown"), [(0.89, "1.00"), (math.nan, "nan")])
def test_a_drop_of_the_metric_is_found_in_points(graph, shown):
    (line,) = findings(accuracy=replace(ACCURACY, graph=graph))
    assert line == f"accuracy drops by {shown} points, tolerated 0.50"


def test_a_graph_that_scores_better_than_torch_passes():
    assert findings(max_drop=0.0, accuracy=replace(ACCURACY, graph=0.95)) == []


def test_without_a_tolerance_for_values_the_metric_alone_judges():
    wild = replace(ACCURACY, max_diff=math.nan)
    assert findings(atol=None, value=replace(GOOD, max_diff=math.nan), accuracy=wild) == []
    assert len(findings(atol=None, accuracy=replace(wild, graph=0.1))) == 1


def test_all_findings_are_collected():
    bad = replace(ACCURACY, max_diff=2.0, graph=0.0)
    assert len(findings(value=replace(GOOD, max_diff=2.0), accuracy=bad)) == 3
    assert len(findings(rtol=0.01, value=replace(GOOD, max_diff=2.0), accuracy=bad)) == 5


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        replace(REPORT, findings=(), accuracy=None),
        replace(REPORT, atol=None, values=()),
        replace(REPORT, accuracy=ACCURACY),
    ],
)
def test_a_report_comes_back_from_its_json(report):
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


def test_the_json_says_the_verdict_and_the_drop():
    tree = json.loads(REPORT.to_json())
    assert tree["ok"] is False
    assert tree["accuracy"]["drop"] == pytest.approx(5.0)
    assert json.loads(replace(REPORT, findings=()).to_json())["ok"] is True


def test_the_json_is_canonical():
    text = REPORT.to_json()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("difference", [math.nan, math.inf])
def test_a_value_that_is_not_a_number_still_gives_json(difference):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    text = replace(REPORT, values=(replace(GOOD, max_diff=difference),)).to_json()
    assert json.loads(text, parse_constant=refuse)["ok"] is False


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"accuracy": null}', "not json"])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(DataError, match="not a report"):
        Report.from_json(text)


def test_a_report_with_an_unknown_field_is_refused():
    tree = {**json.loads(REPORT.to_json()), "surprise": 1}
    with pytest.raises(DataError, match="surprise"):
        Report.from_json(json.dumps(tree))


@pytest.mark.parametrize("name", ["atol", "rtol"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_tolerance_that_nothing_could_meet_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"`{name}` is"):
        Tolerance(**{"atol": None, "max_drop": 0.5, name: value})


@pytest.mark.parametrize("drop", [-0.1, math.nan])
def test_a_drop_below_nothing_is_refused(drop):
    with pytest.raises(ConfigError, match="`max_drop` is"):
        Tolerance(1.0, drop)


def test_each_arithmetic_has_its_usual_tolerance_and_the_user_overrules_it():
    assert Tolerance.of(Compute.FP32) == Tolerance(1e-4, 0.5, None)
    assert Tolerance.of(Compute.INT8) == Tolerance(None, 0.5, 0.25, rows=2)
    assert Tolerance.of(Compute.INT8, atol=0.2, max_drop=0.0) == Tolerance(0.2, 0.0, 0.25)
    assert Tolerance.of(Compute.FP32, rtol=0.1) == Tolerance(1e-4, 0.5, 0.1)
