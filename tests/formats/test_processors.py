from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from maskpack.formats import processors
from maskpack.formats.processors import (
    Threads,
    threads_allowed,
    threads_asked,
    threads_now,
    usage_now,
)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 processors, of which a process may use some."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processors, "_CORES", tmp_path / "no such folder")

    def make(*, mine=8, files=None):
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(mine)), raising=False)
        monkeypatch.setattr(processors, "_LIMIT", tmp_path / "cpu.max")
        monkeypatch.setattr(processors, "_OLD", tmp_path)
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(text)

    return make


@pytest.mark.parametrize(
    ("told", "threads"),
    [
        ({}, 0),
        ({"mine": 2}, 2),
        ({"files": {"cpu.max": "max 100000\n"}}, 0),
        ({"files": {"cpu.max": "150000 100000\n"}}, 2),
        ({"files": {"cpu.max": "50000 100000\n"}}, 1),
        ({"files": {"cpu.max": "400000 100000\n"}, "mine": 3}, 3),
        ({"files": {"cpu.max": "1600000 100000\n"}}, 0),
        ({"files": {"cpu.cfs_quota_us": "300000\n", "cpu.cfs_period_us": "100000\n"}}, 3),
        ({"files": {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"}}, 0),
        ({"files": {"cpu.max": "what\n"}}, 0),
    ],
)
def test_threads_are_those_that_a_container_grants(machine, told, threads):
    machine(**told)
    assert threads_allowed() == threads


def test_a_system_without_affinities_has_all_processors(machine, monkeypatch):
    machine()
    monkeypatch.delattr(os, "sched_getaffinity")
    assert threads_allowed() == 0


def line(core, user, nice=0, system=0, steal=0):
    return f"cpu{core} {user} {nice} {system} 900 50 1 1 {steal} 0 0\n"


def process(niceness, spent, core=0):
    """A line of `/proc/PID/stat` whose name holds what a careless reader would cut at."""
    columns = [
        "S",
        *["0"] * 10,
        str(spent),
        "0",
        "0",
        "0",
        "20",
        str(niceness),
        *["0"] * 19,
        str(core),
    ]
    return f"12 (a ) b) {' '.join(columns)}\n"


@pytest.fixture
def load(machine, tmp_path, monkeypatch):
    """`load(before, after, ...)`: what others do on 4 of 8 processors between moments, which follow one another at once.

    A moment is the files of `/proc` by name; their unit of time is a hundredth of a second.
    """
    machine(mine=4)
    now = {"at": 100.0, "own": 7.0}

    def write(files):
        for name, text in files.items():
            path = tmp_path / "proc" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def make(*moments, own=0.0, nice=0, autogroup="0"):
        first, *later = moments
        write({"autogroup": autogroup, **first})
        coming = iter(later)

        def sleep(seconds):
            now["at"] += seconds
            now["own"] += own * seconds
            write(next(coming, {}))

        monkeypatch.setattr(processors, "_STAT", tmp_path / "proc" / "stat")
        monkeypatch.setattr(processors, "_PROCESSES", tmp_path / "proc")
        monkeypatch.setattr(processors, "_AUTOGROUP", tmp_path / "proc" / "autogroup")
        monkeypatch.setattr(os, "sysconf", {"SC_CLK_TCK": 100}.get, raising=False)
        monkeypatch.setattr(os, "getpriority", lambda *_: nice, raising=False)
        monkeypatch.setattr(os, "PRIO_PROCESS", 0, raising=False)
        monkeypatch.setattr(sys, "platform", "linux")
        clock = {"monotonic": lambda: now["at"], "process_time": lambda: now["own"]}
        monkeypatch.setattr(processors, "time", SimpleNamespace(sleep=sleep, **clock))

    return make


def stat(*users, **more):
    return {
        "stat": "cpu 1 2 3\n" + "".join(line(core, user, **more) for core, user in enumerate(users))
    }


IDLE = stat(500, 500, 500, 500, 500)


@pytest.mark.parametrize(
    ("after", "own", "threads"),
    [
        (IDLE, 0.0, Threads(4, 4, 4, 0)),
        (stat(510, 500, 500, 500, 500), 0.0, Threads(3, 4, 4, 1)),
        (stat(504, 500, 500, 500, 500), 0.0, Threads(4, 4, 4, 0)),
        (stat(510, 510, 510, 510, 500), 0.0, Threads(1, 4, 4, 4)),
        (stat(510, 510, 500, 500, 500), 2.0, Threads(4, 4, 4, 0)),
        (stat(500, 500, 500, 500, 900), 0.0, Threads(4, 4, 4, 0)),
        (stat(500, 500, 500, 500, 500, steal=5), 0.0, Threads(2, 4, 4, 2)),
        (stat(500, 500, 500, 500, 500, nice=10), 0.0, Threads(1, 4, 4, 4)),
    ],
    ids=[
        *("idle", "one busy", "less than half", "all busy", "this process itself"),
        *("a core that is not ours", "taken for another machine", "niced and unseen"),
    ],
)
def test_cores_that_others_keep_busy_get_no_thread(load, after, own, threads):
    load(IDLE, after, own=own)
    assert threads_now() == threads


@pytest.mark.parametrize(
    ("niceness", "own", "autogroup", "core", "count"),
    [
        (19, 0, "0", 0, 4),
        (10, 0, "0", 0, 4),
        (9, 0, "0", 0, 3),
        (0, 0, "0", 0, 3),
        (19, 10, "0", 0, 3),
        (0, -12, "0", 0, 4),
        (19, 0, "1", 0, 3),
        (19, 0, "0", 6, 3),
    ],
)
def test_a_program_of_a_much_lower_priority_gives_way(load, niceness, own, autogroup, core, count):
    def at(spent):
        return {**stat(500, 500 + spent, 500, 500), "77/stat": process(niceness, spent, core)}

    load(at(0), at(10), at(20), nice=own, autogroup=autogroup)
    assert threads_now().count == count


def test_time_that_has_passed_already_is_not_waited_for(load):
    load(IDLE, IDLE)
    before = usage_now()
    processors.time.sleep(0.06)
    waits, sleep = [], processors.time.sleep
    processors.time.sleep = lambda seconds: (waits.append(seconds), sleep(seconds))
    assert threads_now(before).count == 4
    assert waits == [pytest.approx(0.04)]


@pytest.mark.parametrize(
    ("said", "asked"),
    [("2", 2), ("3,1", 3), (" 5 ", 5), ("0", None), ("-1", None), ("many", None), ("", None)],
)
def test_what_the_environment_asks_for_counts(load, monkeypatch, said, asked):
    load(IDLE, stat(510, 500, 500, 500))
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert threads_asked() == asked
    assert threads_now().count == (asked or 3)


def test_the_load_average_stands_in_where_no_file_tells(load, tmp_path, monkeypatch):
    load({"stat": "of another form\n"})
    monkeypatch.setattr(os, "getloadavg", lambda: (1.7, 0.0, 0.0), raising=False)
    monkeypatch.setattr(processors, "_BEGAN", 40.0)
    # 7 of the last 60 seconds were this process's own
    assert threads_now() == Threads(2, 4, 4, 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.6, 0.0, 0.0), raising=False)
    assert threads_now().count == 4


def test_windows_tells_nothing(load, monkeypatch):
    load(IDLE, stat(510, 510, 510, 510))
    monkeypatch.setattr(sys, "platform", "win32")
    assert threads_now() == Threads(4, 4, 4, 0)


def test_halves_of_a_core_count_once(load, machine, tmp_path, monkeypatch):
    load(IDLE, IDLE)
    for core in range(4):
        path = tmp_path / "cores" / f"cpu{core}" / "topology"
        path.mkdir(parents=True)
        (path / "thread_siblings_list").write_text(f"{core % 2},{core % 2 + 2}\n")
    monkeypatch.setattr(processors, "_CORES", tmp_path / "cores")
    assert threads_now() == Threads(2, 2, 4, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what the cores do now")
def test_a_busy_loop_beside_this_process_is_seen(monkeypatch):
    """On the machine of the test: with a loop a core there is one thread left."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    command = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in os.sched_getaffinity(0)]
    try:
        for loop in loops:
            loop.stdout.readline()  # it runs
        found = threads_now()
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()
    assert (found.count, found.busy) == (1, found.cores) or found.allowed == 1
