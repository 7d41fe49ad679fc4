"""Time of nine tasks on one text over that of one, with a trunk of four of six layers. Speed only: nothing is learned.

python benchmarks/trunk.py --runs 31 --out docs/results/trunk-speed.jsonl

The encoder has the demo model's shape and random weights; each task's mask lies on the layers above the trunk, flips one
weight in a hundred at random and removes random units. All sessions take turns in one process and one thread; a ratio is the
median over rounds of one ratio a round. `one` is the first task with its trunk, `all` runs the trunk once and every task's own
graph, and `whole` is the graph of a task in the shared layout that keeps all units, as it runs without a trunk. The table has ratios of processor time,
which do not count waiting for other programs; the file, to which each call adds a line, has both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from base_shape import add_random_task, random_patch, write_encoder
from units import INPUTS, name_of

from maskpack.exporters import Compute, SharedRequest, Tolerance, export_shared, make_session
from maskpack.exporters.bench.child import Together, open_tasks
from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.session import quantile, speedup, take_turns, token_feeds
from maskpack.models.units import unit_groups

TASKS, TRUNK = 9, 4


def write_artifact(folder: Path, shares: list[float]) -> None:
    """Quantise a random encoder and add the tasks of every share."""
    backbone, config = write_encoder(folder, "demo", bits=8)
    groups = tuple(group for group in unit_groups(config) if group.layer >= TRUNK)
    for share, number in itertools.product(shares, range(TASKS)):
        rng = np.random.default_rng(number)
        patch = random_patch(rng, backbone, config.hidden_size, groups, kept=share, above=TRUNK)
        add_random_task(folder, f"{name_of(share)}_{number}", patch)


def export_all(artifact: Path, root: Path, shares: list[float]) -> dict[float, Path]:
    """Share -> folder of its tasks on a trunk; `root/shared` gets the first task without one."""
    tolerance, folders = Tolerance.of(Compute.INT8), {}
    for share in shares:
        names = tuple(f"{name_of(share)}_{number}" for number in range(TASKS))
        folders[share] = root / name_of(share)
        request = SharedRequest(
            artifact, names, folders[share], Compute.INT8, tolerance, verify=False, layout="trunk"
        )
        export_shared(request)
    first = (f"{name_of(1.0)}_0",)
    export_shared(
        SharedRequest(artifact, first, root / "shared", Compute.INT8, tolerance, verify=False)
    )
    return folders


def measure(folders: dict[float, Path], shared: Path, runs: int) -> list[dict[str, Any]]:
    """Times and ratios of every share, for every size of input."""
    sessions: dict[str, Any] = {"whole": make_session(shared, threads=1)}
    for share, folder in folders.items():
        graphs = [folder / f"{name_of(share)}_{number}.onnx" for number in range(TASKS)]
        every = open_tasks(graphs, ())
        sessions |= {f"one {share}": every[0], f"all {share}": Together(every)}
    rows = []
    for batch, length in INPUTS:
        tokens = token_feeds(sessions["whole"], batch=batch, length=length)
        spent = take_turns(sessions, dict.fromkeys(sessions, tokens), runs=runs)
        whole = spent["whole"].wall
        for share, folder in folders.items():
            alone, together = (spent[f"{what} {share}"] for what in ("one", "all"))
            one, every = alone.wall, together.wall
            rows.append(
                {
                    "batch": batch,
                    "length": length,
                    "kept": share,
                    "tasks": TASKS,
                    "whole_ms": quantile(whole, 0.5),
                    "one_ms": quantile(one, 0.5),
                    "all_ms": quantile(every, 0.5),
                    "all_over_one": speedup(every, one),
                    "all_over_whole": speedup(every, whole),
                    "one_over_whole": speedup(one, whole),
                    "all_over_one_best": min(every) / min(one),
                    "all_over_whole_best": min(every) / min(whole),
                    "all_over_one_cpu": speedup(together.cpu, alone.cpu),
                    "all_over_whole_cpu": speedup(together.cpu, spent["whole"].cpu),
                    "one_over_whole_cpu": speedup(alone.cpu, spent["whole"].cpu),
                    "bytes": sum(path.stat().st_size for path in folder.iterdir()),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=float, nargs="+", default=[0.5, 0.25])
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    shares, before = list(dict.fromkeys([1.0, *args.kept])), load_average()
    with tempfile.TemporaryDirectory() as root:
        artifact = Path(root) / "artifact"
        write_artifact(artifact, shares)
        folders = export_all(artifact, Path(root), shares)
        graph = Path(root) / "shared" / f"{name_of(1.0)}_0.onnx"
        rows = measure(folders, graph, args.runs)
    print(
        "| units kept above the trunk | input | one, ms | all, ms | all over one | all over whole |"
    )
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['kept']:.0%} | {row['batch']} x {row['length']} | {row['one_ms']:.2f} | {row['all_ms']:.2f} "
            f"| {row['all_over_one_cpu']:.2f} | {row['all_over_whole_cpu']:.2f} |"
        )
    if args.out is not None:
        machine = asdict(this_machine(before))
        found = {"machine": machine, "threads": 1, "runs": args.runs, "trunk": TRUNK, "rows": rows}
        with args.out.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(found, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
