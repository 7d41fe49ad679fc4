"""Learning rates over the steps of a run: an entry is a shape, as shares of the peak rate. Imports no torch.

| entry | shape | source |
|---|---|---|
| `linear` | falls to 0 | the default |
| `constant` | stays | |
| `cosine` | half a cosine to 0 | Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts |
| `one-cycle` | rises from 1/25 for three tenths of the steps, falls to nearly 0, both as half a cosine | Smith & Topin 2018, arXiv 1708.07120 |
| `triangular` | up and down on straight lines, once a cycle | Smith 2017, arXiv 1506.01186 |
| `triangular2` | the same, each peak half of the one before | Smith 2017 |
| `restarts` | half a cosine to 0, from the peak again in every cycle (SGDR) | Loshchilov & Hutter 2017, eq. 5, cycles of one length |
| `range-test` | from a millionth of the peak to the peak, by equal factors | what `compress lr-find` runs (Smith 2017, section 3.3) |

`linear`, `constant` and `cosine` rise on a straight line in the warm-up; the others have a shape of their own there, so that
`warmup` is the rise of the first cycle of `restarts` alone, and means nothing to the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """The steps of a run.

    Attributes:
        steps: of the whole run.
        rise: steps of the warm-up.
        cycles: that a cyclical shape has.
    """

    steps: int
    rise: int
    cycles: int = 1

    def ends(self) -> tuple[int, ...]:
        """Steps after which a cycle ends, the last step included.

        >>> Span(steps=10, rise=1, cycles=3).ends()
        (3, 7, 10)
        """
        return tuple(round(self.steps * (n + 1) / self.cycles) for n in range(self.cycles))

    def in_cycle(self, step: int) -> tuple[int, int, int]:
        """Number of the cycle, step in it, and its steps.

        >>> Span(steps=10, rise=1, cycles=3).in_cycle(8)
        (2, 1, 3)
        """
        first = 0
        for number, end in enumerate(self.ends()):
            if step < end:
                return number, step - first, end - first
            first = end
        raise ValueError(f"step {step} of {self.steps}")


@dataclass(frozen=True)
class Schedule:
    """A shape of the rate.

    Attributes:
        rate: of a step, from 0, the share of the peak rate, `[0, 1]`.
        cyclical: whether it has cycles; another takes no more than one.
    """

    rate: Callable[[int, Span], float]
    cyclical: bool = False


def _linear(step: int, span: Span) -> float:
    if step < span.rise:
        return (step + 1) / span.rise
    return (span.steps - step) / (span.steps - span.rise)


def _constant(step: int, span: Span) -> float:
    return (step + 1) / span.rise if step < span.rise else 1.0


def _cosine(step: int, span: Span) -> float:
    if step < span.rise:
        return (step + 1) / span.rise
    return _half_cosine((step - span.rise) / (span.steps - span.rise))


_RISE_OF_ONE_CYCLE = 0.3
_FIRST, _LAST = (
    1 / 25,
    1e-4 / 25,
)  # of the peak; with the share above the values of torch's OneCycleLR


def _one_cycle(step: int, span: Span) -> float:
    top = max(1.0, _RISE_OF_ONE_CYCLE * span.steps - 1)
    if step <= top:
        return _FIRST + (1 - _FIRST) * _half_cosine(1 - step / top)
    return _LAST + (1 - _LAST) * _half_cosine((step - top) / (span.steps - 1 - top))


def _triangular(step: int, span: Span) -> float:
    _, at, steps = span.in_cycle(step)
    return 1.0 - abs(
        2 * (at + 0.5) / steps - 1.0
    )  # in the middle of a step: no step has the rate 0


def _damped(step: int, span: Span) -> float:
    return _triangular(step, span) * float(0.5 ** span.in_cycle(step)[0])


def _restarts(step: int, span: Span) -> float:
    number, at, steps = span.in_cycle(step)
    rise = min(span.rise, steps - 1) if number == 0 else 0
    if at < rise:
        return (at + 1) / rise
    return _half_cosine((at - rise) / (steps - rise))


_FIRST_OF_TEST = 1e-6  # of the last rate


def ramp(step: int, steps: int) -> float:
    """Share of the last rate at a step of a range test: each is the same multiple of the one before.

    >>> ramp(0, 7), ramp(6, 7)
    (1e-06, 1.0)
    """
    return float(_FIRST_OF_TEST ** (1.0 - step / max(1, steps - 1)))


def _half_cosine(share: float) -> float:
    """From 1 to 0 while `share` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * share))


LINEAR = "linear"
RANGE_TEST = "range-test"
RESTARTS = "restarts"
SCHEDULES: Mapping[str, Schedule] = {
    LINEAR: Schedule(_linear),
    "constant": Schedule(_constant),
    "cosine": Schedule(_cosine),
    "one-cycle": Schedule(_one_cycle),
    "triangular": Schedule(_triangular, cyclical=True),
    "triangular2": Schedule(_damped, cyclical=True),
    RESTARTS: Schedule(_restarts, cyclical=True),
    RANGE_TEST: Schedule(lambda step, span: ramp(step, span.steps)),
}
