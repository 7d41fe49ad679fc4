"""One measurement in a process of its own.

python -m maskpack.exporters.bench.child JOB RESULT

JOB and RESULT are JSON files. A job names one of `JOBS` and its arguments; the result is what it
returns, or `error` and `hint`. Imports no torch, so that the figures are those of a program on a device.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.exporters.bench.memory import Memory, forget_peak, memory_now, peak_memory
from maskpack.exporters.bench.rows import BatchShape, rows_of
from maskpack.exporters.session import Feeds, make_session, random_feeds, take_turns
from maskpack.formats.errors import ExportError, MaskpackError, first_line
from maskpack.formats.writer import write_bytes
from maskpack.runtime import Session
from maskpack.runtime.cloze import chosen_for_metrics, hide, most_chosen, table_of
from maskpack.runtime.graph import give_back
from maskpack.runtime.outputs import OutputDecoder
from maskpack.runtime.providers import Provider
from maskpack.runtime.readers import READERS, Readable, Reader
from maskpack.runtime.task import TaskFiles
from maskpack.runtime.tokens import TextReader
from maskpack.runtime.trunk import OnTrunk

_PAUSE = 0.003  # seconds; ONNX Runtime's threads spin for about one after a run
_RUNS_TO_SETTLE = 3
_ROWS = 32  # at random, at least, for each shape
_ROWS_A_RUN = 8


def load(
    graph: str, shape: BatchShape, vocabulary: int, providers: Sequence[Provider]
) -> dict[str, Any]:
    """Time and memory of a session: made, trimmed, and after some runs.

    Args:
        graph: its file.
        shape: batch and length of the runs, one thread.
        vocabulary: tokens to choose from.
        providers: where it runs.
    """
    before = memory_now()
    forget_peak()
    started = time.perf_counter()
    session = make_session(Path(graph), threads=1, providers=providers)
    spent = time.perf_counter() - started
    peak = peak_memory()
    give_back()
    loaded = _since(before)
    feeds = random_feeds(session, batch=shape[0], length=shape[1], vocabulary=vocabulary)
    for _ in range(_RUNS_TO_SETTLE):
        _run(session, feeds)
    return {
        "load_ms": spent * 1e3,
        "peak": None if peak is None or before is None else peak - before.rss,
        "loaded": loaded,
        "running": _since(before),
    }


def tasks(folder: str, names: Sequence[str], providers: Sequence[Provider]) -> dict[str, Any]:
    """Memory of a process that answers with these tasks: all of it, and the part that they added."""
    before = memory_now()
    session = Session(folder, threads=1, keep=len(names), providers=providers)
    for name in names:
        config = session.config(name)
        session.predict([rows_of(config).example(config)], task=name)
    give_back()
    now = memory_now()
    return {"process": None if now is None else asdict(now), "tasks": _since(before)}


def times(
    graphs: Mapping[str, str],
    threads: int,
    shapes: Sequence[BatchShape],
    runs: int,
    seconds: float,
    vocabulary: int,
    providers: Sequence[Provider],
) -> list[dict[str, Any]]:
    """Milliseconds of all graphs, taking turns; one entry a shape: name -> wall and cpu."""
    sessions = _sessions(graphs, threads, providers)
    pause = 0.0 if threads == 1 else _PAUSE
    rows = []
    for batch, length in shapes:
        feeds = {
            name: random_feeds(session, batch=batch, length=length, vocabulary=vocabulary)
            for name, session in sessions.items()
        }
        for name, session in sessions.items():
            _run(session, feeds[name])  # for our error, should it fail
        spent = take_turns(sessions, feeds, runs=runs, seconds=seconds, pause=pause)
        rows.append({name: asdict(one) for name, one in spent.items()})
    return rows


class Together:
    """All tasks on the same tokens as one session: a trunk that tasks share runs once.

    Args:
        sessions: of the tasks.
    """

    def __init__(self, sessions: Sequence[Any]) -> None:
        self._alone = [one for one in sessions if not isinstance(one, OnTrunk)]
        self._tops = [one for one in sessions if isinstance(one, OnTrunk)]

    def run(self, names: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """Outputs of all tasks."""
        found = [one.run(names, feeds) for one in self._alone]
        states = self._tops[0].states(feeds) if self._tops else None
        return [*found, *(one.over(states, names, feeds) for one in self._tops)]


def together(
    one: str,
    graphs: Sequence[str],
    shapes: Sequence[BatchShape],
    runs: int,
    seconds: float,
    vocabulary: int,
    providers: Sequence[Provider],
) -> list[dict[str, Any]]:
    """Times of one task and of all of a folder, taking turns, one thread; one entry a shape.

    Args:
        one: graph, or adapter, of the task.
        graphs: those of all tasks, that one among them.
        shapes: batch and length.
        runs: rounds on each shape.
        seconds: no round begins after so many.
        vocabulary: tokens to choose from.
        providers: where they run.
    """
    every = open_tasks(list(map(Path, graphs)), providers)
    sessions = {"one": every[graphs.index(one)], "all": Together(every)}
    rows = []
    for batch, length in shapes:
        tokens = random_feeds(sessions["one"], batch=batch, length=length, vocabulary=vocabulary)
        feeds = dict.fromkeys(sessions, tokens)
        spent = take_turns(sessions, feeds, runs=runs, seconds=seconds)
        rows.append({name: asdict(each) for name, each in spent.items()})
    return rows


def open_tasks(graphs: Sequence[Path], providers: Sequence[Provider]) -> list[Any]:
    """Sessions of tasks, one thread; tasks of one folder share a trunk."""
    found, trunks = [], dict[Path, Any]()
    for graph in graphs:
        session = make_session(graph, threads=1, providers=providers)
        if isinstance(session, OnTrunk):
            session = replace(session, trunk=trunks.setdefault(graph.parent, session.trunk))
        found.append(session)
    return found


def errors(
    graphs: Mapping[str, str],
    reference: str,
    shapes: Sequence[BatchShape],
    vocabulary: int,
    given: Sequence[Readable] | None,
    files: Mapping[str, str | None],
    providers: Sequence[Provider],
) -> dict[str, Any]:
    """Differences of each graph's logits from those of the graph called `reference`, and where they ran.

    They are on the rows of `given`, or on random ones of `shapes`. `files` are the task's, as `TaskFiles` has them.
    """
    sessions, place = _sessions(graphs, 1, providers), _files(files)
    wanted = sorted(value.name for value in sessions[reference].get_inputs())
    for name, session in sessions.items():
        if sorted(value.name for value in session.get_inputs()) != wanted:
            raise ExportError(f"{name} reads other inputs than {reference}", _OTHER_MODEL)
    decoder = place.read_config().decoder
    reader = READERS[decoder.reads](place, place.read_config(), {})
    if given is None:
        batches = _random_batches(sessions[reference], reader, shapes, vocabulary)
    else:
        batches = _given_batches(given, reader, sessions[reference], wanted)
    found, rows = _compared(sessions, reference, batches, decoder)
    return {"rows": rows, "graphs": found, "providers": sessions[reference].get_providers()}


def _compared(
    sessions: Mapping[str, Any], reference: str, batches: Iterator[_Batch], decoder: OutputDecoder
) -> tuple[dict[str, dict[str, float]], int]:
    """Figures of each session, and how many rows they are of."""
    differences, rows = {name: _Difference() for name in sessions}, 0
    for batch in batches:  # one at a time: a task that fills masks has a logit for every token
        right = _run(sessions[reference], batch.feeds)
        rows += len(right)
        for name, session in sessions.items():
            left = right if name == reference else _run(session, batch.feeds)
            if left.shape != right.shape:
                raise ExportError(
                    f"{name} has {left.shape[-1]} outputs, {reference} has {right.shape[-1]}",
                    _OTHER_MODEL,
                )
            differences[name].add(left, right, batch, decoder)
    return {name: one.figures() for name, one in differences.items()}, rows


def _files(files: Mapping[str, str | None]) -> TaskFiles:
    """Paths of a task's files. Inverse of `asdict` with paths as text."""
    return TaskFiles(**{role: Path(path) for role, path in files.items() if path is not None})


@dataclass(frozen=True, eq=False)
class _Batch:
    """Inputs of some rows.

    Attributes:
        feeds: name of an input -> its values, rows first.
        counts: `(b, s)`, the tokens whose outputs count where there are some for each; None: all.
        alone: whether each token that counts is an answer of its own, not a part of its row's.
    """

    feeds: Feeds
    counts: NDArray[np.bool_] | None = None
    alone: bool = False

    def outputs(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits answer by answer, with 0 for tokens that do not count."""
        if self.counts is None or logits.ndim < 3:
            return logits
        if self.alone:
            return logits[self.counts][:, None]
        return np.where(self.counts[..., None], logits, np.float32(0))

    def counted(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of rows, or of the tokens that count, `(n, c)`."""
        if self.counts is None or logits.ndim < 3:
            return logits.reshape(-1, logits.shape[-1])
        return logits[self.counts]


@dataclass(eq=False)
class _Difference:
    """How far logits are from others, batch after batch, over outputs that count.

    Attributes:
        own, other: sums of squares of the differences, and of the others.
        largest: difference.
        same: for each answer whether both give it.
    """

    own: float = 0.0
    other: float = 0.0
    largest: float = 0.0
    same: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(
        self,
        left: NDArray[np.float32],
        right: NDArray[np.float32],
        batch: _Batch,
        decoder: OutputDecoder,
    ) -> None:
        """Count a batch."""
        self.same.append(decoder.same(batch.outputs(left), batch.outputs(right)))
        mine, others = batch.counted(left), batch.counted(right)
        apart = mine - others
        self.own += float(np.square(apart, dtype=np.float64).sum())
        self.other += float(np.square(others, dtype=np.float64).sum())
        self.largest = float(np.maximum(self.largest, np.abs(apart).max(initial=0.0)))

    def figures(self) -> dict[str, float]:
        """Fields of `Error`."""
        none = float(self.own > 0)  # where the others are 0 altogether
        return {
            "relative": float(np.sqrt(self.own / self.other)) if self.other != 0 else none,
            "max_diff": self.largest,
            "same": float(np.mean(np.concatenate(self.same))),
        }


def _sessions(
    graphs: Mapping[str, str], threads: int, providers: Sequence[Provider]
) -> dict[str, Any]:
    return {
        name: make_session(Path(path), threads=threads, providers=providers)
        for name, path in graphs.items()
    }


_OTHER_MODEL = "compare graphs of one model and one task: name the right one as `against`"


def _random_batches(
    session: Any, reader: Reader, shapes: Sequence[BatchShape], vocabulary: int
) -> Iterator[_Batch]:
    """Random rows in batches of all shapes."""
    for batch, length in shapes:
        for seed in range(-(-_ROWS // batch)):
            feeds = random_feeds(
                session, batch=batch, length=length, vocabulary=vocabulary, seed=seed
            )
            yield _hidden(feeds, list(feeds.get("input_ids", ())), reader, session) or _Batch(feeds)


def _given_batches(
    given: Sequence[Readable], reader: Reader, session: Any, names: Sequence[str]
) -> Iterator[_Batch]:
    """Rows in their order, padded to the longest of eight."""
    for start in range(0, len(given), _ROWS_A_RUN):
        some = [tuple(row) if isinstance(row, list) else row for row in given[start:][:_ROWS_A_RUN]]
        rows = reader.encode(some)
        batch = reader.batch(rows)
        feeds = {name: batch[name] for name in names}
        hidden = _hidden(feeds, [getattr(row, "ids", None) for row in rows], reader, session)
        yield hidden or _Batch(feeds, _at_words(rows, feeds))


def _hidden(feeds: Feeds, rows: Sequence[Any], reader: Reader, session: Any) -> _Batch | None:
    """Of a task that fills masks the batch with those tokens hidden that metrics are measured on; None of other tasks."""
    if not isinstance(reader, TextReader) or reader.config.mask is None:
        return None
    (output,) = reader.config.decoder.outputs
    shapes = {value.name: value.shape for value in session.get_outputs()}
    rule = reader.cloze_rule(int(shapes[output][-1]))
    width = max(1, most_chosen(max(map(len, rows))))
    labels = hide(
        feeds["input_ids"], table_of((chosen_for_metrics(one, rule) for one in rows), width)
    )
    return _Batch(feeds, labels >= 0, alone=True)


def _at_words(rows: Sequence[Any], feeds: Feeds) -> NDArray[np.bool_] | None:
    """Which tokens `(b, s)` begin a word, where outputs of these count; else None."""
    words = [getattr(row, "words", None) for row in rows]
    if any(one is None for one in words):
        return None
    counts = np.zeros(feeds["input_ids"].shape, dtype=np.bool_)
    for place, own in enumerate(words):
        if own is not None:
            counts[place, own.first] = True
    return counts


def _run(session: Any, feeds: Feeds) -> NDArray[np.float32]:
    """Logits `(b, c)` or `(b, s, c)`: the first output, whatever its name."""
    try:
        logits: NDArray[np.float32] = session.run(None, feeds)[0]
    except Exception as error:
        shape = " x ".join(map(str, next(iter(feeds.values())).shape))
        raise ExportError(
            f"a graph fails on an input of {shape}: {first_line(error)}",
            "if it has no so many positions: give smaller `lengths`",
        ) from error
    return logits


def _since(before: Memory | None) -> dict[str, float] | None:
    now = memory_now()
    return None if now is None or before is None else asdict(now.since(before))


JOBS: dict[str, Callable[..., Any]] = {
    "load": load,
    "tasks": tasks,
    "times": times,
    "together": together,
    "errors": errors,
}


def main(arguments: Sequence[str]) -> None:
    """Do a job and write its result or its error."""
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    result: Any
    try:
        result = {"result": JOBS[job["kind"]](**job["arguments"])}
    except MaskpackError as problem:
        advice = problem.advice
        extra = {} if advice is None else {"hint": advice.text, "fields": advice.fields}
        result = {"error": str(problem), **extra}
    write_bytes(Path(arguments[1]), json.dumps(result, default=str).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
