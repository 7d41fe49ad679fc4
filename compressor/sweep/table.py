"""What the lines of a sweep say: mean and SD over seeds, differences to the reference, sizes. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from maskpack.compressor.sweep.plan import Arm, SweepPlan

Line = Mapping[str, Any]
_MCC = "matthews"


@dataclass(frozen=True)
class Spread:
    """Mean and sample SD of some values; the SD of one value is NaN, both are NaN of none."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of the values.

        >>> Spread.of([1.0, 2.0, 3.0])
        Spread(mean=2.0, sd=1.0)
        """
        mean = fmean(values) if values else math.nan
        return cls(mean, stdev(values) if len(values) > 1 else math.nan)


@dataclass(frozen=True)
class Cell:
    """One arm on one task.

    Attributes:
        by_seed: seed -> the main metric's value.
        mcc: Matthews correlation, or None where the task has none or it is the main metric.
        collapsed: seeds that are no better than always giving the same answer.
        majority: the main metric's value of always giving the commonest class.
        sparsity: share of zeros in the mask; 0 without one.
        coded_bytes: what the task adds.
    """

    by_seed: Mapping[int, float]
    mcc: Spread | None
    collapsed: tuple[int, ...]
    majority: float
    sparsity: float
    coded_bytes: float

    @property
    def score(self) -> Spread:
        """The main metric over seeds."""
        return Spread.of(list(self.by_seed.values()))


@dataclass(frozen=True)
class TableRow:
    """One arm on one model, over all tasks.

    Attributes:
        arm: the arm.
        cells: task -> figures; tasks without a finished run are absent.
        score: mean over tasks, over the seeds that have all of them.
        points: difference to the reference in points (x 100), the same way; None without one.
        sparsity: share of zeros in the mask; None without a mask.
        coded_bytes: mean size of what a task adds.
        bits: width of a backbone code.
        seconds: mean of training a run.
        runs: how many are finished.
    """

    arm: Arm
    cells: Mapping[str, Cell]
    score: Spread | None
    points: Spread | None
    sparsity: float | None
    coded_bytes: float
    bits: int
    seconds: float
    runs: int


@dataclass(frozen=True)
class Table:
    """Everything finished on one model.

    Attributes:
        model: its name.
        metrics: task -> name of the main metric, in the plan's order.
        majority: task -> the main metric's value of always giving the commonest class.
        rows: arms with at least one finished run, in the plan's order.
        planned: runs of each arm.
        reference: label that differences are given against.
    """

    model: str
    metrics: Mapping[str, str]
    majority: Mapping[str, float]
    rows: tuple[TableRow, ...]
    planned: int
    reference: str | None


@dataclass(frozen=True)
class Frame:
    """What a table is made over.

    Attributes:
        metrics: task -> name of the main metric.
        arms: its rows.
        seeds: of each row.
        reference: label that differences are given against, or None.
    """

    metrics: Mapping[str, str]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    reference: str | None


def tabulate(plan: SweepPlan, lines: Iterable[Line]) -> tuple[Table, ...]:
    """One table a model that has finished runs, from those `lines` that are of this plan."""
    by_key = {line["sweep_key"]: line for line in lines if "sweep_key" in line}
    found = {run.names: by_key[run.key] for run in plan.runs if run.key in by_key}
    metrics = {task.name: task.task.metric for task in plan.tasks}
    frame = Frame(metrics, plan.arms, plan.seeds, plan.reference)
    tables = (table_of(frame, model.name, found) for model in plan.models)
    return tuple(table for table in tables if table.rows)


def count_foreign(plan: SweepPlan, lines: Iterable[Line]) -> int:
    """Lines that are of no run of this plan: other options, other data, other tools."""
    keys = {run.key for run in plan.runs}
    return sum(line.get("sweep_key") not in keys for line in lines)


def table_of(frame: Frame, model: str, found: Mapping[tuple[str, str, str, int], Line]) -> Table:
    """The table of a model from its lines by model, task, label and seed."""
    tasks = list(frame.metrics)
    lines = {
        arm.label: {
            task: {
                seed: found[model, task, arm.label, seed]
                for seed in frame.seeds
                if (model, task, arm.label, seed) in found
            }
            for task in tasks
        }
        for arm in frame.arms
    }
    cells = {
        label: {task: _cell(seeds) for task, seeds in by_task.items() if seeds}
        for label, by_task in lines.items()
    }
    base = cells.get(frame.reference) if frame.reference is not None else None
    rows = tuple(
        _row(arm, tasks, cells[arm.label], base, lines[arm.label])
        for arm in frame.arms
        if cells[arm.label]
    )
    seen = {
        task: next((row.cells[task] for row in rows if task in row.cells), None) for task in tasks
    }
    return Table(
        model=model,
        metrics=frame.metrics,
        majority={task: cell.majority for task, cell in seen.items() if cell is not None},
        rows=rows,
        planned=len(tasks) * len(frame.seeds),
        reference=frame.reference,
    )


def _cell(by_seed: Mapping[int, Line]) -> Cell:
    lines = list(by_seed.values())
    first = lines[0]
    metric = first["metric"]
    has_mcc = metric != _MCC and all(_MCC in line["scores"] for line in lines)
    return Cell(
        by_seed={seed: line["scores"][metric] for seed, line in by_seed.items()},
        mcc=Spread.of([line["scores"][_MCC] for line in lines]) if has_mcc else None,
        collapsed=tuple(seed for seed, line in by_seed.items() if line.get("collapsed")),
        majority=first["majority"][metric],
        sparsity=fmean(line["sparsity"] for line in lines),
        coded_bytes=fmean(line["coded_bytes"] for line in lines),
    )


def _row(
    arm: Arm,
    tasks: Sequence[str],
    cells: Mapping[str, Cell],
    base: Mapping[str, Cell] | None,
    lines: Mapping[str, Mapping[int, Line]],
) -> TableRow:
    flat = [line for by_seed in lines.values() for line in by_seed.values()]
    masks = [line["sparsity"] for line in flat if line["weights"]]
    scores = {task: cell.by_seed for task, cell in cells.items()}
    return TableRow(
        arm=arm,
        cells=cells,
        score=_over_tasks(tasks, scores),
        points=None if base is None else _over_tasks(tasks, _differences(cells, base)),
        sparsity=fmean(masks) if masks else None,
        coded_bytes=fmean(line["coded_bytes"] for line in flat),
        bits=flat[0]["bits"],
        seconds=fmean(line["seconds"] for line in flat),
        runs=len(flat),
    )


def _differences(
    cells: Mapping[str, Cell], base: Mapping[str, Cell]
) -> dict[str, dict[int, float]]:
    """Task -> seed -> points against the reference with the same seed."""
    return {
        task: {
            seed: 100 * (value - base[task].by_seed[seed])
            for seed, value in cell.by_seed.items()
            if seed in base[task].by_seed
        }
        for task, cell in cells.items()
        if task in base
    }


def _over_tasks(tasks: Sequence[str], values: Mapping[str, Mapping[int, float]]) -> Spread | None:
    """Mean over tasks seed by seed, then over the seeds that have every task; None if none has.

    >>> _over_tasks(["a", "b"], {"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 6.0, 2: 9.0}})
    Spread(mean=3.0, sd=1.4142135623730951)
    """
    if any(task not in values for task in tasks):
        return None
    seeds = [seed for seed in values[tasks[0]] if all(seed in values[task] for task in tasks)]
    return (
        Spread.of([fmean(values[task][seed] for task in tasks) for seed in seeds])
        if seeds
        else None
    )
