"""What the manifest keeps of a run: loss, zeros and metric over its steps."""

from __future__ import annotations

import json

import pytest
import torch

from maskpack.compressor import fit_task
from maskpack.compressor.training.callbacks import History
from maskpack.compressor.types import MOST_POINTS, Curves, curves_of
from maskpack.formats import open_artifact, pack_task, unpack_task
from maskpack.formats.writer import create_artifact


def watched(steps, per_epoch, until=None, losses=float):
    looks = []
    history = History(
        lambda: looks.append(1) or len(looks) / 100,
        lambda: 7 * len(looks),
        steps=steps,
        per_epoch=per_epoch,
    )
    for step in range(1, (until or steps) + 1):
        history.on_loss(losses(step))
        history.on_step_end(step, steps)
    return history


def test_a_short_run_is_kept_step_by_step():
    curves = watched(6, 2).curves()
    assert curves.steps == (1, 2, 3, 4, 5, 6)
    assert curves.loss == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert curves.zeros == (0, 0, 7, 7, 14, 14)
    assert (curves.score_steps, curves.scores) == ((2, 4, 6), (0.01, 0.02, 0.03))


@pytest.mark.parametrize("steps", [1, 39, 40, 41, 81, 1875, 10_000])
@pytest.mark.parametrize("per_epoch", [1, 3, 625])
def test_a_long_run_is_thinned_and_its_end_is_kept(steps, per_epoch):
    curves = watched(steps, per_epoch).curves()
    assert len(curves.steps) <= MOST_POINTS
    assert curves.steps[-1] == steps
    assert len(curves.scores) <= MOST_POINTS
    assert all(step % per_epoch == 0 for step in curves.score_steps)
    assert len(curves.scores) >= min(steps // per_epoch, MOST_POINTS // 2)


def test_a_point_is_the_mean_loss_since_the_one_before():
    curves = watched(80, 80).curves()
    assert curves.steps[:2] == (2, 4)
    assert curves.loss[:2] == (1.5, 3.5)


def test_a_loss_that_is_not_finite_leaves_its_point_out():
    curves = watched(4, 9, losses=lambda step: float("inf") if step == 2 else 1.0).curves()
    assert curves.steps == (1, 3, 4)


def test_a_resumed_run_tells_the_same_history():
    whole, first = watched(90, 7), watched(90, 7, until=33)
    rest = watched(90, 7, until=0)
    for name, tensor in rest.state().items():
        tensor.copy_(first.state()[name])
    assert rest.metric() == first.metric()
    rest._evaluate, rest._count = whole_judge(4), lambda: 0
    for step in range(34, 91):
        rest.on_loss(float(step))
        rest.on_step_end(step, 90)
    assert rest.curves().loss == whole.curves().loss
    assert rest.curves().scores == whole.curves().scores


def whole_judge(looks):
    counted = [looks]

    def evaluate():
        counted[0] += 1
        return counted[0] / 100

    return evaluate


def test_curves_survive_the_manifest():
    curves = watched(100, 7).curves()
    tree = json.loads(json.dumps(curves.to_tree()))
    assert Curves.from_tree(tree) == curves
    assert all(len(line) < 400 for line in tree.values())


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        "1 2",
        {},
        {"steps": 3},
        dict.fromkeys(["steps", "loss", "zeros", "score_steps", "scores"], "x"),
        {"steps": "1 2", "loss": "1", "zeros": "0 0", "score_steps": "", "scores": ""},
        {"steps": "1", "loss": "nan", "zeros": "0", "score_steps": "", "scores": ""},
    ],
)
def test_what_is_no_history_is_none(tree):
    assert Curves.from_tree(tree) is None
    assert curves_of({"history": tree}) is None


def test_a_fit_keeps_its_curves_and_a_packed_task_leaves_them_behind(request_for, tmp_path):
    request = request_for(steps=18)
    heard = []
    result = fit_task(request, on_progress=heard.append)
    artifact = open_artifact(request.out)
    curves = curves_of(artifact.entry("sst2").training)
    assert curves.steps == tuple(range(1, 19))
    assert curves.score_steps == (6, 12, 18)
    assert curves.zeros[-1] == result.zeros
    assert curves.scores[-1] == pytest.approx(heard[-1].value, rel=1e-3)
    assert [news.value for news in heard][5:11] == [heard[5].value] * 6
    other = create_artifact(
        tmp_path / "other",
        artifact.backbone,
        source=artifact.manifest.source,
        scheme=artifact.manifest.scheme,
        files={name: artifact.file(name) for name in artifact.manifest.files},
    )
    packed = pack_task(artifact, "sst2")
    assert b"history" not in packed
    entry = unpack_task(other.path, packed).entry("sst2")
    assert curves_of(entry.training) is None
    assert entry.training["steps"] == 18


def test_remembering_changes_nothing_that_is_learned(request_for, monkeypatch):
    first = fit_task(request_for("a"))
    monkeypatch.setattr(History, "on_step_end", lambda *_: None)
    second = fit_task(request_for("b"))
    assert first.zeros == second.zeros
    assert first.scores == second.scores
    assert torch.is_grad_enabled()
