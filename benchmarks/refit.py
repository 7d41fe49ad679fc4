"""Carry a task onto a backbone of other bits in few steps, beside learning it afresh in as many.

    python benchmarks/refit.py OUT docs/results/refit.jsonl --task tickets --steps 25 100 --seeds 0 1 2

OUT is the folder of `fine_tunings.py` and `adopt.py`: `adopted-texts-0` holds the tasks at 4 bits, `TASK-0` is the
checkpoint from which one was adopted. Both runs have the same texts without labels, steps and seed. The refitted one
starts from the 4-bit mask and learns from the 4-bit task, the fresh one learns from the checkpoint.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from maskpack.compressor import (
    AdoptRequest,
    FitConfig,
    RefitRequest,
    adopt_models,
    refit_tasks,
)


def line(how: str, steps: int, seed: int, run) -> dict:
    kept = ("task", "bits", "metric", "seconds", "zeros", "same_answers")
    facts = {name: getattr(run, name) for name in kept}
    before = run.original[run.metric]
    return {"how": how, "steps": steps, "seed": seed, **facts, "before": before, "after": run.score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--task", default="tickets")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    rows = args.out / "rows" / args.task
    data, dev = ({args.task: rows / f"{name}-texts.jsonl"} for name in ("train", "dev"))
    for seed in args.seeds:
        for steps in args.steps:
            config = FitConfig(bits=args.bits, steps=steps, max_length=64, seed=seed)
            with TemporaryDirectory() as scratch:
                place, tasks = Path(scratch), (args.task,)
                old = args.out / "adopted-texts-0"
                carried = RefitRequest(
                    old, "demo", place / "refit", config, tasks, data=data, eval_data=dev
                )
                model = {args.task: str(args.out / f"{args.task}-0")}
                fresh = AdoptRequest(
                    model, place / "fresh", "demo", config, data=data, eval_data=dev
                )
                lines = [
                    line("refit", steps, seed, refit_tasks(carried).tasks[0].result),
                    line("fresh", steps, seed, adopt_models(fresh).tasks[0].result),
                ]
            with args.results.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(each, sort_keys=True) + "\n" for each in lines)
            print(*lines, sep="\n", flush=True)


if __name__ == "__main__":
    main()
