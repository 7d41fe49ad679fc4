"""Two masks that teach each other in one run, and a run that learns from its own last snapshot."""

from __future__ import annotations

import logging
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor import BaselineConfig, FitConfig, FitRequest, fit_task
from maskpack.compressor.estimate import Cost, rehearse
from maskpack.compressor.fit import loss_of, masked_model_of, prepare
from maskpack.compressor.mask_teachers import PeerPair
from maskpack.compressor.training.live_teachers import PeerLoss, SnapshotTargets, snapshot_targets
from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.formats import ConfigError, Interrupted, check_artifact, open_artifact
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.types import TASK_TYPES

CLASSES = TASK_TYPES["classification"]
PEER = {"teacher": "peer", "margin": 0.5, "steps": 40, "snapshots": True}
CYCLES = {"teacher": "snapshot", "margin": 0.5, "steps": 45, "schedule": "restarts", "cycles": 3}


@pytest.fixture
def asked(tiny_model, sentiment, quick, tmp_path):
    """A function: a request for an artifact of a name."""

    def make(name, task="sst2", **options):
        config = quick(**{"checkpoint_every": 10, "dropout": 0.1, **options})
        out = tmp_path / name
        return FitRequest(str(tiny_model), find_task(task), out, config, data=sentiment)

    return make


def broken(request, step):
    """Stop a run after a step, and let it go on."""

    def press(news):
        if news.step == step and news.stage == "task":
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_task(request, on_progress=press)
    torch.manual_seed(77)
    return fit_task(replace(request, resume=True))


def masks_of(out, name="sst2"):
    return open_artifact(out).patch(name).masks


def differ(left, right):
    return sum(int((left[n].packed != right[n].packed).sum()) for n in left)


def softly(logits, temperature):
    return torch.log_softmax(logits / temperature, dim=1)


def test_each_peer_has_the_loss_of_the_paper():
    """Equation 7, with the weights of distillation; gradients reach the own logits alone."""
    torch.manual_seed(0)
    labels, rows = np.array([0, 1, 2, 1, 0]), np.array([4, 1, 3])
    loss = PeerLoss.of(TaskLoss(CLASSES, labels), share=0.25, temperature=3.0)
    logits = torch.randn(2, 3, 3, requires_grad=True)
    total = loss(logits, rows)
    wanted, right = 0.0, torch.from_numpy(labels[rows])
    for own, other in ((logits[0], logits[1].detach()), (logits[1], logits[0].detach())):
        apart = softly(other, 3.0).exp() * (softly(other, 3.0) - softly(own, 3.0))
        wanted = wanted + 0.75 * nn.functional.cross_entropy(own, right)
        wanted = wanted + 0.25 * 9.0 * apart.sum(dim=1).mean()
    assert float(total.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    (gradient,) = torch.autograd.grad(total, logits)
    (expected,) = torch.autograd.grad(wanted, logits)
    assert torch.allclose(gradient, expected, atol=1e-6)


def test_peers_differ_and_share_their_frozen_weights(asked):
    run = prepare(asked("a", **PEER))
    pair = PeerPair.of(run, loss_of(run, None), masked_model_of)
    first, second = pair.each
    for name, layer in first.layers.items():
        assert layer.weight is second.layers[name].weight
        assert layer.score is not second.layers[name].score
        assert layer.threshold is not second.layers[name].threshold
    trained = {id(p) for group in pair.together.groups for p in group.parameters}
    each = [{id(p) for group in one.groups for p in group.parameters} for one in pair.each]
    assert trained == each[0] | each[1]
    assert not each[0] & each[1]
    heads = [one.groups[-1].parameters[0] for one in pair.each]
    assert not torch.equal(*heads)
    frozen = {id(p) for p in pair.together.model.parameters()} - trained
    assert frozen == {id(p) for p in first.model.parameters()} - each[0]


def test_both_peers_are_tasks_and_the_better_one_has_the_name(asked, sentiment, caplog):
    caplog.set_level(logging.INFO)
    request = asked("a", **PEER)
    result = fit_task(request)
    check_artifact(request.out)
    artifact = open_artifact(request.out)
    assert set(artifact.manifest.tasks) == {"sst2", "sst2-peer"}
    assert [(one.task, one.step) for one in result.snapshots] == [("sst2-peer", 40)]
    assert differ(masks_of(request.out), masks_of(request.out, "sst2-peer")) > 0
    for name in ("sst2", "sst2-peer"):
        scores = assess(artifact, name, data=sentiment).scores
        assert scores["accuracy"] == artifact.entry(name).scores["accuracy"]
    assert artifact.entry("sst2").training["teacher"] == "peer"
    assert "on 9 held-out training rows: the task is the " in caplog.text
    curve = artifact.entry("sst2").training["history"]["loss"].split()
    assert float(curve[-1]) < float(curve[0])
    zeros = {}
    for name in ("sst2", "sst2-peer"):
        entry = artifact.entry(name)
        zeros[name] = entry.training["history"]["zeros"].split()
        assert abs(int(zeros[name][-1]) - entry.zeros) <= 1, "each has its own curves"
    assert zeros["sst2"] != zeros["sst2-peer"]


def test_the_worse_peer_leaves_no_task_unless_it_is_asked_for(asked):
    kept, alone = asked("a", **PEER), asked("b", **{**PEER, "snapshots": False})
    fit_task(kept)
    fit_task(alone)
    assert set(open_artifact(alone.out).manifest.tasks) == {"sst2"}
    assert differ(masks_of(kept.out), masks_of(alone.out)) == 0


def test_a_peer_changes_what_is_learned(asked):
    """The first peer has the seed of a run alone: the difference is what the other one says."""
    found = {}
    for share in (1e-6, 0.9):
        request = asked(f"s{share}", **{**PEER, "teacher_share": share})
        fit_task(request)
        found[share] = masks_of(request.out)
    assert differ(found[1e-6], found[0.9]) > 0


@pytest.mark.parametrize("step", [10, 23])
@pytest.mark.parametrize("options", [PEER, CYCLES], ids=["peer", "snapshot"])
def test_a_stopped_run_ends_with_the_same_bytes(asked, snapshot, options, step):
    whole, stopped = asked("w", **options), asked("b", **options)
    fit_task(whole)
    broken(stopped, step)
    assert snapshot(stopped.out) == snapshot(whole.out)


def test_what_a_snapshot_said_is_kept_by_checkpoints(asked, snapshot):
    """The test above can fail: without the table a run that goes on ends elsewhere."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    whole, stopped = asked("w", **CYCLES), asked("b", **CYCLES)
    fit_task(whole)

    def press(news):
        if news.step == 23:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        fit_task(stopped, on_progress=press)
    file = stopped.checkpoint_folder / "state.safetensors"
    with safe_open(file, framework="pt") as kept:
        meta = kept.metadata()
    state = load_file(file)
    (known,) = [name for name in state if name.endswith("/known")]
    (table,) = [name for name in state if name.endswith("/logits")]
    assert float(state[known]) == 1.0
    assert state[table].abs().sum() > 0
    state[table].neg_()
    save_file(state, file, metadata=meta)
    fit_task(replace(stopped, resume=True))
    assert snapshot(stopped.out) != snapshot(whole.out)


def test_the_first_cycle_learns_from_the_labels_alone(asked):
    """Until its end the run is that without a teacher; then what it said before changes it."""
    taught = asked("a", **CYCLES, snapshots=True)
    alone = asked("b", **{**CYCLES, "teacher": "none"}, snapshots=True)
    fit_task(taught)
    fit_task(alone)
    names = ("sst2-1", "sst2-2", "sst2")
    apart = [differ(masks_of(taught.out, name), masks_of(alone.out, name)) for name in names]
    assert apart[0] == 0
    assert min(apart[1:]) > 0


def test_a_snapshot_teaches_what_the_model_answered(asked):
    run = prepare(asked("a", **CYCLES))
    masked = masked_model_of(run, loss_of(run, None))
    targets = snapshot_targets(masked.model, run.train, share=0.5, temperature=2.0)
    assert isinstance(targets, SnapshotTargets)
    assert targets.logits.shape == (len(run.train), 2)
    rows, logits = np.array([3, 1]), torch.randn(2, 2)
    alone, taught = loss_of(run, None), loss_of(run, targets)
    assert torch.equal(alone(logits, rows), taught(logits, rows))
    targets.logits[:] = np.random.default_rng(0).normal(size=targets.logits.shape)
    targets.known.fill_(1.0)
    like = loss_of(run, DistillationTargets(targets.logits, 0.5, 2.0))
    assert float(taught(logits, rows)) == float(like(logits, rows)) != float(alone(logits, rows))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"teacher": "peer", "patience": 2}, "`patience` does not go with the teacher `peer`"),
        ({"teacher": "peer", "continual": "0.1,0.2"}, "`continual` does not go with the teacher"),
        (
            {"teacher": "peer", "units": "heads", "keep_units": 0.5},
            "`units` does not go with the teacher `peer`: each of two masks would remove others",
        ),
        ({"teacher": "peer", "gradient_checkpointing": True}, "a setting of one model"),
        ({"teacher": "peer", "trunk": "auto"}, "`trunk` auto does not go with"),
        ({"teacher": "peer", "teacher_states": 1.0}, "gives logits, and no hidden states"),
        (
            {"teacher": "peer", "snapshots": True, "schedule": "restarts", "cycles": 2},
            "`snapshots` keeps the other mask",
        ),
        ({"teacher": "snapshot"}, "teaches from the second cycle on, and there is one"),
        ({**CYCLES, "teacher_states": 1.0}, "the teacher `snapshot` gives logits"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        FitConfig(**options)


@pytest.mark.parametrize("teacher", ["peer", "snapshot"])
def test_a_baseline_has_no_mask_to_learn_from(teacher):
    with pytest.raises(ConfigError, match=f"the teacher `{teacher}` is a mask of the run"):
        BaselineConfig(teacher=teacher)


@pytest.mark.parametrize("options", [PEER, CYCLES], ids=["peer", "snapshot"])
def test_rows_without_labels_are_refused(asked, tmp_path, options):
    texts = tmp_path / "texts.txt"
    texts.write_text("a good film\na bad film\n")
    with pytest.raises(ConfigError, match="2 rows without labels need a teacher that knows"):
        fit_task(replace(asked("a", **options), texts=texts))


@pytest.mark.parametrize("options", [PEER, CYCLES], ids=["peer", "snapshot"])
def test_a_rehearsal_measures_both(asked, options):
    alone = {**options, "teacher": "none", "snapshots": False}
    run, estimate = rehearse(asked("a", **options), began=Cost.so_far())
    _, other = rehearse(asked("b", **alone), began=Cost.so_far())
    assert estimate.step_seconds > 0
    assert run.teacher.name == options["teacher"]
    twice = 2 if options is PEER else 1
    assert estimate.disk_bytes == twice * other.disk_bytes
    assert (estimate.teacher_seconds > 0) is (options is CYCLES)
