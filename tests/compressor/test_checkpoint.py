from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.compressor.training.checkpoint import FolderCheckpoints
from maskpack.compressor.training.train import FlooredAdam, State
from maskpack.formats import ArtifactError
from maskpack.models.placement import Placement


class Purse(TrainerCallback):
    """A companion that has something to lose."""

    def __init__(self, value: float):
        self.kept = torch.tensor([value])

    def state(self):
        return {"purse": self.kept}


def make(seed: int = 0, precision: str = "fp32") -> State:
    """A small model, masked layer and head, with its optimiser and a companion."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        MaskedLinear(nn.Linear(4, 4), start=0.5), nn.Dropout(0.3), nn.Linear(4, 2)
    )
    optimizer = FlooredAdam(
        [
            {"params": [model[0].score], "lr": 0.01, "floor": 1.0},
            {"params": list(model[2].parameters()), "lr": 0.01},
        ]
    )
    scaler = Placement("cpu", precision).scaler()
    return State(model, optimizer, Purse(float(seed)), scaler)


def take(run: State, steps: int) -> list[float]:
    """Steps on random inputs; every loss depends on the whole state."""
    losses = []
    for _ in range(steps):
        loss = run.model(torch.randn(8, 4)).square().mean()
        loss.backward()
        run.optimizer.step()
        run.optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def keep(folder, *, every=1, key="key", resume=True) -> FolderCheckpoints:
    return FolderCheckpoints(folder / "state", every, key, resume)


@pytest.fixture
def saved(tmp_path):
    """Checkpoints with the state after three steps."""
    run = make()
    take(run, 3)
    run.model[0].threshold.fill_(0.49)
    run.callbacks.kept.fill_(7.0)
    keep(tmp_path).save(run, 3)
    return SimpleNamespace(folder=tmp_path, run=run)


def test_how_gradients_of_float16_are_scaled_is_kept(tmp_path):
    run, other = make(precision="fp16"), make(precision="fp16")
    first = run.scaler.scale(torch.ones(()))
    for gradient in (float("inf"), 1.0, 1.0):  # the scale is halved once, and two steps count
        run.model[2].weight.grad = torch.full_like(run.model[2].weight, gradient)
        run.scaler.step(run.optimizer)
        run.scaler.update()
    keep(tmp_path).save(run, 3)
    assert keep(tmp_path).load(other) == 3
    assert other.scaler.state_dict() == run.scaler.state_dict()
    assert other.scaler.scale(torch.ones(())) == first / 2
    assert other.scaler.state_dict()["_growth_tracker"] == 2


def test_a_loaded_state_goes_on_as_if_nothing_had_happened(saved):
    torch.manual_seed(4)  # the loop's noise follows from the step, so that no random state is kept
    expected = take(saved.run, 4)
    other = make(seed=9)
    other.model[0].weight.copy_(saved.run.model[0].weight)  # frozen: from the backbone
    other.model[0].bias.detach().copy_(saved.run.model[0].bias)
    assert keep(saved.folder).load(other) == 3
    torch.manual_seed(4)
    assert take(other, 4) == expected
    assert torch.equal(saved.run.model[2].weight, other.model[2].weight)


def test_moments_thresholds_floors_and_what_callbacks_keep_are_part_of_the_state(saved):
    other = make(seed=9)
    purse = other.callbacks.kept
    keep(saved.folder).load(other)
    assert float(other.model[0].threshold) == pytest.approx(0.49)
    assert purse.tolist() == [7.0]  # in place: whoever holds it sees it
    ours = [group["eps"] for group in saved.run.optimizer.param_groups]
    assert [group["eps"] for group in other.optimizer.param_groups] == ours
    assert ours[0] > ours[1] == 1e-12
    for name in ("step", "exp_avg", "exp_avg_sq"):
        state = saved.run.optimizer.state[saved.run.model[0].score][name]
        assert torch.equal(state, other.optimizer.state[other.model[0].score][name])


def test_frozen_weights_are_not_part_of_the_state(saved):
    names = set(load_file(keep(saved.folder).file))
    expected = {"parameter/0.score", "parameter/2.weight", "threshold/0.threshold"}
    assert expected | {"companion/purse"} <= names
    assert not [name for name in names if name.endswith("/0.weight")]


@pytest.mark.parametrize(
    ("every", "steps"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (9, [])]
)
def test_a_state_is_kept_every_so_many_steps(every, steps, tmp_path):
    run, checkpoints = make(), keep(tmp_path, every=every)
    kept = []
    for step in range(1, 7):
        checkpoints.save(run, step)
        if checkpoints.found():
            kept.append(step)
            checkpoints.clear()
    assert kept == steps


@pytest.mark.parametrize(("every", "kept"), [(5, True), (0, False)])
def test_a_state_wanted_now_is_kept_unless_none_is_wanted_at_all(every, kept, tmp_path):
    run, checkpoints = make(), keep(tmp_path, every=every)
    take(run, 3)
    checkpoints.save(run, 3, now=True)
    assert checkpoints.found() is kept
    assert checkpoints.load(run) == (3 if kept else 0)


def test_the_newest_state_replaces_the_older_one(saved):
    take(saved.run, 1)
    keep(saved.folder).save(saved.run, 4)
    other = make()
    assert keep(saved.folder).load(other) == 4
    assert [path.name for path in (saved.folder / "state").iterdir()] == ["state.safetensors"]


def test_without_resume_a_state_that_is_there_is_not_used(saved):
    other = make(seed=9)
    before = other.model[0].score.clone()
    assert keep(saved.folder, resume=False).load(other) == 0
    assert torch.equal(other.model[0].score, before)
    assert not other.optimizer.state


def test_with_nothing_to_resume_a_run_starts_at_the_beginning(tmp_path):
    run, checkpoints = make(), keep(tmp_path)
    assert not checkpoints.found()
    assert checkpoints.load(run) == 0
    checkpoints.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_a_run_with_other_options_is_refused(saved):
    other = make()
    with pytest.raises(ArtifactError, match="belongs to a run with other options") as caught:
        keep(saved.folder, key="another").load(other)
    assert "resume" in caught.value.hint
    assert keep(saved.folder).found()  # refused, not removed


def rewrite(file, change) -> None:
    """Save a state again with its tensors or metadata changed."""
    tensors = load_file(file)
    with safe_open(file, framework="pt") as state:
        meta = dict(state.metadata())
    change(tensors, meta)
    save_file(tensors, file, metadata=meta)


DAMAGE = {
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "empty": lambda file: file.write_bytes(b""),
    "no safetensors": lambda file: file.write_bytes(b"hello, this is a text" * 9),
    "no metadata": lambda file: rewrite(file, lambda _, meta: meta.pop("maskpack")),
    "metadata no JSON": lambda file: rewrite(file, lambda _, meta: meta.update(maskpack="{")),
    "no key": lambda file: rewrite(file, lambda _, meta: meta.update(maskpack='{"step": 3}')),
    "no scores": lambda file: rewrite(file, lambda tensors, _: tensors.pop("parameter/0.score")),
    "no companion": lambda file: rewrite(file, lambda tensors, _: tensors.pop("companion/purse")),
    "floors missing": lambda file: rewrite(
        file,
        lambda _, meta: meta.update(maskpack=json.dumps({"step": 3, "key": "key", "eps": []})),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused_with_a_way_on(saved, damage):
    checkpoints = keep(saved.folder)
    DAMAGE[damage](checkpoints.file)
    other = make()
    with pytest.raises(ArtifactError, match="the checkpoint .* is damaged") as caught:
        checkpoints.load(other)
    assert caught.value.hint == "start over without `resume`"


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path):
    (tmp_path / "state").write_text("a file stands in the way")
    run = make()
    with pytest.raises(ArtifactError, match="cannot make"):
        keep(tmp_path).save(run, 1)


def test_clearing_removes_the_folder(saved):
    keep(saved.folder).clear()
    assert list(saved.folder.iterdir()) == []
