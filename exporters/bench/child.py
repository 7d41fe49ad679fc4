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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.exporters.bench.memory import Memory, forget_peak, memory_now, peak_memory
from maskpack.exporters.session import (
    Feeds,
    make_session,
    relative_error,
    take_turns,
    token_feeds,
)
from maskpack.formats.errors import DataError, ExportError, MaskpackError, first_line
from maskpack.formats.writer import write_bytes
from maskpack.runtime import Session
from maskpack.runtime.graph import give_back
from maskpack.runtime.outputs import OutputDecoder
from maskpack.runtime.providers import Provider
from maskpack.runtime.task import TaskConfig
from maskpack.runtime.tokens import Text, TextReader, Tokens, batch_of, load_tokenizer
from maskpack.runtime.trunk import OnTrunk

_PAUSE = 0.003  # seconds; ONNX Runtime's threads spin for about one after a run
_RUNS_TO_SETTLE = 3
_ROWS = 32  # of random tokens, at least, for each shape
_TEXTS_A_RUN = 8
_SENTENCE = "the parcel came late and one of the two cups in it was broken"

_PARTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Input of a graph -> attribute of an encoded text."""

BatchShape = tuple[int, int]


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
    feeds = token_feeds(session, batch=shape[0], length=shape[1], vocabulary=vocabulary)
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
        pair = session.config(name).texts == 2
        session.predict([(_SENTENCE, _SENTENCE) if pair else _SENTENCE], task=name)
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
            name: token_feeds(session, batch=batch, length=length, vocabulary=vocabulary)
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
        tokens = token_feeds(sessions["one"], batch=batch, length=length, vocabulary=vocabulary)
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
    texts: str | None,
    tokenizer: str,
    config: str,
    providers: Sequence[Provider],
) -> dict[str, Any]:
    """Differences of each graph's logits from those of the graph called `reference`, and where they ran."""
    sessions, task = _sessions(graphs, 1, providers), TaskConfig.from_json(config)
    wanted = sorted(value.name for value in sessions[reference].get_inputs())
    for name, session in sessions.items():
        if sorted(value.name for value in session.get_inputs()) != wanted:
            raise ExportError(f"{name} reads other inputs than {reference}", _OTHER_MODEL)
    if texts is None:
        batches = list(_random_batches(sessions[reference], shapes, vocabulary))
    else:
        batches = list(_text_batches(Path(texts), Path(tokenizer), task, wanted))
    logits = {
        name: [_run(session, batch.feeds) for batch in batches]
        for name, session in sessions.items()
    }
    right, differences = logits[reference], {}
    for name, left in logits.items():
        if [one.shape for one in left] != [one.shape for one in right]:
            raise ExportError(
                f"{name} has {left[0].shape[-1]} outputs, {reference} has {right[0].shape[-1]}",
                _OTHER_MODEL,
            )
        differences[name] = _difference(left, right, batches, task.decoder)
    ran = sessions[reference].get_providers()
    return {"rows": sum(map(len, right)), "graphs": differences, "providers": ran}


@dataclass(frozen=True, eq=False)
class _Batch:
    """Tokens of some rows.

    Attributes:
        feeds: name of an input -> `(b, s)`.
        counts: `(b, s)`, the tokens whose outputs count where there are some for each; None: all.
    """

    feeds: Feeds
    counts: NDArray[np.bool_] | None = None

    def outputs(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits with 0 for tokens that do not count."""
        if self.counts is None or logits.ndim < 3:
            return logits
        return np.where(self.counts[..., None], logits, np.float32(0))

    def counted(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of rows, or of the tokens that count, `(n, c)`."""
        if self.counts is None or logits.ndim < 3:
            return logits.reshape(-1, logits.shape[-1])
        return logits[self.counts]


def _difference(
    left: Sequence[NDArray[np.float32]],
    right: Sequence[NDArray[np.float32]],
    batches: Sequence[_Batch],
    decoder: OutputDecoder,
) -> dict[str, float]:
    """How far logits of all batches are from others, over outputs that count, and the share of rows with the same answer."""
    same = [
        decoder.same(batch.outputs(one), batch.outputs(other))
        for batch, one, other in zip(batches, left, right, strict=True)
    ]
    own, others = (
        np.concatenate([batch.counted(one) for batch, one in zip(batches, side, strict=True)])
        for side in (left, right)
    )
    return {
        "relative": relative_error(own, others),
        "max_diff": float(np.abs(own - others).max(initial=0.0)),
        "same": float(np.mean(np.concatenate(same))),
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
    session: Any, shapes: Sequence[BatchShape], vocabulary: int
) -> Iterator[_Batch]:
    for batch, length in shapes:
        for seed in range(-(-_ROWS // batch)):
            yield _Batch(
                token_feeds(session, batch=batch, length=length, vocabulary=vocabulary, seed=seed)
            )


def _text_batches(
    texts: Path, tokenizer: Path, config: TaskConfig, names: Sequence[str]
) -> Iterator[_Batch]:
    """Lines of a file, in their order, padded to the longest of eight; for a task on pairs a tab separates them."""
    reader = TextReader.of(load_tokenizer(tokenizer), config)
    lines = [line for line in read_lines(texts) if line]
    if not lines:
        raise DataError(f"`{texts}` holds no text")
    for start in range(0, len(lines), _TEXTS_A_RUN):
        rows = reader.encode(
            [_row(line, config.texts) for line in lines[start : start + _TEXTS_A_RUN]]
        )
        feeds = batch_of(rows, pad=config.pad[0], left=config.pad_left)
        yield _Batch(
            {name: feeds[name] for name in names}, _at_words(rows, feeds["input_ids"].shape)
        )


def _at_words(rows: Sequence[Tokens], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Which tokens `(b, s)` begin a word, where outputs of these count; else None."""
    if any(row.words is None for row in rows):
        return None
    counts = np.zeros(shape, dtype=np.bool_)
    for place, row in enumerate(rows):
        if row.words is not None:
            counts[place, row.words.first] = True
    return counts


def _row(line: str, texts: int | None) -> Text:
    first, tab, second = line.partition("\t")
    return (first, second) if tab and texts != 1 else line


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8: {error}") from error


def _run(session: Any, feeds: Feeds) -> NDArray[np.float32]:
    """Logits `(b, c)` or `(b, s, c)`: the first output, whatever its name."""
    try:
        logits: NDArray[np.float32] = session.run(None, feeds)[0]
    except Exception as error:
        batch, length = next(iter(feeds.values())).shape
        raise ExportError(
            f"a graph fails on an input of {batch} x {length}: {first_line(error)}",
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
