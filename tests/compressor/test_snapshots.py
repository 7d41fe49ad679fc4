"""Averages of scores over the end of a run, and masks that a run leaves behind at the ends of its cycles."""

from __future__ import annotations

import signal
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from maskpack.compressor import (
    AdoptRequest,
    FitConfig,
    FitRequest,
    RefitRequest,
    fit_task,
    refit_tasks,
)
from maskpack.compressor.masking.snapshots import parts_of, with_parts
from maskpack.compressor.masking.sparsity import TailAverage
from maskpack.compressor.repeat import recorded_run
from maskpack.compressor.training.train import Plan
from maskpack.formats import ArtifactError, ConfigError, Interrupted, check_artifact, open_artifact
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess

NAMES = ("sst2-1", "sst2-2", "sst2")
OPTIONS = {"schedule": "restarts", "cycles": 3, "snapshots": True, "steps": 45, "margin": 0.5}


@pytest.fixture(scope="module")
def asked(tiny_model, sentiment, quick):
    """A function: a request for an artifact at a place."""

    def make(out, **options):
        config = quick(**{**OPTIONS, "checkpoint_every": 10, **options})
        return FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment)

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory, asked):
    """An artifact of a run with snapshots, and the run's result."""
    request = asked(tmp_path_factory.mktemp("whole") / "artifact")
    return request.out, fit_task(request)


def test_each_cycle_leaves_a_task(whole, sentiment):
    out, result = whole
    check_artifact(out)
    artifact = open_artifact(out)
    assert set(artifact.manifest.tasks) == set(NAMES)
    assert [(one.task, one.step) for one in result.snapshots] == [("sst2-1", 15), ("sst2-2", 30)]
    for one in result.snapshots:
        entry = artifact.entry(one.task)
        found = assess(artifact, one.task, data=sentiment)
        assert found.scores["accuracy"] == one.scores["accuracy"] == entry.scores["accuracy"]
        assert entry.zeros == one.zeros > 0
    masks = [artifact.patch(name).masks for name in NAMES]
    apart = [sum(int((a[n].packed != b[n].packed).sum()) for n in a) for a, b in pairwise(masks)]
    assert min(apart) > 0
    heads = [artifact.patch(name).head["classifier.bias"] for name in NAMES]
    assert not np.array_equal(heads[0], heads[1])


def test_the_last_task_is_that_of_the_same_run_without_snapshots(whole, asked, tmp_path):
    request = asked(tmp_path / "a", snapshots=False)
    fit_task(request)
    found, wanted = (open_artifact(path).patch("sst2") for path in (request.out, whole[0]))
    for (name, left), (_, right) in zip(parts_of(found), parts_of(wanted), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)


@pytest.mark.parametrize("step", [10, 21, 44])
def test_a_stopped_run_leaves_the_same_tasks(whole, asked, tmp_path, step):
    request = asked(tmp_path / "a")

    def press(news):
        if news.step == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_task(request, on_progress=press)
    fit_task(replace(request, resume=True))
    for name in NAMES:
        file = f"tasks/{name}.safetensors"
        assert (request.out / file).read_bytes() == (whole[0] / file).read_bytes()


def test_a_run_that_was_stopped_between_its_tasks_goes_on(asked, tmp_path, whole, monkeypatch):
    from maskpack.compressor import fit

    request, write, written = asked(tmp_path / "a"), fit.write, []

    def full(run, entry, patch):
        written.append(entry.name)
        if len(written) == 2:
            raise ArtifactError("the disk is full")
        return write(run, entry, patch)

    monkeypatch.setattr(fit, "write", full)
    with pytest.raises(ArtifactError, match="full"):
        fit_task(request)
    assert set(open_artifact(request.out).manifest.tasks) == {"sst2-1"}
    with pytest.raises(ArtifactError, match="`sst2-1`, which a stopped run left") as caught:
        fit_task(request)
    assert caught.value.hint == "repeat the same request with `resume` to go on"
    monkeypatch.setattr(fit, "write", write)
    fit_task(replace(request, resume=True))
    check_artifact(request.out)
    assert set(open_artifact(request.out).manifest.tasks) == set(NAMES)


@pytest.mark.parametrize(
    ("every", "fact", "hint"),
    [
        (10, "the checkpoint is kept in", "repeat the same request with `resume` to go on"),
        (0, "of which no checkpoint is kept", "repeat the same request, with `replace` if it left"),
    ],
)
def test_ctrl_c_between_two_tasks_says_how_to_go_on(
    asked, tmp_path, monkeypatch, every, fact, hint
):
    from maskpack.compressor import fit

    request, write = asked(tmp_path / "a", checkpoint_every=every, steps=20), fit.write

    def pressed(run, entry, patch):
        if entry.name == "sst2-2":
            raise KeyboardInterrupt
        return write(run, entry, patch)

    monkeypatch.setattr(fit, "write", pressed)
    with pytest.raises(Interrupted, match=fact) as caught:
        fit_task(request)
    assert hint in caught.value.hint
    assert set(open_artifact(request.out).manifest.tasks) == {"sst2-1"}
    monkeypatch.setattr(fit, "write", write)
    fit_task(replace(request, resume=every > 0, replace=every == 0))
    assert set(open_artifact(request.out).manifest.tasks) == set(NAMES)


def test_tasks_that_would_be_snapshots_of_others_are_refused_before_anything_is_loaded(tmp_path):
    config = FitConfig(**OPTIONS)
    texts = tmp_path / "texts.txt"
    models = dict.fromkeys(("a", "b", "a-1"), "no-such-model")
    words = "the run of `a` leaves a task `a-1` on its way, and another task has that name"
    with pytest.raises(ConfigError, match=words):
        AdoptRequest(models, tmp_path / "x", config=config, texts=texts)
    AdoptRequest(models, tmp_path / "x", config=FitConfig(steps=45), texts=texts)
    del models["a"]
    AdoptRequest(models, tmp_path / "x", config=config, texts=texts)
    shares = FitConfig(continual="0.1,0.25", schedule="cosine")
    with pytest.raises(ConfigError, match="the run of `b` leaves a task `b-10`"):
        AdoptRequest({"b": "m", "b-10": "n"}, tmp_path / "x", config=shares, texts=texts)


def test_tasks_of_an_artifact_that_were_snapshots_go_on_alone(whole, tiny_model, tmp_path):
    request = RefitRequest(
        whole[0], str(tiny_model), tmp_path / "x", FitConfig(**OPTIONS), texts=tmp_path / "t.txt"
    )
    with pytest.raises(ConfigError, match="the run of `sst2` leaves a task `sst2-1` on its way"):
        refit_tasks(request)


def test_parts_of_a_patch_make_it_again(tiny_artifact):
    patch = open_artifact(tiny_artifact).patch("sst2")
    parts = dict(parts_of(patch))
    again = dict(parts_of(with_parts(patch, parts)))
    assert again.keys() == parts.keys()
    assert all(np.array_equal(again[name], parts[name]) for name in parts)
    other = with_parts(patch, {name: np.zeros_like(part) for name, part in parts.items()})
    assert other.count.zeros == other.count.weights


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"snapshots": True}, "`snapshots` are taken at the ends of cycles, and there is one"),
        ({**OPTIONS, "units": "heads", "keep_units": 0.5}, "`units` go in stages"),
        ({**OPTIONS, "patience": 2}, "`patience` ends a run early, `snapshots` needs"),
        ({"tail": 0.2, "patience": 2}, "`patience` ends a run early, `tail` needs"),
        ({"ema": 0.9, "tail": 0.2}, "`ema` and `tail` are two averages"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        FitConfig(**options)


class Layer:
    """What an average sees of a masked linear."""

    def __init__(self, values):
        self.score = torch.nn.Parameter(torch.tensor(values))


def test_the_tail_is_a_plain_mean_of_the_last_scores():
    layer = Layer([0.0])
    average = TailAverage([layer], first=10)
    taken = []
    for step in range(1, 24):
        layer.score.data = torch.tensor([float(step**2)])
        if step >= 10 and (step % 5 == 0 or step == 23):
            taken.append(step**2)
        average.on_step_end(step, 23)
    assert float(layer.score.detach()) == pytest.approx(np.mean(taken), rel=1e-6)


def test_the_tail_changes_the_mask_and_survives_a_stop(asked, tmp_path, whole):
    options = {"snapshots": False, "schedule": "linear", "cycles": 1}
    plain, tail = asked(tmp_path / "a", **options), asked(tmp_path / "b", tail=0.5, **options)
    fit_task(plain)
    fit_task(tail)
    masks = [open_artifact(each.out).patch("sst2").masks for each in (plain, tail)]
    assert any(not np.array_equal(masks[0][n].packed, masks[1][n].packed) for n in masks[0])
    again = replace(tail, out=tmp_path / "c" / "artifact")

    def press(news):
        if news.step == 33:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_task(again, on_progress=press)
    fit_task(replace(again, resume=True))
    file = "tasks/sst2.safetensors"
    assert (again.out / file).read_bytes() == (tail.out / file).read_bytes()


def test_one_run_passes_several_shares_of_zeros(asked, tmp_path, sentiment):
    options = {"snapshots": False, "schedule": "linear", "cycles": 1, "steps": 60}
    request = asked(tmp_path / "a", continual="0.1,0.25,0.5", **options)
    result = fit_task(request)
    artifact = open_artifact(request.out)
    assert set(artifact.manifest.tasks) == {"sst2-10", "sst2-25", "sst2"}
    assert [one.step for one in result.snapshots] == [20, 40]
    for name, share in (("sst2-10", 0.1), ("sst2-25", 0.25), ("sst2", 0.5)):
        entry = artifact.entry(name)
        assert entry.zeros == pytest.approx(share * entry.weights, abs=1)
        assert assess(artifact, name, data=sentiment).scores["accuracy"] == entry.scores["accuracy"]
    again = replace(request, out=tmp_path / "b" / "artifact")

    def press(news):
        if news.step == 33:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_task(again, on_progress=press)
    fit_task(replace(again, resume=True))
    for name in artifact.manifest.tasks:
        file = artifact.entry(name).file
        assert (again.out / file).read_bytes() == (request.out / file).read_bytes()


def test_the_smallest_weights_go_first_and_learning_changes_which(asked, tmp_path):
    options = {"snapshots": False, "schedule": "linear", "cycles": 1, "steps": 40}
    request = asked(tmp_path / "a", continual="0.1,0.3", **options)
    fit_task(request)
    artifact = open_artifact(request.out)
    small, chosen, both, removed = 0, 0, 0, 0
    for name, mask in artifact.patch("sst2-10").masks.items():
        codes = artifact.backbone.linears[name]
        gone = ~mask.to_bool()
        sizes = np.abs(codes.dequantize())
        limit = np.quantile(sizes[sizes > 0], 0.5)
        small += int((gone & (sizes <= limit)).sum())
        chosen += int(gone.sum())
        later = ~artifact.patch("sst2").masks[name].to_bool()
        both += int((gone & later).sum())
        removed += int(later.sum())
    assert small > 0.6 * chosen
    assert 0.5 * chosen < both <= chosen < removed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"continual": "0.1"}, "two rising shares or more"),
        ({"continual": "0.3,0.2"}, "two rising shares or more"),
        ({"continual": "0.3,1"}, "two rising shares or more"),
        ({"continual": "a,b"}, "two rising shares or more"),
        ({"continual": "0.1,0.2", "sparsity": 0.3}, "set the same thing"),
        ({"continual": "0.1,0.2", "units": "heads", "keep_units": 0.5}, "counts single weights"),
        ({"continual": "0.1,0.2", "estimator": "topk"}, "estimator topk has none to move"),
        ({"continual": "0.1,0.2", "patience": 1}, "`continual` needs"),
        ({**OPTIONS, "continual": "0.1,0.2"}, "`snapshots` at each cycle"),
        ({"continual": "0.1,0.2", "ema": 0.9}, "`ema` averages the scores for the last mask"),
        ({**OPTIONS, "tail": 0.2}, "`tail` averages the scores for the last mask"),
        ({"continual": "0.10001,0.100012,0.4"}, "tasks would have the same names"),
        (
            {"continual": "0.1,0.2,0.4", "schedule": "restarts", "cycles": 2},
            "`cycles` is 2, and `continual` passes 3 shares",
        ),
    ],
)
def test_shares_that_no_run_can_pass_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        FitConfig(**options)


def test_a_run_has_a_step_for_each_part():
    config = FitConfig(continual="0.1,0.2,0.4", schedule="cosine", steps=2)
    with pytest.raises(ConfigError, match="the run has 2 steps, fewer than the 3 parts"):
        Plan.of(config, rows=100)


def test_resume_alone_replaces_no_task_of_another_run(asked, tmp_path):
    plain = asked(tmp_path / "a", snapshots=False, cycles=1, schedule="linear", steps=2)
    fit_task(replace(plain, name="sst2-1"))
    with pytest.raises(ArtifactError, match="sst2-1"):
        fit_task(replace(asked(tmp_path / "a"), resume=True))


def test_a_name_that_grows_too_long_is_refused_before_training(asked, tmp_path):
    request = replace(asked(tmp_path / "a"), name="n" * 63)
    with pytest.raises(ArtifactError, match="cannot name a task"):
        fit_task(request, on_progress=lambda _: pytest.fail("a step was taken"))


def test_the_run_of_a_snapshot_is_that_which_left_it(whole):
    artifact = open_artifact(whole[0])
    found = [recorded_run(artifact, name).tree for name in ("sst2-1", "sst2")]
    assert found[0] == found[1]
    assert found[0]["snapshots"] is True
    assert "name" not in found[0]["run"]


def test_rates_begin_anew_at_each_share():
    config = FitConfig(continual="0.1,0.2,0.4", steps=30, warmup=0.0)
    plan = Plan.of(config, rows=100)
    assert [plan.rate(step) for step in (0, 10, 20)] == pytest.approx([1, 1, 1])
    other = Plan.of(replace(config, schedule="cosine"), rows=100)
    assert other.rate(20) < 0.5


def test_windows_of_a_known_task_are_part_of_its_run(asked, tmp_path):
    task = find_task("sst2", windows=True)
    request = replace(asked(tmp_path / "a", snapshots=False, steps=2), task=task)
    fit_task(replace(request, config=replace(request.config, cycles=1, schedule="linear")))
    told = recorded_run(open_artifact(request.out), "sst2").tree["run"]
    assert told["windows"] is True
