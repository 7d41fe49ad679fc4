"""Time graphs against each other: in alternation, one thread, medians. Ratios travel, ms do not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification

from maskpack.exporters.session import Feeds, make_session
from maskpack.exporters.surgery import serialize
from maskpack.exporters.trace import trace

_WARM_UP = 3


def dense_graph(folder: Path) -> bytes:
    """A fine-tuned model folder as the float32 graph its user would deploy."""
    model = AutoModelForSequenceClassification.from_pretrained(
        str(folder), attn_implementation="eager"
    )
    return serialize(trace(model.float().eval()))


def token_feeds(session: Any, *, batch: int, length: int) -> Feeds:
    """Random tokens, no padding, for the inputs a session names."""
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length), dtype=np.int64)
    every = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    return {value.name: every[value.name] for value in session.get_inputs()}


def interleaved(
    sessions: Mapping[str, Any], *, batch: int, length: int, runs: int
) -> dict[str, float]:
    """Median milliseconds of each session; they take turns, so that noise hits all alike."""
    spent: dict[str, list[float]] = {name: [] for name in sessions}
    feeds = {
        name: token_feeds(session, batch=batch, length=length) for name, session in sessions.items()
    }
    for run in range(runs + _WARM_UP):
        for name, session in sessions.items():
            started = time.perf_counter()
            session.run(None, feeds[name])
            if run >= _WARM_UP:
                spent[name].append(time.perf_counter() - started)
    return {name: float(np.median(times)) * 1e3 for name, times in spent.items()}


def compare_latency(dense: Path, graph: Path, *, length: int, runs: int) -> tuple[float, float]:
    """Milliseconds of a dense model's float32 graph and of an exported graph, batch 1, one thread."""
    sessions = {
        "dense": make_session(dense_graph(dense), threads=1),
        "graph": make_session(graph, threads=1),
    }
    times = interleaved(sessions, batch=1, length=length, runs=runs)
    return times["dense"], times["graph"]
