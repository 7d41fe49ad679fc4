"""Time sessions against each other: they take turns, so that noise hits all alike. Imports no torch.

Ratios travel, milliseconds do not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feeds = dict[str, NDArray[np.int64]]

_WARM_UP = 3
_VOCABULARY = 20_000  # all models measured so far have as many tokens
_LEAST = 3  # rounds, however little time there is


def token_feeds(
    session: Any, *, batch: int, length: int, vocabulary: int = _VOCABULARY, seed: int = 0
) -> Feeds:
    """Random tokens `(batch, length)`, no padding, for the inputs a session names.

    Args:
        session: of ONNX Runtime, or anything with `get_inputs`.
        batch: rows.
        length: tokens of each.
        vocabulary: tokens to choose from; the first twentieth, where special ones lie, is left out.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    ids = rng.integers(vocabulary // 20, vocabulary, (batch, length), dtype=np.int64)
    every = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    return {value.name: every[value.name] for value in session.get_inputs()}


@dataclass(frozen=True)
class Spent:
    """What the runs of one session took, in milliseconds; run k of all sessions lies side by side.

    Attributes:
        wall: by the clock on the wall.
        cpu: of the processor, all threads together. Waiting for a busy core is not in it; threads that
            spin while they wait for work are.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def take_turns(
    sessions: Mapping[str, Any],
    feeds: Mapping[str, Feeds],
    *,
    runs: int,
    seconds: float = float("inf"),
    pause: float = 0.0,
) -> dict[str, Spent]:
    """Time every session, one run each at a time.

    Each second round goes backwards, so that nobody always follows the same neighbour. Rounds before
    the first that counts warm up.

    Args:
        sessions: name -> session.
        feeds: name -> what it is given.
        runs: rounds that count.
        seconds: no round begins after so many, once there are three.
        pause: seconds of rest before each run, for threads of the session before to fall asleep.
    """
    spent = {name: Spent() for name in sessions}
    began = time.perf_counter()
    for number in range(-_WARM_UP, runs):
        if number >= _LEAST and time.perf_counter() - began > seconds:
            break
        order = list(sessions) if number % 2 else list(sessions)[::-1]
        for name in order:
            if pause:
                time.sleep(pause)
            worked, started = time.process_time(), time.perf_counter()
            sessions[name].run(None, feeds[name])
            ended = time.perf_counter()
            if number >= 0:
                spent[name].wall.append((ended - started) * 1e3)
                spent[name].cpu.append((time.process_time() - worked) * 1e3)
    return spent


def interleaved(
    sessions: Mapping[str, Any], *, batch: int, length: int, runs: int
) -> dict[str, float]:
    """Median milliseconds of each session on the same random tokens."""
    feeds = {
        name: token_feeds(session, batch=batch, length=length) for name, session in sessions.items()
    }
    spent = take_turns(sessions, feeds, runs=runs)
    return {name: quantile(times.wall, 0.5) for name, times in spent.items()}


def quantile(times: Sequence[float], share: float) -> float:
    """The time that a share of the runs stay below.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    return float(np.quantile(times, share))


def speedup(reference: Sequence[float], times: Sequence[float]) -> float:
    """How many times as fast as the reference: median over rounds of one ratio a round.

    >>> speedup([10.0, 40.0, 12.0], [5.0, 20.0, 4.0])
    2.0
    """
    return float(np.median(np.array(reference) / np.array(times)))
