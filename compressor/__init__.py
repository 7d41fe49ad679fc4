"""Learning: quantise, mask, train, freeze, evaluate. Start at `fit.py`, the recipe.

The names below are loaded on first use, so that reading an option never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpack.formats.lazy import lazy_names

if TYPE_CHECKING:
    from maskpack.compressor.adopt import AdoptRequest, AdoptResult, adopt_models
    from maskpack.compressor.baseline import run_baseline
    from maskpack.compressor.config import BaselineConfig, FitConfig
    from maskpack.compressor.families import FamilySupport, family_support, list_families
    from maskpack.compressor.fit import fit_task
    from maskpack.compressor.launch import fit_in_processes
    from maskpack.compressor.lr_find import RateCurve, find_learning_rate
    from maskpack.compressor.quantization.quantize import quantize_model
    from maskpack.compressor.refit import RefitRequest, RefitResult, refit_tasks
    from maskpack.compressor.types import (
        BaselineRequest,
        FitRequest,
        RunResult,
        TrunkSearch,
        TrunkTry,
    )

_HOME = {
    "AdoptRequest": "adopt",
    "AdoptResult": "adopt",
    "adopt_models": "adopt",
    "BaselineRequest": "types",
    "run_baseline": "baseline",
    "BaselineConfig": "config",
    "FitConfig": "config",
    "FitRequest": "types",
    "FamilySupport": "families",
    "family_support": "families",
    "list_families": "families",
    "fit_task": "fit",
    "fit_in_processes": "launch",
    "RateCurve": "lr_find",
    "find_learning_rate": "lr_find",
    "RefitRequest": "refit",
    "RefitResult": "refit",
    "refit_tasks": "refit",
    "quantize_model": "quantization.quantize",
    "RunResult": "types",
    "TrunkSearch": "types",
    "TrunkTry": "types",
}

_TASKS = ("TASKS", "Task", "TaskData", "find_task", "load_data", "restore_task")

__all__ = [
    "AdoptRequest",
    "AdoptResult",
    "BaselineConfig",
    "BaselineRequest",
    "FamilySupport",
    "FitConfig",
    "FitRequest",
    "RateCurve",
    "RefitRequest",
    "RefitResult",
    "RunResult",
    "TrunkSearch",
    "TrunkTry",
    "adopt_models",
    "family_support",
    "find_learning_rate",
    "fit_in_processes",
    "fit_task",
    "list_families",
    "quantize_model",
    "refit_tasks",
    "run_baseline",
]

__getattr__ = lazy_names(__name__, _HOME, {name: ("maskpack.tasks", name) for name in _TASKS})
