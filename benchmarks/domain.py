"""How well masks adapt a backbone to a field's texts: perplexity of hidden tokens, dense and masked, on the demo model.

python benchmarks/domain.py TEXTS OUT [--model demo] [--steps 200] [--seeds 0 1 2] [--bits 4]

TEXTS is a `.txt` file of a text a line. A tenth of the lines is held out. For each seed a dense model and a mask learn to fill masks with as many
steps; the mask learns once alone and once from the dense model. OUT gets a line of JSON a run, and a run whose line is there already is
left out. The artifacts lie beside OUT, so that a classifier can start from a mask: `compress fit MODEL --data rows.csv --from domain -o ARTIFACT`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    RunResult,
    fit_task,
    run_baseline,
)
from maskpack.tasks import find_task

_TASK = find_task("domain", text_field="text", kind="fill-mask")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--max-length", type=int, default=64)
    return parser.parse_args()


def dense(asked: argparse.Namespace, seed: int) -> RunResult:
    """Every weight is trained."""
    config = BaselineConfig(steps=asked.steps, seed=seed, max_length=asked.max_length)
    return run_baseline(BaselineRequest(asked.model, _TASK, config, data=asked.texts))


def masked(asked: argparse.Namespace, seed: int, teacher: str | None) -> RunResult:
    """A mask over integers, alone or taught by a dense model; its artifact lies beside the results."""
    config = FitConfig(
        steps=asked.steps,
        seed=seed,
        max_length=asked.max_length,
        bits=asked.bits,
        teacher=teacher,
    )
    name = f"domain-{asked.bits}-{'taught' if teacher is None else 'alone'}-{seed}"
    request = FitRequest(asked.model, _TASK, asked.out.parent / name, config, data=asked.texts)
    return fit_task(request)


def line_of(method: str, result: RunResult) -> dict[str, Any]:
    """A run as a line of the results."""
    kept = ("seed", "steps", "train_rows", "eval_rows", "scores", "majority", "seconds")
    sizes = ("zeros", "weights", "patch_bytes", "head_bytes", "original")
    whole = asdict(result)
    return {"method": method, **{name: whole[name] for name in (*kept, *sizes)}}


def main() -> None:
    """Do the runs that have no line yet, and print all lines."""
    asked = arguments()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    if asked.out.is_file():
        lines = [json.loads(line) for line in asked.out.read_text().splitlines()]
    done = {(line["method"], line["seed"], line["steps"]) for line in lines}
    runs = {
        "dense": lambda seed: dense(asked, seed),
        f"mask {asked.bits} bits": lambda seed: masked(asked, seed, "none"),
        f"mask {asked.bits} bits, taught": lambda seed: masked(asked, seed, None),
    }
    for seed in asked.seeds:
        for method, run in runs.items():
            if (method, seed, asked.steps) in done:
                continue
            lines.append(line_of(method, run(seed)))
            with asked.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1], sort_keys=True) + "\n")
    for line in lines:
        scores = line["scores"]
        print(
            f"{line['method']:22} seed {line['seed']}  perplexity {scores['perplexity']:9.3f}  "
            f"masked accuracy {scores['masked_accuracy']:.4f}  "
            f"without a text {line['majority']['perplexity']:.1f}"
        )


if __name__ == "__main__":
    main()
