"""How many threads to compute with now: of a machine's processors a container grants some, and other programs keep some busy.

Libraries count the machine's processors. A thread too many is not harmless: the threads of an operation wait for each other, so
that one which another program has displaced holds up all.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_LIMIT = Path(
    "/sys/fs/cgroup/cpu.max"
)  # version 2: `QUOTA PERIOD` or `max PERIOD`, in microseconds
_OLD = Path("/sys/fs/cgroup/cpu")  # version 1: -1 or a quota
_STAT = Path("/proc/stat")  # of Linux: what each processor spent its time on
_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
_ASKED = "OMP_NUM_THREADS"  # also as a list, of which the first number is for threads that are not nested
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 0, 1, 2, 5, 6, 7  # columns of a `cpuN` line
WINDOW = 0.1
"""Seconds in which other programs are watched. The system counts in hundredths."""

_MINUTE = 60.0
_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Usage:
    """Processor time that was spent until a moment, in seconds.

    Attributes:
        clock: the moment, as `time.monotonic` gives it.
        all: of all programs on the processors that this process may use; None: the system does not tell.
        own: of this process.
    """

    clock: float
    all: float | None
    own: float


@dataclass(frozen=True)
class Threads:
    """A number of threads, and what it follows from.

    Attributes:
        count: threads to compute with.
        allowed: threads if no other program ran.
        cores: that this process may use; a quota may leave it less time than they have.
        busy: of them, that other programs keep busy.
    """

    count: int
    allowed: int
    cores: int
    busy: int = 0

    @property
    def lowered(self) -> bool:
        """Whether other programs are why there are no more."""
        return self.count < self.allowed


def threads_allowed() -> int:
    """Threads to compute with if this process may not use all processors of its machine; 0: it may."""
    here = os.cpu_count() or 1
    allowed = min(len(_mine()), _quota() or here)
    return allowed if allowed < here else 0


def threads_asked() -> int | None:
    """Threads that the environment asks for, in `OMP_NUM_THREADS`; None: nothing that can be read."""
    first = os.environ.get(_ASKED, "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def threads_now(before: Usage | None = None) -> Threads:
    """Threads to compute with: cores that this process may use, without those that other programs keep busy.

    What `OMP_NUM_THREADS` asks for counts instead. Nothing is watched where one thread is all that there may be.

    Args:
        before: of `usage_now`, earlier; None: it is taken now. The function returns `WINDOW` seconds after it, or at once.
    """
    cores, quota = len(_mine()), _quota()
    allowed, asked = min(cores, quota or cores), threads_asked()
    if asked is not None or allowed == 1:
        return Threads(asked or 1, asked or 1, cores)
    before = before or usage_now()
    time.sleep(max(0.0, before.clock + WINDOW - time.monotonic()))
    after = usage_now()
    busy = _by_load(cores) if after.all is None else busy_between(before, after)
    return free_threads(cores, quota, busy)


def free_threads(cores: int, quota: int | None, busy: float) -> Threads:
    """Threads for the cores that are free, at least one.

    Args:
        cores: that this process may use.
        quota: cores' worth of time that it may use; None: all.
        busy: cores that other programs keep busy; half a core counts as one.

    >>> free_threads(8, None, 2.6)
    Threads(count=5, allowed=8, cores=8, busy=3)
    >>> free_threads(8, 4, 2.6).count, free_threads(2, None, 2.0).count
    (4, 1)
    """
    taken = min(cores, math.floor(busy + 0.5))
    allowed = min(cores, quota or cores)
    return Threads(max(1, min(allowed, cores - taken)), allowed, cores, taken)


def busy_between(before: Usage, after: Usage) -> float:
    """Cores that other programs kept busy between two moments; 0 where the system does not tell.

    >>> busy_between(Usage(10.0, 50.0, 4.0), Usage(10.5, 50.75, 4.25))
    1.0
    """
    seconds = after.clock - before.clock
    if before.all is None or after.all is None or seconds <= 0:
        return 0.0
    return max(0.0, (after.all - before.all - (after.own - before.own)) / seconds)


def usage_now() -> Usage:
    """Processor time that all programs, and this process, have spent until now."""
    return Usage(time.monotonic(), _spent(), time.process_time())


def _spent() -> float | None:
    """Seconds that all programs have worked; None: the system does not tell."""
    if sys.platform == "win32":
        return None
    try:
        text = _STAT.read_text(encoding="ascii")
        return busy_seconds(text, _mine(), os.sysconf("SC_CLK_TCK"), niced=_niced_counts())
    except (OSError, ValueError):  # not Linux, or of another form
        return None


def busy_seconds(stat: str, cores: Collection[int], ticks: int, *, niced: bool) -> float:
    r"""Seconds that some processors have worked since the start, from the text of `/proc/stat`.

    Time that the machine below a virtual one took for others counts as work. Waiting for a disk does not.

    Args:
        stat: lines such as `cpu0 USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL ...`.
        cores: numbers of the processors.
        ticks: units of the text in a second.
        niced: whether programs of low priority count.

    Raises:
        ValueError: the text has another form, or none of the processors.

    >>> busy_seconds("cpu 9 9 9 9\ncpu0 200 500 100 7 7 0 0 0\ncpu1 50 0 0 7 7 0 0 0", {0}, 100, niced=False)
    3.0
    """
    columns = [_USER, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL, *([_NICE] if niced else [])]
    wanted, total, found = {f"cpu{core}" for core in cores}, 0, 0
    for line in stat.splitlines():
        name, *numbers = line.split()
        if name in wanted:
            found += 1
            total += sum(int(numbers[column]) for column in columns if column < len(numbers))
    if not found:
        raise ValueError("no line of these processors")
    return total / ticks


def _niced_counts() -> bool:
    """Whether programs of low priority hold up this one: it has a low one too, or priorities count inside a session alone."""
    if sys.platform == "win32":
        return True
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        return True
    try:
        return _AUTOGROUP.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _by_load(cores: int) -> float:
    """Cores that other programs keep busy, by the last minute's number of running threads; 0 where it is unknown."""
    if sys.platform == "win32":
        return 0.0
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 0.0
    own = time.process_time() / max(_MINUTE, time.monotonic() - _BEGAN)
    return min(float(cores), max(0.0, load - own))


def _mine() -> frozenset[int]:
    """Numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


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
