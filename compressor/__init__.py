"""Floor 1: learning. Quantise, mask, train, freeze, evaluate. Start at `fit.py`, the recipe.

The names below are loaded on first use, so that reading an option never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskpack.compressor.baseline import BaselineRequest, run_baseline
    from maskpack.compressor.config import BaselineConfig, FitConfig
    from maskpack.compressor.data.load import TaskData, load_data
    from maskpack.compressor.data.tasks import TASKS, Task, find_task
    from maskpack.compressor.fit import FitRequest, fit_task
    from maskpack.compressor.quantize import quantize_model
    from maskpack.compressor.restore import restore_task
    from maskpack.compressor.results import RunResult

_HOME = {
    "BaselineRequest": "baseline",
    "run_baseline": "baseline",
    "BaselineConfig": "config",
    "FitConfig": "config",
    "TaskData": "data.load",
    "load_data": "data.load",
    "FitRequest": "fit",
    "fit_task": "fit",
    "quantize_model": "quantize",
    "restore_task": "restore",
    "RunResult": "results",
    "TASKS": "data.tasks",
    "Task": "data.tasks",
    "find_task": "data.tasks",
}

__all__ = [
    "TASKS",
    "BaselineConfig",
    "BaselineRequest",
    "FitConfig",
    "FitRequest",
    "RunResult",
    "Task",
    "TaskData",
    "find_task",
    "fit_task",
    "load_data",
    "quantize_model",
    "restore_task",
    "run_baseline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
