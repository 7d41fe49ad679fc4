from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from maskpack.compressor import BaselineConfig, BaselineRequest, fit_task, run_baseline
from maskpack.formats import ArtifactError, Interrupted
from maskpack.tasks import find_task

QUICKLY = {"checkpoint_every": 7, "dropout": 0.1}
RUNS = {  # of each estimator alone: `test_every_estimator.py`
    "in bfloat16": {"margin": 0.5, "precision": "bf16"},
    "a price on flips": {"margin": 0.2, "target_bpp": 0.02},
    "a price and an average": {"margin": 0.2, "target_bpp": 0.02, "ema": 0.9},
    "patience": {"margin": 0.5, "patience": 8},
    "all that can be trained": {"train_bias": True, "train_norm": True, "train_scales": True},
    "a share of all": {"sparsity": 0.2},
    "a share of each": {"estimator": "topk", "sparsity": 0.2, "ema": 0.9},
    "drawn, averaged": {"estimator": "bernoulli", "sparsity": 0.3, "ema": 0.9},
    "fixed": {"estimator": "fixed", "init": "snip", "sparsity": 0.2},
    "a twin": {"teacher": "twin"},
    "two of four": {"pattern": "2:4", "sparsity": 0.5, "margin": 0.5},
}
KEPT = {
    "a price on flips": ["1/price"],
    "a price and an average": ["1/0", "2/price"],
    "patience": ["2/record", "2/0"],
    "a share of each": ["1/0"],
    "drawn, averaged": ["1/0"],
}


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_goes_on_ends_with_the_bytes_of_one_that_was_never_stopped(
    kind, request_for, stop_at, snapshot
):
    whole, broken = (request_for(out, steps=48, **QUICKLY, **RUNS[kind]) for out in ("w", "b"))
    fit_task(whole)
    with pytest.raises(Interrupted, match="the checkpoint is kept"):
        fit_task(broken, on_progress=stop_at(40))
    learning = "teacher" if kind == "a twin" else "."  # its 40th step comes first
    state = load_file(broken.checkpoint_folder / learning / "state.safetensors")
    for name in KEPT.get(kind, []):
        assert f"companion/{name}" in state
    if "a price" in kind:
        assert max(float(state[name]) for name in state if name.endswith("price")) > 0
    torch.manual_seed(77)  # what happened in between must not matter
    told = []
    fit_task(replace(broken, resume=True), on_progress=lambda news: told.append(news.step))
    assert told[0] > 30
    assert told[-1] == 48
    assert snapshot(broken.out) == snapshot(whole.out)
    assert not broken.checkpoint_folder.exists()


def test_what_callbacks_kept_matters(request_for, stop_at, snapshot):
    """The test above can fail: without the price the end is another."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    options = {**QUICKLY, **RUNS["a price on flips"], "steps": 48}
    whole, broken = request_for("w", **options), request_for("b", **options)
    fit_task(whole)
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(40))
    file = broken.checkpoint_folder / "state.safetensors"
    with safe_open(file, framework="pt") as kept:
        meta = kept.metadata()
    state = load_file(file)
    state["companion/1/price"].fill_(2.0)
    save_file(state, file, metadata=meta)
    fit_task(replace(broken, resume=True))
    assert snapshot(broken.out) != snapshot(whole.out)


def test_a_run_does_not_go_on_with_another_teacher(
    tiny_model, sentiment, request_for, stop_at, tmp_path
):
    def teach(seed):
        config = BaselineConfig(steps=6, batch_size=16, max_length=16, seed=seed)
        place = tmp_path / "teacher"
        shutil.rmtree(place, ignore_errors=True)
        run_baseline(
            BaselineRequest(str(tiny_model), find_task("sst2"), config, place, data=sentiment)
        )
        return str(place)

    broken = request_for("b", steps=20, teacher=teach(0), **QUICKLY)
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(12))
    teach(1)
    with pytest.raises(ArtifactError, match="belongs to a run with other options or data"):
        fit_task(replace(broken, resume=True))
    teach(0)
    fit_task(replace(broken, resume=True))


def test_a_run_does_not_go_on_from_another_mask(request_for, stop_at):
    first = request_for("a", name="first", margin=0.3, steps=8)
    fit_task(first)
    broken = replace(request_for("a", name="b", steps=20, **QUICKLY), start=(first.out, "first"))
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(12))
    fit_task(replace(request_for("a", name="first", margin=0.2, steps=8), replace=True))
    with pytest.raises(ArtifactError, match="belongs to a run with other options or data"):
        fit_task(replace(broken, resume=True))
