"""Ways to learn a mask, side by side on a ViT that knows some digits and learns others: small enough for every method and several seeds.

    python benchmarks/piggyback_methods.py --work /tmp/piggyback --out docs/results/piggyback-methods.jsonl
    python benchmarks/piggyback_methods.py --out docs/results/piggyback-methods.jsonl --table

The models, the rows and the dense twin are those of `piggyback.py`; masks are 4 bits. Each finished run is a line of OUT, and a run
whose line is there is left out. `--only` runs some methods, by name.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from pathlib import Path
from typing import Any

from piggyback import HEAD_LR, LR, pretrain, write_folders

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    run_baseline,
)
from maskpack.tasks import find_task

Options = dict[str, Any]
TASK = find_task("digits", text_field="image", label_field="label", kind="image-classification")
ONE_SHOT = ("magnitude", "unit-norm", "snip", "fisher", "random")
ESTIMATORS = ("threshold", "topk", "bernoulli", "movement", "hard-concrete", "edge-popup")
REGROWN = ("set", "dsr", "sparse-momentum", "rigl")
SCHEDULES = ("constant", "cosine", "one-cycle", "triangular", "restarts")
SHARE = 0.2
METHODS: dict[str, Options] = {
    "margin": {},
    **{f"margin {each}": {"margin": each} for each in (0.1, 0.2, 0.4, 0.8, 1.2, 2.4)},
    **{
        f"one-shot {each}": {"estimator": "fixed", "init": each, "sparsity": SHARE}
        for each in ONE_SHOT
    },
    **{
        f"{each} at {SHARE}": {"estimator": each, "sparsity": SHARE}
        for each in (*ESTIMATORS, *REGROWN)
    },
    "threshold at 0.5": {"sparsity": 0.5},
    "hard-concrete at 0.5": {"estimator": "hard-concrete", "sparsity": 0.5},
    "2:4": {"pattern": "2:4", "sparsity": 0.5},
    "norms and biases too": {"train_norm": True, "train_bias": True},
    **{f"margin 0.4, {each}": {"margin": 0.4, "schedule": each} for each in SCHEDULES},
    "margin 0.4, tail of 0.3": {"margin": 0.4, "tail": 0.3},
    "margin 0.4, ema of 0.98": {"margin": 0.4, "ema": 0.98},
    "margin 0.4, no dropout": {"margin": 0.4, "dropout": 0.0},
    "margin 0.4, floor 0.3": {"margin": 0.4, "floor": 0.3},
    "margin 0.4, floor 3": {"margin": 0.4, "floor": 3.0},
}
"""Name -> options of `FitConfig`; each is learned from the dense model, and again without a teacher."""


def work_of(work: Path, seed: int, epochs: int) -> tuple[Path, Path]:
    """The ViT of a seed, made if it is not there, and the place of its dense twin."""
    home = work / f"seed-{seed}"
    if not (home / "vit" / "config.json").exists():
        known = pretrain(work / "data" / "old", home / "vit", seed=seed, epochs=epochs)
        print(f"seed {seed}: {known:.3f} on the old digits", flush=True)
    return home / "vit", home / "dense"


def dense(model: Path, out: Path, data: Path, usual: Options) -> Any:
    """The twin that teaches."""
    config = BaselineConfig(**usual, method="full", lr=LR)
    return run_baseline(BaselineRequest(str(model), TASK, config, out, data=data))


def masked(model: Path, teacher: str, data: Path, out: Path, options: Options) -> Any:
    """One mask."""
    config = FitConfig(**options, bits=4, teacher=teacher)
    return fit_task(FitRequest(str(model), TASK, out, config, data=data, replace=True))


def line(seed: int, method: str, teacher: str, run: Any) -> Options:
    """What OUT keeps of a run."""
    kept = ("steps", "seconds", "mask_bytes", "head_bytes", "zeros", "weights", "coded_bytes")
    facts = {name: getattr(run, name, None) for name in kept}
    majority = run.majority[run.metric]
    return {
        "seed": seed,
        "method": method,
        "teacher": teacher,
        "accuracy": run.score,
        "majority": majority,
        **facts,
    }


def table(lines: list[Options]) -> str:
    """Mean and standard deviation of each method over its seeds, and its mean distance from the dense models of the same seeds."""
    twins = {each["seed"]: each["accuracy"] for each in lines if each["method"] == "dense"}
    rows = [
        "| method | taught | to dense | without a teacher | to dense | zeros | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in dict.fromkeys(each["method"] for each in lines):
        own = [each for each in lines if each["method"] == method]
        cells = [cell for teacher in ("dense", "none") for cell in spread(own, teacher, twins)]
        shares = [each["zeros"] / each["weights"] for each in own if each["weights"]]
        zeros = f"{100 * statistics.mean(shares):.1f} %" if shares else "-"
        seeds = len({each["seed"] for each in own})
        rows.append(f"| {method} | {' | '.join(cells)} | {zeros} | {seeds} |")
    return "\n".join(rows)


def spread(own: list[Options], teacher: str, twins: dict[int, float]) -> tuple[str, str]:
    """Mean and deviation of one column, and the distance from dense in points."""
    some = [each for each in own if each["teacher"] == teacher]
    if not some:
        return "-", "-"
    scores = [each["accuracy"] for each in some]
    apart = statistics.mean(each["accuracy"] - twins[each["seed"]] for each in some)
    deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return f"{statistics.mean(scores):.3f} ± {deviation:.3f}", f"{100 * apart:+.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/piggyback"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--teachers", nargs="+", default=["dense", "none"])
    parser.add_argument("--only", nargs="+", default=list(METHODS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretraining-epochs", type=int, default=60)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    lines = (
        [json.loads(each) for each in args.out.read_text().splitlines()]
        if args.out.exists()
        else []
    )
    if args.table:
        print(table(lines))
        return
    done = {(each["seed"], each["method"], each["teacher"]) for each in lines}
    if not (args.work / "data").exists():
        write_folders(args.work / "data")
    data = args.work / "data" / "new"
    for seed in args.seeds:
        model, twin = work_of(args.work, seed, args.pretraining_epochs)
        usual = {"epochs": args.epochs, "seed": seed, "head_lr": HEAD_LR, "precision": "fp32"}
        if not twin.exists():
            keep(args.out, line(seed, "dense", "none", dense(model, twin, data, usual)))
        for method in args.only:
            for teacher in args.teachers:
                if (seed, method, teacher) in done:
                    continue
                named = str(twin) if teacher == "dense" else "none"
                out = args.work / f"mask-{seed}"
                run = masked(model, named, data, out, usual | METHODS[method])
                keep(args.out, line(seed, method, teacher, run))


def keep(out: Path, one: Options) -> None:
    """Add a line, and say it."""
    with out.open("a") as lines:
        lines.write(json.dumps(one) + "\n")
    print(one["seed"], one["method"], one["teacher"], f"{one['accuracy']:.3f}", flush=True)


if __name__ == "__main__":
    main()
