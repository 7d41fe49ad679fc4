"""What a task is: its rows, its tokens, its type, and how it is evaluated. Start at `task.py`.

The names below are loaded on first use, so that reading an option never imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpack.formats.lazy import lazy_names

if TYPE_CHECKING:
    from maskpack.tasks.context import restore_task
    from maskpack.tasks.data.splits import TaskData, load_data
    from maskpack.tasks.doctor import Check, Diagnosis, diagnose
    from maskpack.tasks.path import MaskPath, PathPoint, PathRequest, mask_path
    from maskpack.tasks.read_again import ReadAgain
    from maskpack.tasks.task import TASKS, Task, find_task
    from maskpack.tasks.trim import TrimRequest, TrimResult, trim_vocabulary
    from maskpack.tasks.vote import VoteRequest, VoteResult, vote_tasks

_HOME = {
    "restore_task": "context",
    "Check": "doctor",
    "Diagnosis": "doctor",
    "diagnose": "doctor",
    "TaskData": "data.splits",
    "load_data": "data.splits",
    "TASKS": "task",
    "Task": "task",
    "find_task": "task",
    "MaskPath": "path",
    "PathPoint": "path",
    "PathRequest": "path",
    "mask_path": "path",
    "ReadAgain": "read_again",
    "TrimRequest": "trim",
    "TrimResult": "trim",
    "trim_vocabulary": "trim",
    "VoteRequest": "vote",
    "VoteResult": "vote",
    "vote_tasks": "vote",
}

__all__ = [
    "TASKS",
    "Check",
    "Diagnosis",
    "MaskPath",
    "PathPoint",
    "PathRequest",
    "ReadAgain",
    "Task",
    "TaskData",
    "TrimRequest",
    "TrimResult",
    "VoteRequest",
    "VoteResult",
    "diagnose",
    "find_task",
    "load_data",
    "mask_path",
    "restore_task",
    "trim_vocabulary",
    "vote_tasks",
]

__getattr__ = lazy_names(__name__, _HOME, {})
