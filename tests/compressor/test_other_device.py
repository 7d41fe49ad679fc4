"""A step on a device that is not the processor: nothing of it is made on the processor, and nothing is read back.

No GPU is needed: torch's `meta` device computes shapes only. It cannot be read, and an operation that gets a tensor of it
and one of the processor is refused here.
"""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from test_together import rows_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskpack.compressor import BaselineConfig
from maskpack.compressor.config import FitConfig, Method
from maskpack.compressor.mask_config import ESTIMATORS, PATTERNS
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.model import build_masked_model
from maskpack.compressor.quantization.refine import RoundedLinear
from maskpack.compressor.trained_parts import trained_groups
from maskpack.compressor.training.callbacks import Noise, TrainerCallback, use_fast_dropout
from maskpack.compressor.training.checkpoint import _tensors
from maskpack.compressor.training.loss import DistillationTargets, HiddenStateTeacher, TaskLoss
from maskpack.compressor.training.step import StepOptions, StepRunner
from maskpack.compressor.training.train import Plan, State
from maskpack.models.build import shapes_of
from maskpack.models.load import load_classifier
from maskpack.models.placement import Placement
from maskpack.tasks.types import TASK_TYPES

FACTORIES = (
    "empty",
    "zeros",
    "ones",
    "full",
    "arange",
    "rand",
    "randn",
    "randint",
    "scalar_tensor",
)


class OnOneDevice(TorchDispatchMode):
    """Refuses tensors that are made on the processor, and operations on two devices.

    A tensor of one value, such as a scalar of the optimiser, may stay on the processor, as everywhere in torch.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense" and asked_by_transformers():
            return False  # it looks whether there is any padding, in the mask that it gets
        if name == "nonzero":  # a number that only a device with values knows
            return torch.empty(len(args[0]), 1, dtype=torch.int64, device="meta")
        made = func(*args, **kwargs)
        if name in FACTORIES and made.device.type == "cpu" and made.ndim:
            raise AssertionError(f"{func} makes a tensor on the processor")
        devices = {
            leaf.device.type
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.ndim
        }
        if len(devices) > 1 and name not in {"copy_", "_to_copy"}:
            raise AssertionError(f"{func} gets tensors of {sorted(devices)}")
        if name in {"copy_", "_to_copy"} and "meta" in devices and kwargs.get("device") == "cpu":
            raise AssertionError(f"{func} copies to the processor")
        return made


def asked_by_transformers() -> bool:
    """Whether the innermost code that is neither torch's nor this file's is transformers'."""
    for frame, _ in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if f"{os.sep}torch{os.sep}" not in file and file != __file__:
            return f"{os.sep}transformers{os.sep}" in file
    return False


@dataclass(frozen=True)
class Meta(Placement):
    """The device without values."""

    device: str = "meta"

    @contextmanager
    def training(self):
        yield


class Read(StepRunner):
    """A step whose loss is not read, because it has no value."""

    def _read(self, total, stopping):
        assert total.device.type == "meta"
        return 0.0, False


def optimizer_of(groups):
    return torch.optim.SGD([p for group in groups for p in group.parameters], lr=0.1)


def on_meta(model, callbacks, groups, task_loss, **options):
    """One step; the model is moved when all of it is built, as a placement does."""
    runner = Read(
        model.train(),
        optimizer_of(groups),
        rows_of(6),
        task_loss,
        Meta(),
        StepOptions(**options),
        callbacks,
    )
    with OnOneDevice():
        callbacks.on_step_begin(0)
        runner.take(np.arange(6))


@pytest.fixture
def classifier(tiny_model):
    return lambda: load_classifier(str(tiny_model), outputs=2).to("meta")


def loss_of(teacher=None):
    encoded = rows_of(6)
    targets = None
    if teacher is not None:
        logits = np.zeros((6, 2), dtype=np.float32)
        targets = DistillationTargets(logits, 0.5, 2.0, HiddenStateTeacher(teacher, 1.0))
    known = None if teacher is None else np.arange(6) % 2 == 0
    weights = np.ones(2, dtype=np.float32)
    return TaskLoss(TASK_TYPES["classification"], encoded.labels, targets, known, weights)


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("estimator", [name for name in ESTIMATORS if ESTIMATORS[name].learns])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_step_of_a_mask(estimator, pattern, taught, classifier, monkeypatch):
    monkeypatch.setattr(Noise, "uniform", lambda self, key, like: torch.rand_like(like))
    monkeypatch.setattr(MaskedLinear, "_working_weight", lambda self: self.weight)
    monkeypatch.setattr("maskpack.compressor.masking.model._set_scores", lambda *_, **__: None)
    entry = ESTIMATORS[estimator]
    if entry.chooses and pattern == "weight":
        pytest.skip("an estimator that chooses among masks of groups refuses it")
    ranked = {"sparsity": 0.3} if entry.needs_share else {}
    config = FitConfig(
        estimator=estimator, train_bias=True, train_norm=True, train_scales=True, **ranked
    )
    model, task_loss = classifier(), loss_of(classifier().eval() if taught else None)
    masked = build_masked_model(
        model,
        shapes_of(model.base_model),
        config,
        pattern=PATTERNS[pattern].learned_by(entry),
        plan=Plan(10, 6, 0.1, 0),
        rows=rows_of(6),
        task_loss=task_loss,
        sparsity=config.sparsity,
        byte_dropout=False,
    )
    on_meta(masked.model, masked.callbacks[0], masked.groups, task_loss, accumulate=2)


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.LORA])
def test_a_step_of_a_baseline(method, classifier):
    model, noise = classifier(), Noise(0)
    share = {"sparsity": 0.3} if method is Method.IMP else {}
    groups = trained_groups(model, BaselineConfig(method=method, **share))
    use_fast_dropout(model, noise, as_bytes=False)
    on_meta(model, noise, groups, loss_of())


def test_the_byte_dropout_of_a_cpu_moves_its_bytes_too(classifier):
    model, noise = classifier(), Noise(0)
    groups = trained_groups(model, BaselineConfig(method=Method.FULL))
    use_fast_dropout(model, noise, p=0.3)
    on_meta(model, noise, groups, loss_of())


def test_codes_that_are_refined_there_have_all_they_need_there():
    with torch.device("meta"):
        linear = torch.nn.Linear(24, 8)
    with OnOneDevice():
        layer = RoundedLinear(linear, bits=2, group=16)
        layer(torch.zeros(3, 24, device="meta")).sum().backward()
    assert layer.weight.grad.device.type == "meta"


def test_a_resumed_run_has_its_moments_there(classifier):
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = State(model, optimizer, TrainerCallback(), Placement("cpu").scaler())
    steps = {f"step/{name}" for name, _ in model.named_parameters()}
    found = dict(_tensors(state, create=steps))
    assert steps < found.keys()
    for name, tensor in found.items():
        assert tensor.device.type == "meta", name


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.zeros(3),
        lambda: torch.zeros(3, device="meta") + torch.arange(3, device="cpu"),
        lambda: torch.zeros(2, device="meta").cpu(),
    ],
)
def test_what_must_not_be_is_found(work):
    with pytest.raises((AssertionError, RuntimeError)), OnOneDevice():
        work()
