"""Tables of a file of results alone, without the plan that it was made by. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from maskpack.compressor.config import Method
from maskpack.compressor.sweep.plan import Arm
from maskpack.compressor.sweep.table import Frame, Line, Table, table_of
from maskpack.formats import ConfigError

_NUMBERS = ("bits", "seed", "sparsity", "coded_bytes", "seconds", "weights")
_NEEDED = ("method", "model", "task", "metric", "scores", "majority", *_NUMBERS)
_Key = tuple[str, str, str, int]


def tables_of_lines(lines: Sequence[Line], *, reference: str | None = None) -> tuple[Table, ...]:
    """One table a model. A run that is there twice counts as its last line says.

    Args:
        lines: results, as `compress sweep`, `fit --json` and `baseline --json` write them.
        reference: label that differences are given against; None: that of full fine-tuning, if
            there is one.

    Raises:
        ConfigError: a line that is no result, none at all, or no such label.
    """
    if not lines:
        raise ConfigError("there is no result in it", "run `compress sweep FILE.yaml` first")
    found: dict[_Key, Line] = {}
    for number, line in enumerate(lines, 1):
        _check(line, number)
        found[_names(line)] = line
    labels = list(dict.fromkeys(label for _, _, label, _ in found))
    if reference is not None and reference not in labels:
        raise ConfigError(f"no method `{reference}`", f"methods: {', '.join(labels)}")
    if reference is None:
        full = {key[2] for key, line in found.items() if line["method"] == Method.FULL}
        reference = full.pop() if len(full) == 1 else None
    arms = tuple(
        _arm(label, next(line for key, line in found.items() if key[2] == label))
        for label in labels
    )
    models = dict.fromkeys(model for model, _, _, _ in found)
    return tuple(_table(model, found, arms, reference) for model in models)


def _table(
    model: str, found: Mapping[_Key, Line], arms: tuple[Arm, ...], reference: str | None
) -> Table:
    own = {key: line for key, line in found.items() if key[0] == model}
    has = {key[2] for key in own}
    frame = Frame(
        metrics=_metrics(own),
        arms=tuple(arm for arm in arms if arm.label in has),
        seeds=tuple(sorted({key[3] for key in own})),
        reference=reference if reference in has else None,
    )
    return table_of(frame, model, own)


def _metrics(own: Mapping[_Key, Line]) -> dict[str, str]:
    """Task -> its main metric, which all lines must agree on: their values stand in one column."""
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
    first = next((place for place, word in enumerate(words) if "=" in word), len(words))
    first = max(1, first)
    if any("=" not in word for word in words[first:]):
        first = len(words)  # a label that only looks like one of ours
    varied = {key: _value(text) for key, text in (word.split("=", 1) for word in words[first:])}
    options = {} if line["method"] == "mask" else {"method": line["method"]}
    return Arm(label, " ".join(words[:first]), options, varied)


def _value(text: str) -> Any:
    """A number, where it is one."""
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
            "give a file that `compress sweep` writes",
        )
    numbers = [line[key] for key in _NUMBERS]
    if not all(map(_is_number, numbers)) or not _scored(line):
        raise ConfigError(
            f"line {number} is no result of a run: a figure is missing or no number",
            "give a file that `compress sweep` writes",
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
