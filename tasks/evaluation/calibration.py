"""How far probabilities can be believed, the temperature that makes them believable, and thresholds; pure functions of numpy.

A model is calibrated if of all answers that it gives with 80 % probability 80 % are right. One temperature divides all
logits (Guo et al. 2017, arXiv 1706.04599): it changes how sure a model is, and none of its answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BINS = 15  # of Guo et al.
_RANGE = (0.1, 10.0)  # of temperatures
_STEPS = 60  # of the search, each of which leaves 0.618 of the interval
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class Probabilities:
    """What logits of a type of task say of probabilities.

    Attributes:
        nll: mean negative log-likelihood of labels, from logits `(rows, c)` and labels.
        confidences: from the same, probabilities `(n)` and whether that came true, to be compared.
    """

    nll: Callable[[NDArray[Any], NDArray[Any]], float]
    confidences: Callable[[NDArray[Any], NDArray[Any]], tuple[Floats, NDArray[np.bool_]]]


def softmax_nll(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean of `-log p(label)` of logits `(rows, c)` and class numbers `(rows)`.

    >>> round(softmax_nll(np.log([[3.0, 1.0], [1.0, 1.0]]), np.array([0, 1])), 4)  # of 3/4 and 1/2
    0.4904
    """
    return float(-_log_softmax(logits)[np.arange(len(labels)), labels].mean())


def softmax_confidences(
    logits: NDArray[Any], labels: NDArray[Any]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Probability of each row's answer, and whether the answer is right."""
    answers = logits.argmax(axis=1)
    chosen = np.exp(_log_softmax(logits))[np.arange(len(labels)), answers]
    return chosen, answers == labels


def sigmoid_nll(logits: NDArray[Any], labels: NDArray[Any]) -> float:
    """Mean over rows and labels of `-log p(yes or no)`; labels are 0 and 1, `(rows, c)` as the logits.

    >>> round(sigmoid_nll(np.log([[3.0, 1.0]]), np.array([[1, 0]])), 4)  # of 3/4 and 1/2
    0.4904
    """
    signs = 1.0 - 2.0 * labels.astype(np.float64)
    return float(np.logaddexp(0.0, signs * logits.astype(np.float64)).mean())


def sigmoid_confidences(
    logits: NDArray[Any], labels: NDArray[Any]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Probability of each yes, and whether the row has the label; of all rows and labels."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))).ravel(), labels.ravel() == 1


SOFTMAX = Probabilities(softmax_nll, softmax_confidences)
SIGMOID = Probabilities(sigmoid_nll, sigmoid_confidences)


def expected_calibration_error(
    confidences: Floats, right: NDArray[np.bool_], bins: int = _BINS
) -> float:
    """Mean distance of probability and frequency over bins of equal width, weighted by their rows.

    >>> sure = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    >>> right = np.array([True, True, True, False, True, False])
    >>> round(expected_calibration_error(sure, right, bins=10), 4)  # (4 |.95 - .75| + 2 |.55 - .5|) / 6
    0.15
    """
    places = np.minimum((confidences * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(places, confidences - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def fit_temperature(nll: Callable[[float], float]) -> float | None:
    """The temperature of the least NLL, between 0.1 and 10; None if the least is at an end of that range.

    The least is at an end if all answers are right, so that surer is always better, or if logits say nothing.
    The NLL of scaled logits has one minimum, so a golden section of the logarithm finds it.

    Args:
        nll: temperature -> mean NLL of the logits divided by it.

    >>> logits, labels = np.log([[9.0, 1.0]] * 4), np.array([0, 0, 0, 1])  # 90 % sure, 75 % right
    >>> found = fit_temperature(lambda t: softmax_nll(logits / t, labels))
    >>> round(found, 4)  # ln 9 / ln 3
    2.0
    >>> fit_temperature(lambda t: softmax_nll(logits / t, np.zeros(4, dtype=int))) is None
    True
    """
    low, high = (math.log(end) for end in _RANGE)
    ends = (low, high)
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if nll(math.exp(left)) <= nll(math.exp(right)):
            high = right
        else:
            low = left
    middle = (low + high) / 2.0
    return None if min(abs(middle - end) for end in ends) < 1e-3 else math.exp(middle)


@dataclass(frozen=True, eq=False)
class Decision:
    """A yes or no to one label for each row.

    Attributes:
        label: its number.
        margins: float64 `(rows)`; the answer is yes above 0.
        truth: whether a row has the label.
    """

    label: int
    margins: Floats
    truth: NDArray[np.bool_]

    @property
    def fewest(self) -> int:
        """Rows with the label, or without it, whichever are fewer."""
        return int(min(self.truth.sum(), (~self.truth).sum()))


def best_threshold(margins: Floats, truth: NDArray[np.bool_]) -> float:
    """The margin above which a yes gives the best F1; 0, which is no change, unless it is better than 0 and than always yes.

    It lies in the middle between two rows, near 0 if several are equally good. Always yes is no choice: where a model
    cannot tell a label, it has the best F1 (Lipton et al. 2014, arXiv 1402.1892) and is of no use.

    >>> margins, truth = np.array([-3.0, -1.0, -2.0, 1.0]), np.array([False, True, False, True])
    >>> best_threshold(margins, truth)  # between -1 and -2 both are found, and no other
    -1.5
    """
    order = np.argsort(-margins, kind="stable")
    margins, truth = margins[order], truth[order]
    total = truth.sum()
    f1 = 2.0 * np.cumsum(truth) / (np.arange(1, len(truth) + 1) + total)  # of a yes to so many
    yes = int((margins > 0).sum())
    least = max(f1[-1], f1[yes - 1] if yes else 0.0)
    cuts = np.flatnonzero(margins[:-1] > margins[1:])
    if not len(cuts) or f1[cuts].max() <= least:
        return 0.0
    best = cuts[f1[cuts] == f1[cuts].max()]
    middles = (margins[best] + margins[best + 1]) / 2.0
    return float(middles[np.abs(middles).argmin()])


def _log_softmax(logits: NDArray[Any]) -> Floats:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))
