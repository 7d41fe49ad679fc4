"""A sweep's results as tables: mean, SD and differences; from a plan, or from the results alone. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from maskpack.compressor.config import Method
from maskpack.compressor.sweep.plan import Arm, SweepPlan
from maskpack.compressor.sweep.stops import lines_on_the_way
from maskpack.formats import ConfigError
from maskpack.tasks.evaluation.gains import SMALLER, gain

Line = Mapping[str, Any]
_Lines = Mapping[str, Mapping[int, Line]]
_MCC = "matthews"


@dataclass(frozen=True)
class Spread:
    """Mean and sample SD of some values; the SD of one value is NaN, both are NaN of none."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Mean and SD of the values.

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
        coded_bytes: of the task.
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
        score: mean over tasks, over the seeds that have all of them; None too where some metrics are smaller and others larger
            where a task is better.
        points: difference to the reference in points (x 100), the same way; None without one.
        sparsity: share of zeros in the mask; None without a mask.
        coded_bytes: mean bytes of a task.
        bits: width of a backbone code.
        seconds: mean of training a run.
        runs: number of finished runs.
        stops: where its runs pass several shares of zeros (`continual`), the same at each share before the last.
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
    stops: tuple[TableRow, ...] = ()


@dataclass(frozen=True)
class Table:
    """All finished runs on one model.

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
    """Tasks, arms and seeds of a table.

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
    results = {run.names: by_key[run.key] for run in plan.runs if run.key in by_key}
    metrics = {task.name: task.task.metric for task in plan.tasks}
    frame = Frame(metrics, plan.arms, plan.seeds, plan.reference)
    tables = (table_of(frame, model.name, results) for model in plan.models)
    return tuple(table for table in tables if table.rows)


def count_foreign(plan: SweepPlan, lines: Iterable[Line]) -> int:
    """Lines that belong to no run of this plan."""
    keys = {run.key for run in plan.runs}
    return sum(line.get("sweep_key") not in keys for line in lines)


def table_of(frame: Frame, model: str, results: Mapping[tuple[str, str, str, int], Line]) -> Table:
    """The table of a model from its lines by model, task, label and seed."""
    tasks = list(frame.metrics)
    lines = {
        arm.label: {
            task: {
                seed: results[model, task, arm.label, seed]
                for seed in frame.seeds
                if (model, task, arm.label, seed) in results
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
        _row_with_stops(arm, frame.metrics, base, lines[arm.label])
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


def _row_with_stops(
    arm: Arm, metrics: Mapping[str, str], base: Mapping[str, Cell] | None, lines: _Lines
) -> TableRow:
    """The row of an arm, and of each share of zeros that its runs pass."""
    ways = {
        task: {seed: lines_on_the_way(line) for seed, line in by_seed.items()}
        for task, by_seed in lines.items()
    }
    shares = dict.fromkeys(
        share for by_seed in ways.values() for way in by_seed.values() for share in way
    )
    stops = [
        _row(
            replace(arm, label=f"{arm.label}, {100 * share:.4g} % zeros"),
            metrics,
            base,
            {
                task: {seed: way[share] for seed, way in by_seed.items() if share in way}
                for task, by_seed in ways.items()
            },
        )
        for share in shares
    ]
    return replace(_row(arm, metrics, base, lines), stops=tuple(stops))


def _row(
    arm: Arm, metrics: Mapping[str, str], base: Mapping[str, Cell] | None, lines: _Lines
) -> TableRow:
    cells = {task: _cell(by_seed) for task, by_seed in lines.items() if by_seed}
    flat = [line for by_seed in lines.values() for line in by_seed.values()]
    masks = [line["sparsity"] for line in flat if line["weights"]]
    scores, tasks = {task: cell.by_seed for task, cell in cells.items()}, list(metrics)
    # one number over accuracies and perplexities would say nothing
    alike = len({metric in SMALLER for metric in metrics.values()}) == 1
    return TableRow(
        arm=arm,
        cells=cells,
        score=_over_tasks(tasks, scores) if alike else None,
        points=None if base is None else _over_tasks(tasks, _differences(cells, base, metrics)),
        sparsity=fmean(masks) if masks else None,
        coded_bytes=fmean(line["coded_bytes"] for line in flat),
        bits=flat[0]["bits"],
        seconds=fmean(line["seconds"] for line in flat),
        runs=len(flat),
    )


def _differences(
    cells: Mapping[str, Cell], base: Mapping[str, Cell], metrics: Mapping[str, str]
) -> dict[str, dict[int, float]]:
    """Task -> seed -> points against the reference with the same seed; what a point is: `gain` in `gains.py`."""
    return {
        task: {
            seed: gain(metrics[task], value, base[task].by_seed[seed])
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


_NUMBERS = ("bits", "seed", "sparsity", "coded_bytes", "seconds", "weights")
_NEEDED = ("method", "model", "task", "metric", "scores", "majority", *_NUMBERS)
_Key = tuple[str, str, str, int]


def tables_of_lines(lines: Sequence[Line], *, reference: str | None = None) -> tuple[Table, ...]:
    """One table a model. Of two lines for a run the last one counts.

    Args:
        lines: results, as `compress sweep`, `fit --json` and `baseline --json` write them.
        reference: label that differences are given against; None: that of full fine-tuning, if
            there is one.

    Raises:
        ConfigError: a line that is no result, none at all, or no such label.
    """
    if not lines:
        raise ConfigError("there is no result in it", "run a sweep first")
    results: dict[_Key, Line] = {}
    for number, line in enumerate(lines, 1):
        _check(line, number)
        results[_names(line)] = line
    labels = list(dict.fromkeys(label for _, _, label, _ in results))
    if reference is not None and reference not in labels:
        raise ConfigError(f"no method `{reference}`", f"methods: {', '.join(labels)}")
    if reference is None:
        full = {key[2] for key, line in results.items() if line["method"] == Method.FULL}
        reference = full.pop() if len(full) == 1 else None
    arms = tuple(
        _arm(label, next(line for key, line in results.items() if key[2] == label))
        for label in labels
    )
    models = dict.fromkeys(model for model, _, _, _ in results)
    return tuple(_table(model, results, arms, reference) for model in models)


def _table(
    model: str, results: Mapping[_Key, Line], arms: tuple[Arm, ...], reference: str | None
) -> Table:
    own = {key: line for key, line in results.items() if key[0] == model}
    has = {key[2] for key in own}
    frame = Frame(
        metrics=_metrics(own),
        arms=tuple(arm for arm in arms if arm.label in has),
        seeds=tuple(sorted({key[3] for key in own})),
        reference=reference if reference in has else None,
    )
    return table_of(frame, model, own)


def _metrics(own: Mapping[_Key, Line]) -> dict[str, str]:
    """Task -> its main metric, which must be the same in all lines, because their values form one column."""
    metrics: dict[str, str] = {}
    for (_, task, _, _), line in own.items():
        first, metric = metrics.setdefault(task, line["metric"]), line["metric"]
        if first != metric:
            raise ConfigError(
                f"task `{task}` is judged by `{first}` in one line and by `{metric}` in another",
                "give a file with the lines of one of them",
            )
    return metrics


def _names(line: Line) -> _Key:
    label = line.get("label")
    if label is None:
        label = line["method"] if line["method"] != "mask" else f"mask bits={line['bits']}"
    model, task = line.get("sweep_model", line["model"]), line.get("sweep_task", line["task"])
    return str(model), str(task), str(label), int(line["seed"])


def _arm(label: str, line: Line) -> Arm:
    """The arm of a label, such as `mask bits=4`: its family, then what varies."""
    words = label.split(" ")
    first = next((index for index, word in enumerate(words) if "=" in word), len(words))
    first = max(1, first)
    if any("=" not in word for word in words[first:]):
        first = len(words)  # a label that is not one of ours
    varied = {key: _value(text) for key, text in (word.split("=", 1) for word in words[first:])}
    options = {} if line["method"] == "mask" else {"method": line["method"]}
    return Arm(label, " ".join(words[:first]), options, varied)


def _value(text: str) -> Any:
    """The value as a number, if it is one."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check(line: Line, number: int) -> None:
    """Raise ConfigError unless a line is the result of a run."""
    missing = [key for key in _NEEDED if key not in line]
    if missing:
        raise ConfigError(
            f"line {number} is no result of a run: it has no `{missing[0]}`",
            "give a file that a sweep writes",
        )
    numbers = [line[key] for key in _NUMBERS]
    if not all(map(_is_number, numbers)) or not _scored(line):
        raise ConfigError(
            f"line {number} is no result of a run: a figure is missing or no number",
            "give a file that a sweep writes",
        )


def _scored(line: Line) -> bool:
    metric, tables = line["metric"], (line["scores"], line["majority"])
    return isinstance(metric, str) and all(
        isinstance(table, dict) and metric in table and all(map(_is_number, table.values()))
        for table in tables
    )


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
