from __future__ import annotations

import os

import pytest

from maskpack.formats import processors
from maskpack.formats.processors import threads_allowed


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 processors, of which a process may use some."""

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
