"""Memory and time of sessions over graphs with codes of 4 bits: as they are exported, and after `compress materialize`.

    python benchmarks/narrow_memory.py ARTIFACT --task TASK --work WORK --out docs/results/narrow-memory.json

Each line is a process of its own, which makes a session three times over (`session`) or materializes (`install`); MiB over what it held before,
the largest of five. `files` are the graph and its weights.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = """
import json, sys, time
from pathlib import Path
import onnxruntime
from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory
from maskpack.runtime import materialize
from maskpack.runtime.graph import give_back, open_graph
what, folder, task, out = sys.argv[1:]
work = (
    (lambda: materialize(Path(folder), Path(out), task=task))
    if what == "install"
    else (lambda: open_graph(Path(folder) / f"{task}.onnx", threads=1))
)
before = memory_now()
forget_peak()
start = time.perf_counter()
held = work()
seconds = time.perf_counter() - start
peak = peak_memory() - before.rss
give_back()
print(json.dumps({"peak": peak, "held": memory_now().since(before).rss, "seconds": seconds}))
"""
RUNS = 5


def measured(what: str, folder: Path, task: str, out: Path) -> dict[str, float]:
    """The largest peak, and medians of what is held and of seconds."""
    lines = []
    for _ in range(RUNS):
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-c", CHILD, what, str(folder), task, str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        lines.append(json.loads(done.stdout))
    middle = {key: statistics.median(line[key] for line in lines) for key in ("held", "seconds")}
    return {"peak_mib": max(line["peak"] for line in lines), **middle}


def mib(folder: Path, task: str) -> float:
    """Graph and weights."""
    names = (f"{task}.onnx", "backbone.bin")
    return sum((folder / name).stat().st_size for name in names) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    task, lines = given.task, []
    for name, flags in (("shared", ()), ("shared, --packed", ("--packed",))):
        graph, ready = given.work / name.replace(", --", "-"), given.work / "ready"
        if not graph.exists():
            words = ["export", given.artifact, "--onnx", "--layout", "shared", "--no-verify"]
            command = [sys.executable, "-m", "maskpack.cli", *words, *flags, "-o", graph]
            subprocess.run([str(word) for word in command], check=True)
        session = measured("session", graph, task, ready)
        lines.append({"export": name, "what": "session", "files_mib": mib(graph, task), **session})
        install = measured("install", graph, task, ready)
        lines.append({"export": name, "what": "install", "files_mib": mib(ready, task), **install})
        kept = shutil.copytree(ready, given.work / "kept", dirs_exist_ok=True)
        session = measured("session", kept, task, ready)
        lines.append(
            {"export": name, "what": "session, installed", "files_mib": mib(kept, task), **session}
        )
        for line in lines[-3:]:
            print(json.dumps(line))
    given.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
