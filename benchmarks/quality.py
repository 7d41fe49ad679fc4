"""Quality of masks beside their dense twin and their head-only floors: seeds x methods, resumable.

    python benchmarks/quality.py --task sst2 --data DIR --train-rows 20000 --seeds 0 1 2 \
        --out docs/results/quality-sst2.jsonl

Each finished run is one JSON line; runs whose line is there already are skipped. Every mask is
learned into a fresh artifact, every score is of the model as it is stored.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

METHODS = ("full", "head", "head-pooler", "mask8", "mask4")


def run_one(method: str, args: argparse.Namespace, seed: int, keep: Path | None) -> str:
    from maskpack.compressor import (
        BaselineConfig,
        BaselineRequest,
        FitConfig,
        FitRequest,
        fit_task,
        run_baseline,
    )
    from maskpack.tasks import find_task

    task = find_task(args.task)
    budget = {
        "epochs": args.epochs,
        "batch_size": 32,
        "max_length": args.max_length,
        "pooling": "pooler",
        "train_rows": args.train_rows,
        "seed": seed,
    }
    watch = watcher(f"{args.task} {method} seed {seed}")
    if method.startswith("mask"):
        out = (keep or Path(tempfile.mkdtemp())) / f"{method}-{seed}"
        config = FitConfig(bits=int(method[4:]), teacher="none", **budget, **dict(args.option))
        request = FitRequest(args.model, task, out, config, data=args.data)
        return fit_task(request, on_progress=watch).to_json()
    config = BaselineConfig(method=method, **budget)
    out = keep / f"{args.task}-{method}-{seed}" if keep else None
    request = BaselineRequest(args.model, task, config, out=out, data=args.data)
    return run_baseline(request, on_progress=watch).to_json()


def watcher(label):
    def watch(news):
        if news.step % 100 == 0 or news.step == news.steps:
            zeros = "" if news.count is None else f" zeros {news.count.sparsity:.3%}"
            score = "" if news.value is None else f" {news.metric} {news.value:.4f}"
            print(
                f"{label} {news.step}/{news.steps} loss {news.loss:.4f}{zeros}{score}", flush=True
            )

    return watch


def label(result: dict) -> str:
    return f"mask{result['bits']}" if result["method"] == "mask" else result["method"]


def summarise(path: Path) -> None:
    """Mean and SD of each method, and the share of the distance from head-only to full it closes."""
    results = [json.loads(line) for line in path.read_text().splitlines()]
    by_method = {name: [r for r in results if label(r) == name] for name in METHODS}
    means = {
        name: float(np.mean([r["scores"][r["metric"]] for r in found]))
        for name, found in by_method.items()
        if found
    }
    metric, majority = results[0]["metric"], results[0]["majority"]
    print(f"{path.name}: {metric}, majority {majority[metric]:.4f}")
    print("| method | seeds | mean | SD | MCC | zeros | bpp | entropy bytes | packed | s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, found in by_method.items():
        if not found:
            continue
        scores = [r["scores"][metric] for r in found]
        sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else float("nan")
        row = [
            np.mean([r["scores"]["matthews"] for r in found]),
            np.mean([r["sparsity"] for r in found]),
            np.mean([r["entropy_bpp"] for r in found]),
            np.mean([r["entropy_bytes"] for r in found]),
            np.mean([r["mask_bytes"] for r in found]),
            np.mean([r["seconds"] for r in found]),
        ]
        print(
            f"| {name} | {len(found)} | {means[name]:.4f} | {sd:.4f} | {row[0]:.4f} | {row[1]:.2%} "
            f"| {row[2]:.3f} | {row[3]:,.0f} | {row[4]:,.0f} | {row[5]:.0f} |"
        )
    for floor in ("head", "head-pooler"):
        for name in ("mask8", "mask4"):
            if {floor, name, "full"} <= means.keys():
                closed = (means[name] - means[floor]) / (means["full"] - means[floor])
                print(f"{name} closes {closed:.1%} of the distance from {floor} to full")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--task", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--train-rows", type=int)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--keep", type=Path, help="keep artifacts and twins of seed 0 here")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", action="store_true", help="only print the table")
    args = parser.parse_args()
    args.option = [(name, float(value)) for name, value in args.option]
    if not args.summary:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        lines = args.out.read_text().splitlines() if args.out.is_file() else []
        done = {(label(r), r["seed"]) for r in map(json.loads, lines)}
        for seed in args.seeds:
            for method in args.methods:
                if (method, seed) in done:
                    continue
                line = run_one(method, args, seed, args.keep if seed == 0 else None)
                with args.out.open("a") as file:
                    file.write(line + "\n")
                    file.flush()
                    os.fsync(file.fileno())
    summarise(args.out)


if __name__ == "__main__":
    sys.exit(main())
