"""What int8 rounding does to a task that was learned with it, beside one that was not: SST-2 over the demo model.

    python benchmarks/simulate.py GLUE/SST-2 docs/results/simulate.jsonl --seeds 0 1

Each pair of runs has one seed, one order of rows, 8 bits and no teacher; the second one simulates the rounding of int8
graphs in its last third. Each task is exported as an int8 graph and compared with its masked torch model on all
evaluation rows. A line holds the rows whose class the rounding changes, the error of the logits (root mean square over root
mean square), both accuracies, and the median processor time of a step before the last third and in it. Lines that
RESULTS holds already are not made again; at the end the means are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.rounding_config import INT8
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.options import Compute
from maskpack.tasks import find_task

HOW = {"float": None, "simulated": INT8}


def line(how: str, seed: int, args: argparse.Namespace) -> dict:
    """Learn, export and compare once."""
    config = FitConfig(
        bits=8,
        seed=seed,
        simulate=HOW[how],
        max_length=64,
        batch_size=32,
        train_rows=args.rows,
        epochs=args.epochs,
        teacher="none",
        pooling="pooler",
        checkpoint_every=0,
    )
    times = [time.process_time()]
    with TemporaryDirectory() as scratch:
        place = Path(scratch)
        fit = FitRequest("demo", find_task("sst2"), place / "artifact", config, data=args.data)
        result = fit_task(fit, on_progress=lambda _: times.append(time.process_time()))
        # a graph outside of the tolerance is a result here
        tolerance = Tolerance.of(Compute.INT8, max_drop=100.0, rtol=1.0)
        export = ExportRequest(
            place / "artifact", "sst2", place / "out", Compute.INT8, tolerance, data=args.data
        )
        report = export_onnx(export)
    assert report is not None
    assert report.accuracy is not None
    check = report.accuracy
    steps = [after - before for before, after in pairwise(times)]
    first = FitConfig(simulate=INT8).first_rounded(result.steps)
    return {
        "how": how,
        "seed": seed,
        "train_rows": args.rows,
        "steps": result.steps,
        "rows": check.rows,
        "changed": round(check.rows * (1.0 - check.agreement)),
        "relative": check.relative,
        "max_diff": check.max_diff,
        "accuracy": check.torch,
        "graph_accuracy": check.graph,
        "zeros": result.zeros,
        "step_before": statistics.median(steps[1:first]),
        "step_last_third": statistics.median(steps[first:]),
    }


def lines_of(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def summary(lines: list[dict]) -> dict:
    """Means over seeds, and how much longer a simulated step takes than the same step without."""
    means = {}
    for how in HOW:
        own = [each for each in lines if each["how"] == how]
        facts = ("changed", "relative", "accuracy", "graph_accuracy")
        means[how] = {fact: statistics.mean(each[fact] for each in own) for fact in facts}
        ratios = [each["step_last_third"] / each["step_before"] for each in own]
        means[how]["last_third_over_before"] = statistics.mean(ratios)
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=3)
    args = parser.parse_args()
    for seed in args.seeds:
        for how in HOW:
            if (how, seed) in {(each["how"], each["seed"]) for each in lines_of(args.results)}:
                continue
            made = line(how, seed, args)
            with args.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(made, sort_keys=True) + "\n")
            print(made, flush=True)
    print(json.dumps(summary(lines_of(args.results)), indent=2))


if __name__ == "__main__":
    main()
