"""Real processes of this machine: one result, one error, and what is left when one of them is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from maskpack.compressor import fit_in_processes, fit_task
from maskpack.compressor.launch import _Told, check_processes
from maskpack.formats import ConfigError, DataError, MaskpackError, open_artifact
from maskpack.models.processes import ProcessLostError


def test_two_processes_learn_what_one_learns(request_for):
    plain = {"dropout": 0.0, "margin": 0.5}
    alone = fit_task(request_for("alone", **plain))
    seen = []
    shared = fit_in_processes(request_for("shared", **plain), 2, on_progress=seen.append)
    assert [now.step for now in seen] == list(range(1, 31))
    assert shared.zeros == pytest.approx(alone.zeros, rel=0.02)
    assert shared.scores == alone.scores
    one, two = (open_artifact(request_for(name).out) for name in ("alone", "shared"))
    assert one.manifest.backbone_sha256 == two.manifest.backbone_sha256
    assert two.entry("sst2").kind == "classification"


def test_a_killed_process_ends_all_and_the_checkpoint_goes_on_in_one(request_for):
    request = request_for("out", steps=400, checkpoint_every=5)

    def kill(now):
        if now.step == 12:
            second = sorted(multiprocessing.active_children(), key=lambda each: each.pid)[1]
            os.kill(second.pid, signal.SIGKILL)

    with pytest.raises(ProcessLostError, match="was ended by SIGKILL") as told:
        fit_in_processes(request, 2, on_progress=kill)
    assert "the checkpoint is kept in" in told.value.hint
    assert not multiprocessing.active_children()
    assert not request.out.exists()
    steps = []
    fit_task(replace(request, resume=True), on_progress=lambda now: steps.append(now.step))
    assert 10 < steps[0] < 60
    assert steps[-1] == 400
    assert not request.checkpoint_folder.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's gloo needs a POSIX system here")
def test_torchrun_speaks_once_and_ends_with_one_error(tmp_path, tiny_model, sentiment):
    def run(*more):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command = [*launch, "--master-port", "29713", "-m", "maskpack.cli", "fit", str(tiny_model)]
        options = ["--task", "sst2", "--data", str(sentiment), "--steps", "4", "--teacher", "none"]
        # the ranks import this checkout, wherever the test was started
        return subprocess.run(
            [*command, *options, "--max-length", "16", "--json", *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    done = run("-o", "out", "--processes", "1")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["steps"] == 4
    refused = run("-o", "out")  # the task is there already
    assert refused.returncode != 0
    assert refused.stderr.count("error: ") == 1, refused.stderr


def told_of(*messages, lost=None, request=None):
    told = _Told(lambda _: None)
    for rank, kind, value in messages:
        told.take(rank, kind, value)
    told.lost = lost
    return told.result(request)


def test_the_cause_is_told_and_not_what_followed_from_it(request_for):
    cause, other = DataError("row 7"), ProcessLostError("another one")
    with pytest.raises(DataError, match="row 7"):
        told_of((0, "error", other), (1, "error", cause))
    with pytest.raises(KeyboardInterrupt):
        told_of((0, "stopped", None), (1, "error", other))
    with pytest.raises(ProcessLostError, match="process 1 ended with exit code 3") as told:
        told_of(lost=(1, "ended with exit code 3"), request=request_for())
    assert told.value.hint == "nothing was written; there was no checkpoint yet"
    with pytest.raises(MaskpackError, match="process 1 ended early"):
        told_of((1, "error", other), request=request_for())
    assert told_of((0, "result", "it"), (1, "error", other)) == "it"


def test_a_number_of_processes_that_cannot_be(monkeypatch):
    with pytest.raises(ConfigError, match="`processes` is 0"):
        check_processes(0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="one of 4 processes"):
        check_processes(2)
    check_processes(1)


def test_a_request_is_learned_here_if_one_process_is_asked_for(request_for, monkeypatch):
    from maskpack.compressor import launch

    monkeypatch.setattr(launch, "fit_task", lambda request, **_: SimpleNamespace(it=request))
    request = request_for()
    assert fit_in_processes(request, 1).it is request
