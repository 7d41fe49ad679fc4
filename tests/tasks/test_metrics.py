from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from maskpack.tasks.evaluation.metrics import METRICS, accuracy, f1, matthews, pearson, spearman
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.windows import as_array

relaxed = settings(deadline=None, max_examples=150)


def pairs(values):
    """Two equally long arrays of drawn values."""
    rows = st.lists(st.tuples(values, values), min_size=2, max_size=40)
    return rows.map(lambda rows: (np.array([a for a, _ in rows]), np.array([b for _, b in rows])))


def outside(metric, *args, **options):
    """A metric of another package, without its remarks on ill-defined cases."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return metric(*args, **options)


two_classes = pairs(st.integers(0, 1))
five_classes = pairs(st.integers(0, 4))
numbers = pairs(st.floats(-100, 100, width=32))
few_numbers = pairs(st.integers(-4, 4).map(lambda n: n / 4))


@relaxed
@given(five_classes)
def test_accuracy_agrees_with_scikit_learn(drawn):
    predicted, labels = drawn
    assert accuracy(predicted, labels) == pytest.approx(
        sklearn.metrics.accuracy_score(labels, predicted)
    )


@relaxed
@given(two_classes)
def test_f1_of_two_classes_agrees_with_scikit_learn_for_class_one(drawn):
    predicted, labels = drawn
    expected = outside(sklearn.metrics.f1_score, labels, predicted, zero_division=0)
    assert f1(predicted, labels) == pytest.approx(expected)


@relaxed
@given(five_classes)
def test_f1_of_more_classes_agrees_with_scikit_learn_as_macro_mean(drawn):
    predicted, labels = drawn
    assume(max(predicted.max(), labels.max()) > 1)
    expected = outside(
        sklearn.metrics.f1_score, labels, predicted, average="macro", zero_division=0
    )
    assert f1(predicted, labels) == pytest.approx(expected)


@relaxed
@given(st.one_of(two_classes, five_classes))
def test_matthews_agrees_with_scikit_learn(drawn):
    predicted, labels = drawn
    expected = outside(sklearn.metrics.matthews_corrcoef, labels, predicted)
    assert matthews(predicted, labels) == pytest.approx(expected, abs=1e-12)


@relaxed
@given(numbers)
def test_pearson_agrees_with_scipy(drawn):
    predicted, labels = drawn
    assume(np.ptp(predicted) > 1e-2)
    assume(np.ptp(labels) > 1e-2)
    expected = outside(scipy.stats.pearsonr, predicted, labels).statistic
    assert pearson(predicted, labels) == pytest.approx(expected, abs=1e-9)


@relaxed
@given(few_numbers)
def test_spearman_agrees_with_scipy_where_values_are_tied(drawn):
    predicted, labels = drawn
    assume(np.ptp(predicted) > 0)
    assume(np.ptp(labels) > 0)
    expected = outside(scipy.stats.spearmanr, predicted, labels).statistic
    assert spearman(predicted, labels) == pytest.approx(expected, abs=1e-9)


def test_spearman_gives_equal_values_their_mean_rank():
    # ranks 1.5 1.5 3 4 against 1 2 3 4: covariance 4.5, squares 4.5 and 5
    value = spearman(np.array([7.0, 7.0, 8.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert value == pytest.approx(4.5 / np.sqrt(4.5 * 5.0))


@pytest.mark.parametrize("metric", [pearson, spearman, matthews])
@pytest.mark.parametrize("value", [0, 1, 3])
def test_a_constant_side_scores_zero(metric, value):
    constant, varied = np.full(6, value), np.array([0, 1, 1, 0, 2, 1])
    assert metric(constant, varied) == 0.0
    assert metric(varied, constant) == 0.0
    assert metric(constant, constant) == 0.0


def test_f1_is_zero_without_a_hit_and_without_a_case():
    assert f1(np.array([0, 0, 0]), np.array([0, 1, 1])) == 0.0
    assert f1(np.array([0, 0, 0]), np.array([0, 0, 0])) == 0.0


@pytest.mark.parametrize("name", METRICS)
def test_a_perfect_answer_scores_one_or_has_no_error_and_is_a_plain_float(name):
    labels = np.array([0, 1, 2, 1, 0, 2])
    predicted: np.ndarray = labels
    if name in TASK_TYPES["question-answering"].usual_metrics:
        predicted = np.array(["in", "old", "Rome"], dtype=object)[labels]
        labels = as_array([(one,) for one in predicted])
    if name in TASK_TYPES["retrieval"].usual_metrics:
        predicted = np.zeros_like(labels)  # ranks
    if name in TASK_TYPES["fill-mask"].usual_metrics:
        predicted = np.stack([np.zeros(6), labels], axis=1)  # log p = 0 of the right tokens
    value = METRICS[name](predicted, labels)
    error = name in TASK_TYPES["regression"].error_metrics
    assert value == pytest.approx(0.0 if error else 1.0)
    assert type(value) is float


def test_errors_agree_with_scikit_learn_and_are_of_float64():
    rng = np.random.default_rng(5)
    labels = rng.normal(1e6, 3e5, 50).astype(np.float32)
    predicted = (labels + rng.normal(0, 40, 50)).astype(np.float32)
    wide = labels.astype(np.float64), predicted.astype(np.float64)
    wanted = outside(sklearn.metrics.mean_absolute_error, *wide)
    assert METRICS["mae"](predicted, labels) == pytest.approx(wanted, rel=1e-12)
    wanted = outside(sklearn.metrics.mean_squared_error, *wide) ** 0.5
    assert METRICS["rmse"](predicted, labels) == pytest.approx(wanted, rel=1e-12)


def test_metrics_take_float32_logits_against_float32_labels():
    predicted = np.array([0.1, 0.4, 0.35, 0.9], dtype=np.float32)
    labels = np.array([0.0, 2.5, 2.0, 5.0], dtype=np.float32)
    assert spearman(predicted, labels) == pytest.approx(1.0)
    assert pearson(predicted, labels) == pytest.approx(np.corrcoef(predicted, labels)[0, 1])
