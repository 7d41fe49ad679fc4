"""Open an artifact and read one task: with 1 task in it, and with 50.

python benchmarks/many_tasks.py --out docs/results/many-tasks.json

A process of its own for each reading; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from maskpack.formats import (
    Backbone,
    BitMask,
    Patch,
    QuantTensor,
    Scheme,
    Source,
    add_task,
    create_artifact,
)

READ = """
import sys, time
from pathlib import Path
from maskpack.exporters.bench.memory import peak_memory
from maskpack.formats import open_artifact
started = time.process_time()
artifact = open_artifact(Path(sys.argv[1]))
artifact.patch("t0").count
spent = time.process_time() - started
print(spent, peak_memory())
"""


def build(folder: Path, tasks: int) -> None:
    """MiniLM's linears; every task with a mask and a head."""
    from fuzz_format import entry_of

    rng = np.random.default_rng(0)
    shapes = [(384, 384)] * 4 + [(1536, 384), (384, 1536)]
    linears = {
        f"layer.{layer}.{place}.weight": QuantTensor(
            rng.integers(-127, 128, size=shape).astype(np.int8),
            np.full((shape[0], 1), 0.01, np.float16),
            8,
            shape[1],
        )
        for layer in range(6)
        for place, shape in enumerate(shapes)
    }
    source, scheme = Source("some/model", None, "bert", "12" * 32), Scheme(8, None, "minmax", 8)
    create_artifact(folder, Backbone(linears, {}, {}), source=source, scheme=scheme, files={})
    for number in range(tasks):
        masks = {
            name: BitMask.from_bool(rng.random(tensor.shape) > 0.01)
            for name, tensor in linears.items()
        }
        patch = Patch(masks, {"out.weight": np.zeros((2, 384), np.float16)})
        add_task(folder, entry_of(f"t{number}", patch), patch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as root:
        for tasks in (1, 50):
            build(Path(root) / str(tasks), tasks)
        runs: dict[int, list[list[float]]] = {1: [], 50: []}
        for _ in range(9):
            for tasks, told in runs.items():
                command = [sys.executable, "-c", READ, str(Path(root) / str(tasks))]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                told.append([float(value) for value in out.split()])
        for tasks, told in runs.items():
            seconds, peak = (statistics.median(column) for column in zip(*told, strict=True))
            found[str(tasks)] = {"seconds": seconds, "peak_mib": peak}
            print(f"{tasks} tasks: {seconds * 1e3:.0f} ms, peak {peak:.1f} MiB")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
