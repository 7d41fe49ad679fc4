"""Likelihood, calibration error and temperature: by hand, and against torch and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch.nn import functional

from maskpack.tasks.evaluation.calibration import (
    SIGMOID,
    SOFTMAX,
    best_threshold,
    expected_calibration_error,
    fit_temperature,
    sigmoid_confidences,
    softmax_confidences,
    softmax_nll,
)
from maskpack.tasks.types import TASK_TYPES


def drawn(rows: int, classes: int, temperature: float, seed: int = 0):
    """Logits that are too sure by a factor, and labels drawn from the probabilities without it."""
    rng = np.random.default_rng(seed)
    true = rng.normal(scale=2.0, size=(rows, classes))
    gumbel = rng.gumbel(size=(rows, classes))
    return (temperature * true).astype(np.float32), (true + gumbel).argmax(axis=1)


def test_likelihoods_are_those_of_torch_and_scikit_learn():
    logits, labels = drawn(50, 3, 1.0)
    own = torch.from_numpy(logits)
    wanted = float(functional.cross_entropy(own.double(), torch.from_numpy(labels)))
    assert SOFTMAX.nll(logits, labels) == pytest.approx(wanted)
    probabilities = own.double().softmax(dim=1).numpy()
    assert SOFTMAX.nll(logits, labels) == pytest.approx(
        sklearn.metrics.log_loss(labels, probabilities)
    )
    table = (logits > 1).astype(np.int8)
    yes = functional.binary_cross_entropy_with_logits(
        own.double(), torch.from_numpy(table).double()
    )
    assert SIGMOID.nll(logits, table) == pytest.approx(float(yes))


def test_huge_logits_have_a_finite_likelihood():
    logits = np.array([[1e4, -1e4]], dtype=np.float32)
    assert SOFTMAX.nll(logits, np.array([1])) == 2e4
    assert SIGMOID.nll(logits, np.array([[0, 0]], dtype=np.int8)) == 5e3


def test_confidences_are_compared_with_what_came_true():
    sure, right = softmax_confidences(np.log([[3.0, 1.0], [1.0, 4.0]]), np.array([0, 0]))
    assert sure.tolist() == pytest.approx([0.75, 0.8])
    assert right.tolist() == [True, False]
    yes, there = sigmoid_confidences(np.log([[3.0, 0.25]]), np.array([[1, 0]]))
    assert yes.tolist() == pytest.approx([0.75, 0.2])
    assert there.tolist() == [True, False]


def test_a_bin_counts_with_its_rows_and_certainty_is_in_the_last():
    sure = np.array([1.0, 1.0, 0.5, 0.5])
    right = np.array([True, False, True, True])
    assert expected_calibration_error(sure, right, bins=2) == 0  # in one bin both errors cancel
    assert expected_calibration_error(sure, right, bins=4) == (1.0 + 1.0) / 4
    assert expected_calibration_error(sure[:1], right[:1]) == 0.0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_logits_that_are_too_sure_is_found(temperature):
    logits, labels = drawn(20_000, 4, temperature)
    found = fit_temperature(lambda value: softmax_nll(logits / value, labels))
    assert found == pytest.approx(temperature, rel=0.03)
    best = softmax_nll(logits / found, labels)
    assert all(best <= softmax_nll(logits / (found * near), labels) for near in (0.99, 1.01))
    if temperature != 1.0:
        before, after = (
            expected_calibration_error(*softmax_confidences(each, labels))
            for each in (logits, logits / found)
        )
        assert after < before / 4


def test_rows_without_a_best_temperature_have_none():
    right = np.array([[2.0, 0.0], [0.0, 2.0]])
    assert fit_temperature(lambda value: softmax_nll(right / value, np.array([0, 1]))) is None
    assert fit_temperature(lambda value: softmax_nll(right / value, np.array([1, 0]))) is None


def test_a_number_has_no_probabilities():
    kinds = {name: kind.probabilities for name, kind in TASK_TYPES.items()}
    assert kinds == {
        "classification": SOFTMAX,
        "multi-label": SIGMOID,
        "regression": None,
        "similarity": None,
        "retrieval": None,
        "token-classification": None,  # one a word
        "question-answering": None,
        "fill-mask": None,
        "image-classification": SOFTMAX,
        "image-multi-label": SIGMOID,
        "image-regression": None,
        "label-retrieval": None,
    }


def f1(margins, truth, cut):
    yes = margins > cut
    return 2.0 * (yes & truth).sum() / (yes.sum() + truth.sum())


def test_no_other_threshold_has_a_better_f1():
    rng = np.random.default_rng(0)
    better = 0
    for _ in range(200):
        truth = np.roll(rng.random(30) < 0.3, 1) | (np.arange(30) == 0)
        margins = np.round(rng.normal(size=30) + truth - 1.0, 1)  # some are equal
        found = best_threshold(margins, truth)
        cuts = (np.unique(margins)[1:] + np.unique(margins)[:-1]) / 2
        best = max(f1(margins, truth, cut) for cut in cuts)
        better += found != 0
        if found:
            assert f1(margins, truth, found) == pytest.approx(best)
            assert best > f1(margins, truth, 0.0)
            assert best > f1(margins, truth, -np.inf)
        else:
            nothing = max(f1(margins, truth, 0.0), f1(margins, truth, -np.inf))
            assert best <= nothing + 1e-12
    assert better > 100


def test_a_threshold_stays_where_no_other_is_better():
    truth = np.array([False, False, True, True])
    assert best_threshold(np.array([-2.0, -1.0, 1.0, 2.0]), truth) == 0.0  # all are right
    assert best_threshold(np.array([-1.0, -2.0, -3.0, -4.0]), truth) == 0.0  # always yes is best
    assert best_threshold(np.full(4, -1.0), truth) == 0.0  # nothing tells rows apart


def test_of_equally_good_thresholds_the_one_near_0_is_taken():
    margins = np.array([5.0, 4.0, 3.0, 2.0, 1.0, -9.0])
    truth = np.array([True, False, False, False, False, False])
    assert best_threshold(margins, truth) == 4.5
    margins = np.array([9.0, 7.0, 5.0, 3.0, 1.0])  # F1 of 2/3 after the first and the fourth
    truth = np.array([True, False, False, True, False])
    assert best_threshold(margins, truth) == 2.0


def test_two_classes_have_one_decision_and_several_labels_one_each():
    one, many, number = (TASK_TYPES[n] for n in ("classification", "multi-label", "regression"))
    logits = np.array([[1.0, 3.0], [2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    (rare,) = one.decisions(logits, np.array([1, 0, 1]))
    assert (rare.label, rare.margins.tolist(), rare.fewest) == (0, [-2.0, 2.0, -1.0], 1)
    assert rare.truth.tolist() == [False, True, False]
    (even,) = one.decisions(logits[:2], np.array([0, 1]))
    assert even.label == 1
    assert one.decisions(np.zeros((3, 3), dtype=np.float32), np.array([0, 1, 2])) == ()
    first, second = many.decisions(logits, np.array([[1, 0], [1, 1], [1, 0]], dtype=np.int8))
    assert (first.margins.tolist(), first.fewest) == ([1.0, 2.0, 0.0], 0)
    assert (second.label, second.truth.tolist()) == (1, [False, True, False])
    assert number.decisions(logits[:, :1], np.array([1.0, 2.0, 3.0])) == ()
