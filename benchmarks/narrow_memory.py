"""Memory and time of sessions over graphs with codes of 4 bits: as they are exported, and after `compress materialize`.

    python benchmarks/narrow_memory.py ARTIFACT... --task TASK --work WORK --out docs/results/narrow-memory.json

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
from collections.abc import Iterator
from pathlib import Path

import onnx

CHILD = """
import json, sys, time
from pathlib import Path
import onnxruntime
from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory
from maskpack.runtime import materialize
from maskpack.runtime.graph import give_back, open_graph
what, folder, task, out, warm = sys.argv[1:]
work = (
    (lambda: materialize(Path(folder), Path(out), task=task))
    if what == "install"
    else (lambda: open_graph(Path(folder) / f"{task}.onnx", threads=1))
)
open_graph(Path(warm), threads=1)  # what ONNX Runtime holds once for all sessions
give_back()
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


def small_graph(path: Path) -> Path:
    """A graph of one product."""
    value = onnx.helper.make_tensor_value_info
    inputs, outputs = (value(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    node = onnx.helper.make_node("Mul", ["x", "x"], ["y"])
    graph = onnx.helper.make_graph([node], "small", [inputs], [outputs])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), str(path))
    return path


def measured(what: str, folder: Path, task: str, out: Path) -> dict[str, float]:
    """The largest peak, and medians of what is held and of seconds."""
    lines, warm = [], small_graph(out.with_name("small.onnx"))
    for _ in range(RUNS):
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-c", CHILD, what, str(folder), task, str(out), str(warm)]
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
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--task", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines = []
    for artifact in given.artifacts:
        for name, flags in (("shared", ()), ("shared, --packed", ("--packed",))):
            home = given.work / artifact.name
            graph = home / name.replace(", --", "-")
            if not graph.exists():
                words = ["export", artifact, "--onnx", "--layout", "shared", "--no-verify"]
                command = [sys.executable, "-m", "maskpack.cli", *words, *flags, "-o", graph]
                subprocess.run([str(word) for word in command], check=True)
            for line in lines_of(graph, given.task, home):
                lines.append({"artifact": artifact.name, "export": name, **line})
                print(json.dumps(lines[-1]))
    given.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


def lines_of(graph: Path, task: str, home: Path) -> Iterator[dict[str, object]]:
    """What a session takes over an export, what an installation, and what a session over that."""
    ready, kept = home / "ready", home / "kept"
    yield {
        "what": "session",
        "files_mib": mib(graph, task),
        **measured("session", graph, task, ready),
    }
    install = measured("install", graph, task, ready)
    yield {"what": "install", "files_mib": mib(ready, task), **install}
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(ready, kept)
    session = measured("session", kept, task, ready)
    yield {"what": "session, installed", "files_mib": mib(kept, task), **session}


if __name__ == "__main__":
    main()
