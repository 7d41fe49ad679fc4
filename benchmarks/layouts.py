"""What the three layouts cost and save: latency, switching, creation, bytes and memory.

python benchmarks/layouts.py ARTIFACT --out docs/results/layouts-minilm-8bit.json
python benchmarks/layouts.py --base 4 --out docs/results/layouts-base-4bit.json

ARTIFACT holds one task or more; the first two are used in turn where several are loaded. `--base BITS`: random
weights of BERT-base's shape and random masks of 1 % flips.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from base_shape import write_artifact
from session_memory import session_memory

from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.options import Compute, ExportRequest, Layout, SharedRequest
from maskpack.exporters.session import make_session, take_turns, token_feeds
from maskpack.formats import open_artifact
from maskpack.runtime import materialize
from maskpack.runtime.task import ADAPTER_SUFFIX, find_tasks

SHAPES = ((1, 16), (1, 128), (8, 128))


def export_all(artifact: Path, tasks: list[str], root: Path) -> dict[str, Path]:
    """Layout -> its folder."""
    tolerance = Tolerance.of(Compute.INT8)
    for task in tasks:
        one = ExportRequest(
            artifact, task, root / "folded" / task, Compute.INT8, tolerance, verify=False
        )
        export_onnx(one)
    shared = SharedRequest(
        artifact, tuple(tasks), root / "shared", Compute.INT8, tolerance, verify=False
    )
    export_shared(shared)
    export_shared(replace(shared, out=root / "shared, packed", packed=True))
    export_shared(replace(shared, out=root / "swap", layout=Layout.SWAP))
    materialize(root / "shared", root / "materialized", task=tasks[0])
    return {path.name: path for path in sorted(root.iterdir()) if path.is_dir()}


def graph_in(folder: Path, task: str) -> Path:
    """What a session of a task is made of."""
    names = (f"{task}{ADAPTER_SUFFIX}", f"{task}.onnx", f"{task}/model.onnx")
    return next(path for name in names if (path := folder / name).is_file())


def latency(graphs: dict[str, Path], runs: int) -> dict:
    sessions, created = {}, {}
    for name, path in graphs.items():
        started = time.perf_counter()
        sessions[name] = make_session(path, threads=1)
        created[name] = 1e3 * (time.perf_counter() - started)
    found: dict = {"create_ms": created}
    for batch, length in SHAPES:
        feeds = {
            name: token_feeds(session, batch=batch, length=length)
            for name, session in sessions.items()
        }
        spent = take_turns(sessions, feeds, runs=runs)
        folded = spent["folded"]
        found[f"{batch}x{length}"] = {
            name: {
                "ms": float(np.median(times.wall)),
                "over folded": float(np.median(np.array(times.wall) / folded.wall)),
                "over folded, processor time": float(np.median(np.array(times.cpu) / folded.cpu)),
            }
            for name, times in spent.items()
        }
    return found


def switching(folder: Path, tasks: list[str]) -> float:
    """Milliseconds to load an adapter, median; its file is in the system's cache."""
    from maskpack.runtime.graph import task_run

    spent = []
    for number in range(50):
        started = time.perf_counter()
        task_run(folder / f"{tasks[number % len(tasks)]}{ADAPTER_SUFFIX}")
        spent.append(1e3 * (time.perf_counter() - started))
    return float(np.median(spent))


def memory(folder: Path, count: int) -> dict[str, float]:
    """Of so many sessions over the tasks of a folder, in turn."""
    tasks = list(find_tasks(folder).values())
    places = [(str(one.graph), one.adapter and str(one.adapter)) for one in tasks]
    return session_memory([places[number % len(places)] for number in range(count)], answer=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, nargs="?")
    parser.add_argument("--base", type=int, choices=(8, 4, 2, 1))
    parser.add_argument("--runs", type=int, default=41)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        artifact = arguments.artifact
        if arguments.base:
            artifact = Path(root) / "artifact"
            write_artifact(artifact, bits=arguments.base, tasks=2)
        tasks = sorted(open_artifact(artifact).manifest.tasks)[:2]
        (Path(root) / "out").mkdir()
        folders = export_all(artifact, tasks, Path(root) / "out")
        graphs = {name: graph_in(folder, tasks[0]) for name, folder in folders.items()}
        files = {
            f"{name}/{path.relative_to(folder)}": path.stat().st_size
            for name, folder in folders.items()
            for path in sorted(folder.rglob("*"))
            if path.suffix in {".onnx", ".bin", ADAPTER_SUFFIX}
        }
        found = {
            "flips": {t: open_artifact(artifact).patch(t).count.sparsity for t in tasks},
            "bytes": files,
            "latency": latency(graphs, arguments.runs),
            "adapter_ms": switching(folders["swap"], tasks),
            "memory": {
                f"{name}, {count}": memory(folder, count)
                for name, folder in folders.items()
                for count in ((1,) if name == "materialized" else (1, 8))
            },
        }
    print(json.dumps(found, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
