"""Runs that are stopped, by Ctrl-C or by `kill -9`, and go on as if they had not been."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import ArtifactError, Interrupted, check_artifact, open_artifact
from maskpack.tasks import find_task

PATCH = "tasks/sst2.safetensors"


@pytest.fixture(scope="module")
def request_in(tiny_model, sentiment, quick):
    """A function: a request for an artifact in a new folder."""

    def make(folder: Path, *, resume: bool = False, **options) -> FitRequest:
        config = quick(**{"steps": 40, "checkpoint_every": 10, **options})
        folder.mkdir(exist_ok=True)
        out, task = folder / "artifact", find_task("sst2")
        return FitRequest(str(tiny_model), task, out, config, data=sentiment, resume=resume)

    return make


@pytest.fixture
def requests(tmp_path, request_in):
    """A function: a request for an artifact under the test's folder."""
    return lambda name="a", **options: request_in(tmp_path / name, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, request_in):
    """`whole(**options)`: the request of a run that nobody stopped, and its result. Learned once."""
    made = {}

    def learn(**options):
        key = repr(options)
        if key not in made:
            request = request_in(tmp_path_factory.mktemp("whole") / "a", **options)
            made[key] = request, fit_task(request)
        return made[key]

    return learn


def stopped(request: FitRequest, watch) -> Interrupted:
    with pytest.raises(Interrupted) as caught:
        fit_task(request, on_progress=watch)
    return caught.value


def patch_of(request: FitRequest) -> bytes:
    return (request.out / PATCH).read_bytes()


def press_ctrl_c_at(step: int):
    def watch(news) -> None:
        if news.step == step:
            signal.raise_signal(signal.SIGINT)

    return watch


STEPS, OPTIONS = (10, 17, 39), ({}, {"sparsity": 0.2}, {"target_bpp": 0.1, "floor": 0.0})


@pytest.mark.parametrize(
    ("step", "options"),
    [
        pytest.param(step, options, marks=[pytest.mark.slow] * (first != second))
        for first, step in enumerate(STEPS)
        for second, options in enumerate(OPTIONS)
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bytes_and_scores(
    requests, whole, stop_at, snapshot, options, step
):
    twin, expected = whole(**options)
    broken = requests("broken", **options)
    error = stopped(broken, stop_at(step))
    assert str(broken.checkpoint_folder) in str(error)
    assert "resume" in error.hint
    assert not broken.out.exists()
    seen = []
    done = fit_task(replace(broken, resume=True), on_progress=lambda news: seen.append(news.step))
    assert seen[0] == step // 10 * 10 + 1
    assert seen[-1] == 40
    assert done.scores == expected.scores
    assert done.zeros == expected.zeros > 0
    assert snapshot(broken.out) == snapshot(twin.out)


def test_ctrl_c_loses_no_step_because_the_state_is_kept_then(requests, whole):
    broken = requests("broken")
    stopped(broken, press_ctrl_c_at(13))
    seen = []
    fit_task(replace(broken, resume=True), on_progress=lambda news: seen.append(news.step))
    assert seen == list(range(15, 41))  # pressed in step 13's news, noticed after step 14
    assert patch_of(broken) == patch_of(whole()[0])


def test_a_run_stopped_twice_goes_on_twice(requests, whole, stop_at):
    broken = requests("broken")
    stopped(broken, stop_at(12))
    stopped(replace(broken, resume=True), stop_at(33))
    fit_task(replace(broken, resume=True))
    assert patch_of(broken) == patch_of(whole()[0])


def test_a_run_stopped_after_its_last_step_needs_no_step_more(requests, whole, stop_at):
    broken = requests("broken")
    stopped(broken, stop_at(40))
    seen = []
    fit_task(replace(broken, resume=True), on_progress=lambda news: seen.append(news.step))
    assert seen == []
    assert patch_of(broken) == patch_of(whole()[0])


def test_a_run_stopped_before_its_first_checkpoint_leaves_nothing(requests, stop_at):
    broken = requests("broken")
    error = stopped(broken, stop_at(9))
    assert "before the first checkpoint" in str(error)
    assert error.hint is None
    assert list(broken.out.parent.iterdir()) == []
    again = fit_task(replace(broken, resume=True))  # nothing to go on from: from the start
    assert again.steps == 40


def test_without_checkpoints_ctrl_c_leaves_nothing_either(requests):
    broken = requests("broken", checkpoint_every=0)
    assert "nothing was written" in str(stopped(broken, press_ctrl_c_at(5)))
    assert list(broken.out.parent.iterdir()) == []


def test_the_checkpoint_is_gone_once_the_run_is_done(requests, stop_at):
    broken = requests("broken")
    stopped(broken, stop_at(25))
    assert [path.name for path in broken.out.parent.iterdir()] == [".artifact.sst2.unfinished"]
    fit_task(replace(broken, resume=True))
    assert [path.name for path in broken.out.parent.iterdir()] == ["artifact"]


def test_without_resume_an_old_checkpoint_is_not_used_and_then_gone(requests, whole, stop_at):
    broken = requests("broken", seed=0)
    stopped(broken, stop_at(25))
    other = requests("broken", seed=1)
    fit_task(other)
    assert patch_of(other) == patch_of(whole(seed=1)[0])
    assert [path.name for path in other.out.parent.iterdir()] == ["artifact"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 1e-3}, {"bits": 8}, {"train_rows": 64}])
def test_going_on_with_other_options_is_refused_and_the_checkpoint_stays(
    requests, stop_at, snapshot, change
):
    broken = requests("broken")
    stopped(broken, stop_at(25))
    before = snapshot(broken.out.parent)
    with pytest.raises(
        ArtifactError, match="belongs to a run with other options or data"
    ) as caught:
        fit_task(requests("broken", resume=True, **change))
    assert "resume" in caught.value.hint
    assert snapshot(broken.out.parent) == before


def test_going_on_with_other_data_is_refused(requests, stop_at, shared, tmp_path):
    broken = requests("broken")
    stopped(broken, stop_at(25))
    (tmp_path / "other").mkdir()
    data = shared.write_sentiment(tmp_path / "other", train=98)
    with pytest.raises(ArtifactError, match="belongs to a run with other options or data"):
        fit_task(replace(broken, data=data, resume=True))


def test_a_damaged_checkpoint_is_refused_and_the_run_can_start_over(requests, whole, stop_at):
    broken = requests("broken")
    stopped(broken, stop_at(25))
    state = broken.checkpoint_folder / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        fit_task(replace(broken, resume=True))
    assert caught.value.hint == "start over without `resume`"
    fit_task(broken)
    assert patch_of(broken) == patch_of(whole()[0])


CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
import torch
from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.tasks import find_task
from maskpack.compressor.options import load_options

torch.set_num_threads(1)
model, data, out, options = sys.argv[1:]

def watch(news):
    if news.step == 25:
        print("at step 25", flush=True)
        time.sleep(60)  # the parent kills us here

config = FitConfig.from_dict(load_options(Path(options)))
fit_task(
    FitRequest(model, find_task("sst2"), Path(out), config, data=Path(data), name="second"),
    on_progress=watch,
)
"""


@pytest.fixture
def killed(tmp_path, requests, tiny_model, sentiment, tiny_artifact, snapshot):
    """An artifact into which a second task was being learned by a process that was killed."""
    from maskpack.compressor.options import save_options

    out = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, out)
    before = snapshot(out)
    request = replace(requests(), out=out, name="second")
    save_options(tmp_path / "options.yaml", request.config)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tiny_model, sentiment, out, tmp_path / "options.yaml"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = child.stdout.readline()
        during = check_artifact(out)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(300)
        child.stdout.close()
    assert line == "at step 25\n"
    assert child.returncode == -signal.SIGKILL
    return SimpleNamespace(request=request, before=before, during=during)


def test_a_killed_process_leaves_the_artifact_sound_and_its_work_can_go_on(
    killed, tiny_artifact, snapshot, tmp_path
):
    request = killed.request
    out = request.out
    assert killed.during == []
    assert snapshot(out) == killed.before
    twin = replace(request, out=tmp_path / "twin")
    shutil.copytree(tiny_artifact, twin.out)
    expected = fit_task(twin)

    seen = []
    done = fit_task(replace(request, resume=True), on_progress=lambda news: seen.append(news.step))
    assert seen == list(range(21, 41))
    assert done.scores == expected.scores
    assert check_artifact(out) == []
    assert list(open_artifact(out).manifest.tasks) == ["second", "sst2"]
    after = snapshot(out)
    assert after == snapshot(twin.out)
    same = {name for name in after if after[name] == killed.before.get(name)}
    assert set(after) - same == {"tasks/second.safetensors", "maskpack.json", "README.md"}
    assert not Path(request.checkpoint_folder).exists()


def test_a_teacher_that_was_trained_first_is_not_trained_again(request_for):
    """A run stopped after its teacher goes on with the mask, and ends with the same bytes."""
    whole = request_for("whole", teacher="twin", steps=12, checkpoint_every=5)
    fit_task(whole)
    part = request_for("part", teacher="twin", steps=12, checkpoint_every=5)
    stages = []

    def stop_in_mask(now):
        stages.append(now.stage)
        if now.stage == "task" and now.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fit_task(part, on_progress=stop_in_mask)
    assert stages.count("teacher") == 12
    stages.clear()
    fit_task(replace(part, resume=True), on_progress=lambda now: stages.append(now.stage))
    assert stages == ["task"] * 7, "from the checkpoint after step 5"
    assert not part.checkpoint_folder.exists()
    for name in ("tasks/sst2.safetensors", "maskpack.json"):
        assert (part.out / name).read_bytes() == (whole.out / name).read_bytes()


def test_a_teacher_that_is_stopped_goes_on(request_for):
    whole = request_for("whole", teacher="twin", steps=12, checkpoint_every=5)
    fit_task(whole)
    part = request_for("part", teacher="twin", steps=12, checkpoint_every=5)
    steps = []

    def stop(now):
        if now.stage == "teacher" and now.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="the checkpoint is kept"):
        fit_task(part, on_progress=stop)
    fit_task(replace(part, resume=True), on_progress=lambda now: steps.append(now.step))
    assert steps == [*range(6, 13), *range(1, 13)]
    assert (part.out / "tasks" / "sst2.safetensors").read_bytes() == (
        whole.out / "tasks" / "sst2.safetensors"
    ).read_bytes()
