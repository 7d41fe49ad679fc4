"""Threads of a training run: as many as others leave cores, set at its start and restored at its end."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from maskpack.cli.hints import in_commands
from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    launch,
    run_baseline,
    threads,
)
from maskpack.compressor.threads import training_threads
from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint
from maskpack.formats.processors import Threads
from maskpack.tasks import find_task


@pytest.fixture
def torch_has(monkeypatch):
    """`torch_has(n)`: torch has been given n threads, and nobody has said how many a run gets."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """`machine(count, allowed)`: what is found of the machine. `machine.asked` counts how often it is watched."""

    def find(count, allowed):
        def look():
            find.asked += 1
            return Threads(count, allowed, allowed, allowed - count)

        monkeypatch.setattr(threads, "threads_now", look)

    find.asked = 0
    return find


def within(*given, **more):
    with training_threads(*given, **more) as chosen:
        assert chosen == torch.get_num_threads()
        return chosen


@pytest.mark.parametrize(
    ("has", "count", "allowed", "used"),
    [(4, 4, 4, 4), (4, 3, 4, 3), (4, 1, 4, 1), (2, 3, 4, 2), (8, 4, 4, 4)],
)
def test_a_run_takes_no_more_threads_than_cores_are_free(
    torch_has, machine, caplog, has, count, allowed, used
):
    torch_has(has)
    machine(count, allowed)
    with caplog.at_level(logging.INFO):
        assert within(None, device="cpu") == used
    assert torch.get_num_threads() == has
    assert bool(caplog.records) == (count < min(allowed, has))


def test_it_says_so_in_one_line_that_names_the_option(torch_has, machine, caplog):
    torch_has(2)
    machine(1, 2)
    with caplog.at_level(logging.INFO):
        within(None, device="cpu")
    (record,) = caplog.records
    said = "other programs keep 1 of 2 cores busy; training uses 1 thread (`threads` sets it)"
    assert record.getMessage() == said
    (hint,) = (each for each in record.args if isinstance(each, Hint))
    assert in_commands(hint) == "`--threads` sets it"


def test_a_number_that_is_given_counts_and_nothing_is_watched(torch_has, machine):
    torch_has(2)
    machine(1, 2)
    assert within(3) == 3
    assert torch.get_num_threads() == 2
    assert machine.asked == 0


@pytest.mark.parametrize(
    ("variables", "device"),
    [({"OMP_NUM_THREADS": "2"}, "cpu"), ({"WORLD_SIZE": "2", "RANK": "0"}, "cpu"), ({}, "cuda:0")],
)
def test_torch_keeps_its_number_where_somebody_else_has_chosen_it(
    torch_has, machine, monkeypatch, variables, device
):
    torch_has(2)
    machine(1, 2)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert within(None, device=device) == 2
    assert machine.asked == 0


def test_one_thread_cannot_become_fewer(torch_has, machine):
    torch_has(1)
    machine(1, 2)
    assert within(None, device="cpu") == 1
    assert machine.asked == 0


def test_the_number_comes_back_when_a_run_fails(torch_has):
    torch_has(2)
    with pytest.raises(ValueError, match="x"), training_threads(1):
        raise ValueError("x")
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("number", [0, -1])
def test_less_than_one_thread_is_refused(number):
    with pytest.raises(ConfigError, match=f"`threads` is {number}"):
        within(number)


def test_a_run_and_a_baseline_compute_with_the_threads_that_they_say(
    torch_has, machine, tiny_model, sentiment, tmp_path
):
    torch_has(2)
    machine(1, 2)
    seen = []

    def look(_):
        seen.append(torch.get_num_threads())

    plan = {"steps": 2, "batch_size": 8, "max_length": 16, "teacher": "none"}
    task = find_task("sst2")
    config = FitConfig(**plan)
    request = FitRequest(
        str(tiny_model), task, tmp_path / "a", config, data=sentiment, device="cpu"
    )
    assert fit_task(request, on_progress=look).threads == 1
    assert set(seen) == {1}
    seen.clear()
    again = replace(request, out=tmp_path / "b", threads=2)
    assert fit_task(again, on_progress=look).threads == 2
    assert set(seen) == {2}
    seen.clear()
    dense = BaselineRequest(
        str(tiny_model), task, BaselineConfig(**plan), data=sentiment, threads=2
    )
    assert run_baseline(dense, on_progress=look).threads == 2
    assert set(seen) == {2}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("count", "processes", "share", "given"),
    [(8, 2, 4, None), (5, 2, 2, None), (1, 4, 1, None), (8, 2, 3, 3)],
)
def test_processes_share_the_free_cores(
    torch_has, machine, monkeypatch, count, processes, share, given
):
    torch_has(2)
    machine(count, 8)
    sent = []

    def start(_, args, **more):
        sent.append(args[0].threads)
        raise ConfigError("started")

    monkeypatch.setattr(launch, "start_processes", start)
    request = FitRequest("m", find_task("sst2"), "x", threads=given)
    with pytest.raises(ConfigError, match="started"):
        launch.fit_in_processes(request, processes)
    assert sent == [share]
