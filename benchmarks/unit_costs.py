"""How well a linear model predicts the time of graphs that lost units, and the rates that ship with the package.

python benchmarks/unit_costs.py --out docs/results/unit_costs.json [--rates formats/unit_rates.json]

For the shapes of the demo model and of BERT-base, int8, one thread, 1 x 128: a cost model is fitted to graphs with as
many units in every layer (what `compress costs` does), and rates of multiply-adds and values to those of both shapes.
Then both predict graphs that they were not fitted to: units spread unevenly over the layers, as learned ones are, some
layers without any.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig

from maskpack.exporters import CostRequest
from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.bench.unit_costs import (
    GraphSource,
    TimedUnits,
    fitted,
    least_squares,
    time_units,
    uniform,
)
from maskpack.formats.unit_costs import UnitCosts, UnitRates, UnitShape
from maskpack.formats.units import UnitGroup, Units

SHAPES: dict[str, dict[str, int]] = {
    "demo": {"num_hidden_layers": 6, "hidden_size": 384, "intermediate_size": 1536},
    "base": {},
}
LEFT = (0.7, 0.5, 0.35, 0.25, 0.12)  # shares of units that the uneven graphs keep


def uneven(groups: Sequence[UnitGroup], share: float) -> Units:
    """Units that keep a share of each kind, most of them in the lower layers, and the last layers none."""
    rng = np.random.default_rng(round(100 * share))
    last = max(group.layer for group in groups)
    kept = []
    for group in groups:
        # a straight line whose mean over the layers is about the share
        line = float(np.clip(2 * share * (1 - group.layer / last) + rng.normal(0, 0.05), 0, 1))
        kept.append(rng.permutation(group.count) < round(line * group.count))
    return Units(tuple(groups), tuple(kept))


def amounts(shape: UnitShape, timed: TimedUnits) -> list[float]:
    """What each rate of `UnitRates` is multiplied by, for 1 x 128."""
    values, tokens = 128 * shape.hidden / 1e6, 128
    one, attentions, heads, layers, neurons = timed.amounts(shape.uses)
    return [
        tokens * (heads * shape.head_weights + neurons * shape.neuron_weights) / 1e9,
        heads * tokens * tokens / 1e6,
        neurons * tokens / 1e6,
        attentions * values,
        layers * values,
        one * values,
    ]


def measure(name: str, runs: int) -> tuple[UnitShape, tuple[TimedUnits, ...], int]:
    """Times of the even graphs and, after them, of the uneven ones; all take turns."""
    source = GraphSource.of_config(BertConfig(**SHAPES[name]).to_json_string().encode(), "int8")
    even = uniform(source.groups)
    choices = [*even, *(uneven(source.groups, share) for share in LEFT)]
    request = CostRequest(model=name, runs=runs)
    return source.shape(name), time_units(source, choices, request, say=print), len(even)


def predicted(costs: UnitCosts, whole: float, timed: Sequence[TimedUnits]) -> list[dict[str, Any]]:
    """Measured speed-ups beside those of a cost model."""
    return [
        {
            "heads": sum(each.heads),
            "neurons": sum(each.neurons),
            "ms": each.ms,
            "speedup": whole / each.ms,
            "predicted": costs.speedup(each.counts(costs.shape)),
        }
        for each in timed
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=51)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rates", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    before = load_average()
    found = {name: measure(name, args.runs) for name in SHAPES}
    rows = [amounts(shape, one) for shape, timed, even in found.values() for one in timed[1:even]]
    times = [one.ms for _, timed, even in found.values() for one in timed[1:even]]
    numbers, residual = least_squares(np.array(rows), np.array(times))
    wholes = [
        timed[0].ms / float(np.dot(amounts(shape, timed[0]), numbers))
        for shape, timed, _ in found.values()
    ]
    machine = this_machine(before)
    said = f"{machine.cpu}, onnxruntime {machine.onnxruntime}, {machine.system}"
    rates = UnitRates(*numbers.tolist(), float(np.mean(wholes)), residual, said)
    tree: dict[str, Any] = {
        "rates": asdict(rates),
        "machine": vars(machine),
        "runs": args.runs,
        "shapes": {},
    }
    for name, (shape, timed, even) in found.items():
        own, error = fitted(shape, timed[:even])
        costs = UnitCosts(
            shape, "int8", 1, 128, 1, residual=error, machine=said, **dict(own.items())
        )
        tables = {
            which: predicted(model, timed[0].ms, timed)
            for which, model in (("measured", costs), ("rates", rates.costs(shape)))
        }
        tree["shapes"][name] = {"costs": json.loads(costs.to_json()), "even": even, **tables}
        print(f"\n{name}: own residual {error:.3f}, rates {residual:.3f}")
        print("| heads | neurons | ms | x | own | rates |\n|---|---|---|---|---|---|")
        for own_row, rate_row in zip(*tables.values(), strict=True):
            figures = (own_row["speedup"], own_row["predicted"], rate_row["predicted"])
            cells = " | ".join(f"{one:.2f}" for one in figures)
            print(
                f"| {own_row['heads']} | {own_row['neurons']:,} | {own_row['ms']:.2f} | {cells} |"
            )
    text = json.dumps(tree, indent=2, sort_keys=True, default=str) + "\n"
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    if args.rates:
        args.rates.write_text(json.dumps(asdict(rates), indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
