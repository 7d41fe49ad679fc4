"""Bits of a packed mask a weight, with two of four weights kept and with half of them kept anywhere.

    python benchmarks/pattern_bits.py --work /tmp/bits --out docs/results/pattern_bits.json

One backbone of 4 bits, one sample task, few steps and no teacher: sizes are compared, not quality. `one-shot` masks are the
first ones (by magnitude, or by Fisher information), `learned` ones those after the steps. Six masks of four weights are possible, so that a
coding without any model needs log2(6) / 4 = .646 bits a weight, and one of half of the weights 1. `bits_without_groups` is what the
coding weight by weight takes, which packed patches had alone in version 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.formats import open_artifact
from maskpack.formats.coded import encode_masks
from maskpack.tasks import find_task

RUNS: dict[str, dict[str, Any]] = {
    "one-shot by magnitude": {"estimator": "fixed"},
    "one-shot by fisher": {"estimator": "fixed", "init": "fisher"},
    "learned": {},
    "learned, a narrow margin": {"margin": 0.4},
}
PATTERNS = ("2:4", "weight")


def main() -> None:
    """Learn each mask, code it, print and write the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    artifact, found = args.work / "artifact", []
    for pattern in PATTERNS:
        for run, options in RUNS.items():
            name = f"{run}-{pattern}".replace(" ", "").replace(",", "-").replace(":", "of")
            config = FitConfig(
                bits=4,
                sparsity=0.5,
                pattern=pattern,
                steps=args.steps,
                max_length=64,
                teacher="none",
                **options,
            )
            fit_task(FitRequest(args.model, find_task("reviews"), artifact, config, name=name))
            opened = open_artifact(artifact)
            masks, linears = opened.patch(name).masks, opened.backbone.linears
            weights = sum(mask.to_bool().size for mask in masks.values())
            line = {"mask": run, "pattern": pattern, "steps": args.steps}
            for key, groups in (("bits", True), ("bits_without_groups", False)):
                size = encode_masks(masks, linears, groups=groups).size
                line[key] = round(8 * size / weights, 4)
            found.append(line)
            print(json.dumps(line))
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
