"""Quality against time a text: graphs of really learned units, beside what else makes a model as fast. Measures and draws.

python benchmarks/units_curve.py docs/results/units-quality.jsonl KEPT --small docs/results/small-models.jsonl \
    --out docs/results/units-curve.json --picture docs/units-curve.svg

The runs are those of units.yaml, units-curve.yaml and small_models.py, as far as they are there; KEPT is the folder in which the sweep kept its artifacts. Each
folded int8 graph takes turns with all others in one process and one thread, `--batch` texts of 128 tokens; `x` is the median over rounds of
the whole graph's time over its own. A model with fewer layers is timed with random weights of its shape.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from base_shape import add_random_task, random_patch, write_encoder

from maskpack.compressor.sweep.plan import slug
from maskpack.exporters import make_session
from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.export import write_folder
from maskpack.exporters.session import quantile, speedup, take_turns, token_feeds
from maskpack.formats import open_artifact
from maskpack.report.charts import Level, Line, Value, chart
from maskpack.report.figures import Figure
from maskpack.report.picture import figure_svg
from maskpack.tasks.context import ModelContext

WHOLE = "whole"
_NAMES = ("sweep_model", "sweep_task", "label", "seed")  # as a sweep names the folder that it keeps
SERIES = {
    "units": "units, a share of each kind",
    "fewer": "units, a share of each kind",
    "speed": "units, by a speed",
    "layers": "units and layers, by a speed",
    "magnitude": "units by the size of their weights",
    "random": "units at random",
    "cut": "dense, lowest layers, distilled",
    "random-layers": "dense, 3 random layers, distilled",
}


@dataclass(frozen=True)
class Point:
    """A model: what it is, how good it is at a task, and which graph tells its time."""

    task: str
    series: str
    label: str
    value: float
    graph: str


def rows_of(path: Path, seed: int) -> list[dict[str, Any]]:
    """The lines of a file of results with one seed."""
    return [row for row in map(json.loads, path.read_text().splitlines()) if row["seed"] == seed]


def points_of(
    quality: Sequence[dict[str, Any]], small: Sequence[dict[str, Any]]
) -> Iterator[Point]:
    """All models that have a graph of their own."""
    for row in quality:
        family = row["label"].split()[0]
        if row["units"] and family in SERIES and row["options"].get("trunk") is None:
            name = "-".join(slug(str(row[key])) for key in _NAMES)
            value = row["scores"][row["metric"]]
            yield Point(row["sweep_task"], SERIES[family], row["label"], value, name)
        elif row["label"] == "mask":
            value = row["scores"][row["metric"]]
            yield Point(row["sweep_task"], SERIES["units"], "mask", value, WHOLE)
    for row in small:
        kind, _, layers = row["model"].partition("-")
        series = SERIES["cut" if kind == "cut" else "random-layers"]
        yield Point(row["task"], series, row["model"], row["value"], f"demo-{layers}")


def _is_shape(name: str) -> bool:
    """Whether a graph is that of a shape with random weights, not of a kept artifact."""
    return name == WHOLE or (name.startswith("demo-") and name[5:].isdigit())


def write_graph(name: str, task: str, kept: Path, out: Path) -> None:
    """The folded int8 graph of a kept artifact, or of a shape with random weights."""
    if _is_shape(name):
        artifact, task = out.with_name(f"{out.name}-artifact"), "any"
        backbone, config = write_encoder(artifact, "demo" if name == WHOLE else name, bits=8)
        patch = random_patch(np.random.default_rng(0), backbone, config.hidden_size)
        add_random_task(artifact, task, patch)
    else:
        artifact = kept / name
    opened = open_artifact(artifact)
    out.mkdir()
    write_folder(opened, ModelContext.of_artifact(opened), task, out, compute="int8")


def measure(
    points: Sequence[Point], kept: Path, runs: int, batch: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of each graph, and how many times as fast as the whole one it is."""
    tasks = {WHOLE: ""} | {point.graph: point.task for point in points}
    with tempfile.TemporaryDirectory() as root:
        for number, (name, task) in enumerate(tasks.items()):
            write_graph(name, task, kept, Path(root) / str(number))
        sessions = {
            name: make_session(Path(root) / str(number) / "model.onnx", threads=1)
            for number, name in enumerate(tasks)
        }
        feeds = {name: token_feeds(one, batch=batch, length=128) for name, one in sessions.items()}
        spent = take_turns(sessions, feeds, runs=runs)
    whole = spent[WHOLE].cpu
    return {
        name: {"ms": quantile(each.cpu, 0.5), "x": speedup(whole, each.cpu)}
        for name, each in spent.items()
    }


def levels_of(quality: Sequence[dict[str, Any]], task: str) -> list[Level]:
    """The dense model's metric, that of a head alone, and that of the commonest class."""
    rows = [row for row in quality if row["sweep_task"] == task]
    found = {row["label"]: row["scores"][row["metric"]] for row in rows}
    majority = rows[0]["majority"]
    levels = [Level("dense", found["dense"])] if "dense" in found else []
    if "head" in found:
        levels.append(Level("head alone", found["head"], dashed=True))
    if isinstance(majority, dict):
        levels.append(Level("majority class", majority[rows[0]["metric"]], dashed=True))
    return levels


def draw(points: Sequence[Point], times: dict[str, dict[str, float]], quality: Any) -> Figure:
    """A panel a task: metric against speed."""
    slots = {name: slot for slot, name in enumerate(dict.fromkeys(SERIES.values()))}
    panels = []
    for task in dict.fromkeys(point.task for point in points):
        lines = []
        for name, slot in slots.items():
            own = [p for p in points if p.task == task and p.series == name]
            values = [
                Value(times[p.graph]["x"], p.value, words=f"{p.label}: {p.value:.4f}")
                for p in sorted(own, key=lambda p: times[p.graph]["x"])
            ]
            if values:
                lines.append(Line(name, tuple(values), slot=slot))
        panel = chart(task, lines, x_label="times as fast", levels=levels_of(quality, task))
        assert panel is not None
        panels.append(panel)
    legend = {line.name: line for panel in panels for line in panel.lines}
    shown = {level.name: level for panel in panels for level in panel.levels}
    title = "quality against the speed of int8 graphs"
    return Figure(
        "units-curve", title, tuple(panels), tuple(legend.values()), tuple(shown.values())
    )


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("quality", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    quality, before = rows_of(args.quality, args.seed), load_average()
    small = [] if args.small is None else rows_of(args.small, args.seed)
    points = [
        p for p in points_of(quality, small) if _is_shape(p.graph) or (args.kept / p.graph).is_dir()
    ]
    times = measure(points, args.kept, args.runs, args.batch)
    print("| task | model | ms | x | metric |\n|---|---|---|---|---|")
    for point in points:
        time = times[point.graph]
        label = f"{point.series}: {point.label}"
        print(
            f"| {point.task} | {label} | {time['ms']:.2f} | {time['x']:.2f} | {point.value:.4f} |"
        )
    if args.out:
        tree = {
            "machine": vars(this_machine(before)),
            "runs": args.runs,
            "batch": args.batch,
            "length": 128,
            "seed": args.seed,
            "points": [{**vars(point), **times[point.graph]} for point in points],
        }
        args.out.write_text(json.dumps(tree, indent=2, sort_keys=True, default=str) + "\n")
    if args.picture:
        note = f"one seed; {args.batch} x 128 tokens, one thread, whole graph {times[WHOLE]['ms']:.1f} ms"
        args.picture.write_text(figure_svg(draw(points, times, quality), note))


if __name__ == "__main__":
    main()
