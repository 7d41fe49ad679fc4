"""What sessions add to a fresh process, in MiB: one way for layouts.py and compare.py.

python benchmarks/session_memory.py JOB

JOB is JSON: `places`, a list of a graph and an adapter or null; `answer`, whether each session answers a text of
128 tokens once. A graph with adapters is loaded once for all of them, any other once a place.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory
from maskpack.exporters.session import make_session, token_feeds
from maskpack.runtime.graph import give_back, task_run

Place = tuple[str, str | None]


def session_memory(places: Sequence[Place], *, answer: bool) -> dict[str, float]:
    """Resident and own memory after all sessions were made, and the peak meanwhile."""
    job = json.dumps({"places": places, "answer": answer})
    command = [sys.executable, __file__, job]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(places: Sequence[Place], *, answer: bool) -> dict[str, float]:
    before, sessions, held = memory_now(), {}, []
    forget_peak()
    for number, (graph, adapter) in enumerate(places):
        key = graph if adapter else number
        if key not in sessions:
            sessions[key] = make_session(Path(graph), threads=1)
            if answer:
                sessions[key].run(None, token_feeds(sessions[key], batch=1, length=128))
        held.append(task_run(Path(adapter)) if adapter else None)
    give_back()
    added = memory_now().since(before)
    peak = peak_memory() - before.rss
    return {"rss_mib": added.rss, "anon_mib": added.anon, "peak_mib": peak}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
