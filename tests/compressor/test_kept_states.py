"""A teacher's states on the disk: the same as computed, but for float16; and when they are not kept."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from maskpack.compressor.estimate import Cost, rehearse
from maskpack.compressor.fit import learn, prepare
from maskpack.compressor.training import kept_states
from maskpack.compressor.training.kept_states import (
    Keeping,
    KeptStates,
    answers_and_states,
    kept_bytes,
    states_bytes,
)
from maskpack.compressor.training.loss import HiddenStateTeacher
from maskpack.models.load import load_classifier
from maskpack.models.placement import CpuPlacement, to_tensors
from maskpack.models.processes import Processes
from maskpack.tasks.batches import EncodedTokens, predict_all, torch_predict

FP32 = CpuPlacement.of("cpu", "fp32")


@pytest.fixture
def teacher(tiny_model):
    torch.manual_seed(0)
    return HiddenStateTeacher(load_classifier(str(tiny_model), outputs=2).eval(), 3.0)


@pytest.fixture
def rows():
    """More rows than a batch of evaluation has, of all lengths."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(3, 40, 2 + number % 7).tolist() for number in range(75)]
    return EncodedTokens(ids, [[0] * len(each) for each in ids], np.arange(75) % 2, pad=0)


@pytest.mark.parametrize("pad_left", [False, True])
def test_kept_states_and_logits_are_those_that_the_teacher_computes(
    teacher, rows, tmp_path, pad_left
):
    logits, kept = answers_and_states(teacher, rows, folder=tmp_path)
    assert isinstance(kept, KeptStates)
    assert kept.weight == teacher.weight
    assert np.array_equal(logits, predict_all(torch_predict(teacher.model), rows))
    some = np.array([70, 3, 11, 0])
    feeds = to_tensors(replace(rows, pad_left=pad_left).feeds(some), teacher.model)
    alone = to_tensors(rows.feeds(some), teacher.model)
    for found, wanted in zip(kept.states(feeds, some), teacher.states(alone), strict=True):
        assert found.dtype == torch.float32
        assert torch.allclose(found, wanted, rtol=2**-10, atol=1e-5)
        assert torch.equal(found, found.half().float())


def test_the_file_has_the_size_that_was_told_and_leaves_nothing(teacher, rows, tmp_path):
    _, kept = answers_and_states(teacher, rows, folder=tmp_path)
    assert states_bytes(kept) == kept_bytes(rows, teacher.model.config)
    assert states_bytes(teacher) == states_bytes(None) == 0
    kept.file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_has_not_the_room_is_said_and_the_teacher_runs_on(
    teacher, rows, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    logits, states = answers_and_states(teacher, rows, folder=tmp_path)
    assert states is teacher
    assert np.array_equal(logits, predict_all(torch_predict(teacher.model), rows))
    assert "are not kept (they take" in caplog.text


def test_a_disk_that_fills_is_said_and_the_teacher_runs_on(
    teacher, rows, tmp_path, monkeypatch, caplog
):
    written = []

    def full(self, some, _):
        written.append(some)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(KeptStates, "write", full)
    logits, states = answers_and_states(teacher, rows, folder=tmp_path)
    assert states is teacher
    assert len(written) == 2, "nothing is written after the error"
    assert np.array_equal(logits, predict_all(torch_predict(teacher.model), rows))
    assert "No space left on device" in caplog.text


def test_states_too_large_for_float16_are_not_kept(teacher, rows, tmp_path, caplog):
    with torch.no_grad():
        for layer in teacher.model.bert.encoder.layer:
            layer.output.LayerNorm.weight.fill_(1e5)
    _, states = answers_and_states(teacher, rows, folder=tmp_path)
    assert states is teacher
    assert "too large for float16" in caplog.text


def test_states_are_kept_where_that_pays(teacher, rows, tmp_path, monkeypatch):
    config = teacher.model.config
    usual = Keeping(tmp_path, visits=300)
    assert usual.pays(rows, config, FP32)
    assert not Keeping(tmp_path, visits=7).pays(rows, config, FP32), "a tenth of the rows is seen"
    two = replace(FP32, processes=Processes(0, 2))
    assert not usual.pays(rows, config, two), "the other process may be on another machine"
    assert not usual.pays(rows, config, replace(FP32, device="cuda")), "a GPU is quicker"
    monkeypatch.setattr(kept_states, "_LARGEST", kept_bytes(rows, config) - 1)
    assert not usual.pays(rows, config, FP32), "too large"


def test_a_run_keeps_states_unless_told_not_to(request_for, tiny_model, tmp_path, caplog):
    load_classifier(str(tiny_model), outputs=2).save_pretrained(tmp_path / "t")
    losses = {}
    for keep in (True, False):
        request = request_for(f"a{keep}", teacher=str(tmp_path / "t"), keep_states=keep)
        caplog.clear()
        with caplog.at_level(logging.DEBUG, kept_states.__name__):
            trained = learn(prepare(request), on_progress=lambda _: None)
        assert ("are kept on the disk" in caplog.text) == keep
        losses[keep] = trained.curves.loss
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)


def test_a_rehearsal_tells_their_size(request_for, tiny_model, tmp_path):
    load_classifier(str(tiny_model), outputs=2).save_pretrained(tmp_path / "t")
    request = request_for("a", teacher=str(tmp_path / "t"))
    run, estimate = rehearse(request, began=Cost.so_far())
    assert estimate.states_bytes == kept_bytes(
        run.train, load_classifier(str(tiny_model), outputs=2).config
    )
    none = replace(request, config=replace(request.config, keep_states=False))
    assert rehearse(none, began=Cost.so_far())[1].states_bytes == 0
