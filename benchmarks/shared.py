"""What sharing weights costs and saves: latency, creation, bytes and memory of both layouts.

python benchmarks/shared.py ARTIFACT --out docs/results/shared.json

ARTIFACT holds one task or more; the first two are used in turn where several sessions are made.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.options import Compute, ExportRequest, SharedRequest, Tolerance
from maskpack.exporters.session import make_session
from maskpack.formats import open_artifact

SHAPES = ((1, 16), (1, 128), (8, 128))

MEMORY = """
import sys
from pathlib import Path
from maskpack.runtime.session import load_graph
from maskpack.runtime.task import find_tasks

def resident():
    status = Path("/proc/self/status").read_text()
    return {key: int(status.split(key + ":")[1].split()[0]) / 1024 for key in ("VmRSS", "RssAnon")}

places = list(find_tasks(Path(sys.argv[1])).values())
before, held = resident(), []
for number in range(int(sys.argv[2])):
    place = places[number % len(places)]
    held.append(load_graph(place, place.read_card(), threads=1))
    found = resident()
print(*(found[key] - before[key] for key in ("VmRSS", "RssAnon")))
"""


def feeds(batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, length), dtype=np.int64)
    attention = np.ones_like(ids)
    return {"input_ids": ids, "attention_mask": attention, "token_type_ids": np.zeros_like(ids)}


def latency(graphs: dict[str, Path], runs: int) -> dict:
    sessions, created = {}, {}
    for name, path in graphs.items():
        started = time.perf_counter()
        sessions[name] = make_session(path, threads=1)
        created[name] = time.perf_counter() - started
    found: dict = {"create_s": created}
    for shape in SHAPES:
        told, spent = feeds(*shape), {name: [] for name in sessions}
        for _ in range(runs):
            for name, session in sessions.items():
                started = time.perf_counter()
                session.run(None, told)
                spent[name].append(time.perf_counter() - started)
        ratio = np.array(spent["shared"]) / np.array(spent["folded"])
        found["x".join(map(str, shape))] = {
            **{f"{name}_ms": 1e3 * float(np.median(times)) for name, times in spent.items()},
            "ratio": float(np.median(ratio)),
        }
    return found


def memory(folder: Path, sessions: int) -> dict[str, float]:
    command = [sys.executable, "-c", MEMORY, str(folder), str(sessions)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(zip(("rss_mib", "anon_mib"), map(float, out.split()), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--runs", type=int, default=61)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tasks = sorted(open_artifact(arguments.artifact).manifest.tasks)[:2]
    tolerance = Tolerance.of(Compute.INT8)
    with tempfile.TemporaryDirectory() as root:
        folded, shared = Path(root) / "folded", Path(root) / "shared"
        for task in tasks:
            request = ExportRequest(
                arguments.artifact, task, folded / task, Compute.INT8, tolerance, verify=False
            )
            export_onnx(request)
        export_shared(
            SharedRequest(
                arguments.artifact, tuple(tasks), shared, Compute.INT8, tolerance, verify=False
            )
        )
        graphs = {
            "folded": folded / tasks[0] / "model.onnx",
            "shared": shared / f"{tasks[0]}.onnx",
        }
        found = {
            "bytes": {
                "folded": graphs["folded"].stat().st_size,
                "backbone.bin": (shared / "backbone.bin").stat().st_size,
                **{f"{task}.onnx": (shared / f"{task}.onnx").stat().st_size for task in tasks},
            },
            "latency": latency(graphs, arguments.runs),
            "memory": {
                f"{name}, {count}": memory(folder, count)
                for name, folder in (("folded", folded), ("shared", shared))
                for count in (1, 8)
            },
        }
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
