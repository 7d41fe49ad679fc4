"""A mask that learns from a teacher's states on the disk, beside one whose teacher runs in every step.

    python benchmarks/kept_states.py SST-2 docs/results/kept-states.jsonl --task sst2 --seeds 0 1 2

A dense teacher is trained once a seed, on the same rows and steps; both masks learn from it. A line a seed: the dense
metric, both masks' metrics, their zeros, and in how many bits the masks differ.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    run_baseline,
)
from maskpack.formats import open_artifact
from maskpack.tasks import find_task


def both(args: argparse.Namespace, seed: int, scratch: Path) -> dict:
    """The line of a seed."""
    task = find_task(args.task)
    budget = {"train_rows": args.rows, "epochs": args.epochs, "max_length": 64, "seed": seed}
    teacher = scratch / "teacher"
    dense = run_baseline(
        BaselineRequest(
            "demo", task, BaselineConfig(method="full", **budget), data=args.data, out=teacher
        )
    )
    config = FitConfig(bits=8, teacher=str(teacher), checkpoint_every=0, **budget)
    line = {"task": args.task, "seed": seed, "rows": args.rows, "dense": dense.score}
    removed = {}
    for name, keep in (("kept", True), ("computed", False)):
        out = scratch / name
        result = fit_task(
            FitRequest("demo", task, out, replace(config, keep_states=keep), data=args.data)
        )
        masks = open_artifact(out).patch(args.task).masks
        removed[name] = {part: ~mask.to_bool() for part, mask in masks.items()}
        line[name] = {
            "score": result.score,
            "zeros": result.zeros,
            "seconds": round(result.seconds, 1),
        }
    pairs = [(removed["kept"][part], removed["computed"][part]) for part in removed["kept"]]
    line["differing"] = sum(int((a != b).sum()) for a, b in pairs)
    line["union"] = sum(int((a | b).sum()) for a, b in pairs)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    for seed in args.seeds:
        with TemporaryDirectory() as scratch:
            line = both(args, seed, Path(scratch))
        with args.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
