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

# what a control group grants: version 2 `QUOTA PERIOD` or `max PERIOD`, version 1 a quota or -1; in microseconds
_LIMIT, _OLD = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu")
_CORES, _SIBLINGS = Path("/sys/devices/system/cpu"), "topology/thread_siblings_list"
_PROCESSES, _STAT = Path("/proc"), Path("/proc/stat")
_AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
_ASKED = "OMP_NUM_THREADS"  # also a list, whose first number is of threads that are not nested
# columns of a `cpuN` line (user, nice, system, irq, softirq, steal), and of a process behind its name
_WORK, _UTIME, _STIME, _NICENESS, _PROCESSOR = (0, 1, 2, 5, 6, 7), 11, 12, 16, 36
WINDOW = 0.1
"""Seconds in which other programs are watched. The system counts in hundredths."""

_GIVES_WAY = 10
"""Steps of `nice` from which on a program gives way: it gets a tenth of a core that both want. Measured in docs/RESULTS.md."""

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
        cores: that this process may use: logical ones. A quota may leave it less time than they have.
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

    Programs of a much lower priority do not count, because they give way. What `OMP_NUM_THREADS` asks for counts instead of all
    this. Nothing is watched where one thread is all that there may be.

    Args:
        before: of `usage_now`, earlier; None: it is taken now. The function returns `WINDOW` seconds after it, or at once; where
            cores are busy, it looks for as long again who it is.
    """
    mine, asked = _mine(), threads_asked()
    cores, most = len(mine), min(_whole_cores(mine), _quota() or len(mine))
    if asked is not None or most == 1:
        return Threads(asked or 1, asked or 1, cores)
    before = before or usage_now()
    time.sleep(max(0.0, before.clock + WINDOW - time.monotonic()))
    after = usage_now()
    if after.all is None:
        return free_threads(cores, most, _by_load(cores))
    found = free_threads(cores, most, busy := busy_between(before, after))
    if not found.lowered or _sessions_are_apart():
        return found
    return free_threads(cores, most, max(0.0, busy - _giving_way(mine)))


def free_threads(cores: int, most: int, busy: float) -> Threads:
    """Threads for the cores that are free, at least one.

    Args:
        cores: that this process may use.
        most: threads if no other program ran, at most one a core.
        busy: cores that other programs keep busy; half a core counts as one.

    >>> free_threads(8, 8, 2.6)
    Threads(count=5, allowed=8, cores=8, busy=3)
    >>> free_threads(8, 4, 2.6).count, free_threads(2, 2, 2.0).count
    (4, 1)
    """
    taken = min(cores, math.floor(busy + 0.5))
    return Threads(max(1, min(most, cores - taken)), most, cores, taken)


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
        return busy_seconds(_STAT.read_text(encoding="ascii"), _mine(), _ticks())
    except (OSError, ValueError):  # not Linux, or of another form
        return None


def busy_seconds(stat: str, cores: Collection[int], ticks: int) -> float:
    r"""Seconds that some processors have worked since the start.

    Time that the machine below a virtual one took for others counts as work. Waiting for a disk does not.

    Args:
        stat: text of `/proc/stat`, lines such as `cpu0 USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL ...`.
        cores: numbers of the processors.
        ticks: units of the text in a second.

    Raises:
        ValueError: the text has another form, or none of the processors.

    >>> busy_seconds("cpu 9 9 9 9\ncpu0 200 500 100 7 7 0 0 0\ncpu1 50 0 0 7 7 0 0 0", {0}, 100)
    8.0
    """
    wanted = {f"cpu{core}" for core in cores}
    lines = [
        words[1:] for words in map(str.split, stat.splitlines()) if words and words[0] in wanted
    ]
    if not lines or min(map(len, lines)) <= max(_WORK):
        raise ValueError("no line of these processors, or too short ones")
    return sum(int(line[column]) for line in lines for column in _WORK) / ticks


def _sessions_are_apart() -> bool:
    """Whether priorities count inside a session alone, so that a program of another session does not give way."""
    try:
        return _AUTOGROUP.read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _giving_way(mine: Collection[int]) -> float:
    """Cores that programs of a much lower priority than ours keep busy, watched for a while from now."""
    before, began = _yielding(mine), time.monotonic()
    time.sleep(WINDOW)
    after, seconds = _yielding(mine), time.monotonic() - began
    return sum(spent - before.get(name, 0.0) for name, spent in after.items()) / seconds


def _yielding(mine: Collection[int]) -> dict[str, float]:
    """Number of a process of a much lower priority than ours, last seen on our cores -> seconds that it has worked.

    Those of other containers are not seen, and so do count: priorities say nothing between containers.
    """
    found: dict[str, float] = {}
    if sys.platform == "win32":
        return found
    least = os.getpriority(os.PRIO_PROCESS, 0) + _GIVES_WAY
    for place in _PROCESSES.glob("[0-9]*/stat"):
        try:
            columns = place.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(columns[_NICENESS]) >= least and int(columns[_PROCESSOR]) in mine:
            found[place.parent.name] = (int(columns[_UTIME]) + int(columns[_STIME])) / _ticks()
    return found


def _ticks() -> int:
    if sys.platform == "win32":
        return 1
    return os.sysconf("SC_CLK_TCK")


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


def _whole_cores(mine: Collection[int]) -> int:
    """Of logical cores, those that are not halves of one: two threads that compute gain nothing on these."""
    try:
        siblings = {
            (_CORES / f"cpu{core}" / _SIBLINGS).read_text(encoding="ascii") for core in mine
        }
    except OSError:  # not Linux
        return len(mine)
    return len(siblings)


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
