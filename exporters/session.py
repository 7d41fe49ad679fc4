"""ONNX Runtime sessions: making them, comparing their logits, and timing them in turn. No torch.

All figures have the same settings. Timed sessions take turns, so that noise affects all alike. Ratios can
be compared between machines, milliseconds cannot.
"""

from __future__ import annotations

import io
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from maskpack.formats import ExportError
from maskpack.formats.errors import first_line
from maskpack.models.inputs import PIXELS
from maskpack.runtime.graph import TaskRun, check_version, open_graph, task_run
from maskpack.runtime.outputs import joined
from maskpack.runtime.providers import Provider, find_providers
from maskpack.runtime.task import ADAPTER_SUFFIX, TRUNK, base_beside
from maskpack.runtime.trunk import OnTrunk, reads_states
from maskpack.runtime.windows import SPANS


class AdaptedSession:
    """A session of a graph of all tasks that always runs one task.

    Args:
        session: of the graph.
        task: options of its runs.
    """

    def __init__(self, session: Any, task: TaskRun) -> None:
        self._session, self._task = session, task

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> Any:
        """As `InferenceSession.run`."""
        return self._session.run(names, feeds, self._task.options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class FedSession:
    """A session of a graph of all tasks that is fed one task's values.

    Args:
        session: of the graph, which has no defaults for them.
        own: the task's inputs by name.
    """

    def __init__(self, session: Any, own: Mapping[str, NDArray[Any]]) -> None:
        self._session, self._own = session, own

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> Any:
        """As `InferenceSession.run`."""
        return self._session.run(names, {**self._own, **feeds})

    def get_inputs(self) -> list[Any]:
        """Inputs that are not the task's."""
        return [value for value in self._session.get_inputs() if value.name not in self._own]

    def get_outputs(self) -> list[Any]:
        """As of `InferenceSession`."""
        return list(self._session.get_outputs())


def make_session(
    model: Path | bytes, *, threads: int = 0, providers: Sequence[Provider] = ()
) -> Any:
    """A session with default optimisation.

    Args:
        model: a file or a serialised graph; an adapter beside the graph that it belongs to; or a graph beside the trunk
            whose hidden states it reads.
        threads: of one operator; 0: see `open_graph`.
        providers: execution providers, the preferred one first: names such as `cuda`, or names and
            options. The CPU computes what none of them takes.

    Raises:
        ConfigError: a provider that is not installed.
        ExportError: the runtime is too old, or refuses the graph.
    """
    check_version()
    wanted = find_providers(providers)
    try:
        if isinstance(model, Path) and model.suffix == ADAPTER_SUFFIX:
            graph = open_graph(base_beside(model), threads=threads, providers=wanted)
            return AdaptedSession(graph, task_run(model))
        session = open_graph(model, threads=threads, providers=wanted)
        if not isinstance(model, Path) or not reads_states(session):
            return session
        trunk = open_graph(model.with_name(TRUNK), threads=threads, providers=wanted)
        return OnTrunk(trunk, session)
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} refuses the graph: {first_line(error)}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """ONNX Runtime's tools print what they do, advise by logging, and leave a file for Python to close."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        logging.disable(before)


def session_facts(session: Any) -> dict[str, str]:
    """Facts for a report about its session."""
    options = session.get_session_options()
    return {
        "onnxruntime": onnxruntime.__version__,
        "providers": ", ".join(session.get_providers()),
        "graph_optimization_level": str(options.graph_optimization_level).rsplit(".", 1)[-1],
        "intra_op_num_threads": str(options.intra_op_num_threads),
    }


def ort_predict(session: Any) -> Callable[[Feeds], NDArray[np.float32]]:
    """A predictor around a session, which gets the inputs that the session names."""
    names = [value.name for value in session.get_inputs()]
    given = [value.name for value in session.get_outputs()]
    outputs = list(SPANS) if set(given).issuperset(SPANS) else given[:1]

    def predict(feeds: Feeds) -> NDArray[np.float32]:
        try:
            run = session.run(outputs, {name: feeds[name] for name in names})
        except Exception as error:
            shape = feeds[names[0]].shape
            raise ExportError(
                f"the graph fails on an input of {shape}: {first_line(error)}"
            ) from error
        return joined(run)

    return predict


Feeds = dict[str, NDArray[Any]]

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


def random_feeds(
    session: Any, *, batch: int, length: int, vocabulary: int = _VOCABULARY, seed: int = 0
) -> Feeds:
    """Random rows for the inputs a session names: `token_feeds`, or pixel values of noise.

    Args:
        session: as of `token_feeds`.
        batch: rows.
        length: tokens of each; images have the size that the session names.
        vocabulary: tokens to choose from.
        seed: of the choice.
    """
    shapes = {value.name: value.shape for value in session.get_inputs()}
    if PIXELS not in shapes:
        return token_feeds(session, batch=batch, length=length, vocabulary=vocabulary, seed=seed)
    size = (batch, *shapes[PIXELS][1:])
    values = np.random.default_rng(seed).uniform(-1, 1, size)  # a range that processors give
    return {PIXELS: values.astype(np.float32)}


@dataclass(frozen=True)
class Spent:
    """Times of the runs of one session, in milliseconds; runs of one index were taken in one round.

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

    Each round has an order of its own, and no session runs twice in a row: the one that did would find its weights in
    the caches. Rounds before the first that counts warm up.

    Args:
        sessions: name -> session.
        feeds: name -> what it is given.
        runs: rounds that count.
        seconds: no round begins after so many, once there are three.
        pause: seconds of rest before each run, for threads of the session before to fall asleep.
    """
    spent = {name: Spent() for name in sessions}
    orders = _orders(list(sessions))
    began = time.perf_counter()
    for number in range(-_WARM_UP, runs):
        if number >= _LEAST and time.perf_counter() - began > seconds:
            break
        for name in next(orders):
            if pause:
                time.sleep(pause)
            worked, started = time.process_time(), time.perf_counter()
            sessions[name].run(None, feeds[name])
            ended = time.perf_counter()
            if number >= 0:
                spent[name].wall.append((ended - started) * 1e3)
                spent[name].cpu.append((time.process_time() - worked) * 1e3)
    return spent


def _orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Orders of some names without end, each at random, none beginning with the last name of the one before."""
    rng, last = np.random.default_rng(0), ""
    while True:
        order = [names[place] for place in rng.permutation(len(names))]
        if len(order) > 1 and order[0] == last:
            order.append(order.pop(0))
        last = order[-1]
        yield order


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

    Where the clock saw no time pass in a round, the ratio of all rounds; no number if it saw none at all.

    >>> speedup([10.0, 40.0, 12.0], [5.0, 20.0, 4.0])
    2.0
    """
    left, right = np.array(reference), np.array(times)
    if not right.all():  # the processor's clock may stand still for 16 ms, as on Windows
        left, right = left.sum(), right.sum()
    return float(np.median(left / right)) if np.any(right) else math.nan


def relative_error(
    left: NDArray[np.float32], right: NDArray[np.float32], least: float = 0.0
) -> float:
    """Root mean square of the difference over that of `right`, or over `least` if it is less; NaN if a value is NaN."""
    size = max(float(np.sqrt(np.mean(np.square(right, dtype=np.float64)))), least)
    error = float(np.sqrt(np.mean(np.square(left - right, dtype=np.float64))))
    return error / size if size != 0 else float(error > 0)
