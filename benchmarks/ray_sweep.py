"""A sweep of 24 tiny runs, in this process and on a Ray cluster of two workers: the same lines and table? How much sooner?

python benchmarks/ray_sweep.py --out docs/results/ray-sweep.json

Both have one thread a run. Wall time needs two cores that nothing else uses: the load and the cores that this process may use
are in the result. Processor time counts this process, and for Ray all that the cluster started.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from ray_kit import start_cluster, without_times, write_inputs, write_plan

from maskpack.compressor.sweep.executors import ExecutorOptions
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.log import read_log
from maskpack.compressor.sweep.plan import SweepPlan
from maskpack.compressor.sweep.run import run_sweep
from maskpack.compressor.sweep.table import tabulate
from maskpack.report.table import as_tree


def processor_seconds() -> float:
    """Of this process and all that it started and that still runs."""
    own = psutil.Process()
    total = 0.0
    for process in [own, *own.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def run(plan: SweepPlan, **executor: Any) -> dict[str, Any]:
    """Wall and processor seconds of a sweep."""
    wall, processor = time.monotonic(), processor_seconds()
    quiet = {"watch": lambda _: nullcontext(lambda _: None), "failed": print}
    assert run_sweep(plan.runs, plan.out, **quiet, **executor) == ()
    return {
        "wall_s": round(time.monotonic() - wall, 2),
        "processor_s": round(processor_seconds() - processor, 2),
        "training_s": round(sum(line["seconds"] for line in read_log(plan.out).lines), 2),
    }


def figures(plan: SweepPlan) -> str:
    """The table as JSON text, but for the seconds."""
    text = json.dumps([as_tree(table) for table in tabulate(plan, read_log(plan.out).lines)])

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(each) for key, each in value.items() if key != "seconds"}
        return [strip(each) for each in value] if isinstance(value, list) else value

    return json.dumps(strip(json.loads(text)), sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=6, help="times four methods")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, hidden=args.hidden)
        plan = read_plan(write_plan(folder, steps=args.steps, seeds=args.seeds))
        warm = replace(plan, out=folder / "warm.jsonl", seeds=(99,))
        run(warm)  # imports, which either executor pays once
        load = os.getloadavg()[0]
        local = run(plan)
        there = read_plan(folder / "plan.yaml", out=folder / "ray.jsonl")
        began = time.monotonic()
        cluster = start_cluster(2)
        import ray

        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        start = time.monotonic() - began
        options = {"executor": "ray", "options": ExecutorOptions(cluster.address, plan.resources)}
        first = run(replace(there, out=folder / "warm-ray.jsonl", seeds=(97, 98)), **options)
        remote = run(there, **options)
        ray.shutdown()
        cluster.shutdown()
        lines = [without_times(list(read_log(each.out).lines)) for each in (plan, there)]
        result = {
            "command": f"ray_sweep.py --steps {args.steps} --hidden {args.hidden} --seeds {args.seeds}",
            "runs": len(plan.runs),
            "cores": len(os.sched_getaffinity(0)),
            "load_before": round(load, 1),
            "local": local,
            "ray": remote,
            "ray_cluster_start_s": round(start, 1),
            "ray_first_runs": {"runs": 8, **first},
            "speed_up": round(local["wall_s"] / remote["wall_s"], 2),
            "lines_identical": lines[0] == lines[1],
            "lines": [len(each) for each in lines],
            "table_identical": figures(plan) == figures(there),
        }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
