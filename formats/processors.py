"""How many processors this process may use: a container often has fewer than its machine, and libraries count the machine's."""

from __future__ import annotations

import math
import os
from pathlib import Path

_LIMIT = Path(
    "/sys/fs/cgroup/cpu.max"
)  # version 2: `QUOTA PERIOD` or `max PERIOD`, in microseconds
_OLD = Path("/sys/fs/cgroup/cpu")  # version 1: -1 or a quota


def threads_allowed() -> int:
    """Threads to compute with if this process may not use all processors of its machine; 0: it may."""
    here = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else here
    allowed = min(mine, _quota() or mine)
    return allowed if allowed < here else 0


def _quota() -> int | None:
    """Processors that a control group of Linux grants, rounded up; None: no limit is told."""
    try:
        if _LIMIT.is_file():
            quota, period = _LIMIT.read_text(encoding="ascii").split()
        else:
            parts = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((_OLD / name).read_text(encoding="ascii") for name in parts)
        share = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return math.ceil(share) if share > 0 else None
