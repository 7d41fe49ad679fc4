from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor.masking.linear import MaskedLinear, count_zeros
from maskpack.compressor.training.progress import ProgressReporter, metric_of
from maskpack.compressor.training.train import TrainStep
from maskpack.formats import MaskCount
from maskpack.tasks.batches import EncodedTokens
from maskpack.tasks.types import TASK_TYPES


class Always(nn.Module):
    """Says class 1 to everything, and remembers in which mode it was asked."""

    def __init__(self):
        super().__init__()
        self.modes = []
        self.logits = nn.Parameter(torch.tensor([[0.0, 1.0]]))

    def forward(self, input_ids, attention_mask):
        self.modes.append(self.training)
        return SimpleNamespace(logits=self.logits.repeat(len(input_ids), 1))


@pytest.fixture
def room():
    """A newsroom round a model of one masked layer, three steps an epoch."""
    heard = []
    layer = MaskedLinear(nn.Linear(5, 4), start=0.5)
    model = Always().train()
    dev = EncodedTokens(tuple(np.array([[1], [2], [3], [4]])), None, np.array([1, 1, 1, 0]), pad=0)
    newsroom = ProgressReporter(
        heard.append,
        metric="accuracy",
        evaluate=metric_of(model, TASK_TYPES["classification"], dev, "accuracy"),
        count=partial(count_zeros, [layer]),
        per_epoch=3,
    )
    return SimpleNamespace(heard=heard, layer=layer, model=model, report=newsroom.report)


def test_the_metric_comes_at_the_end_of_every_epoch_and_stays_until_the_next(room):
    for step in range(1, 8):
        room.report(TrainStep(step, 7, 1.0))
    assert [news.value for news in room.heard] == [None, None, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert [(news.step, news.steps) for news in room.heard] == [(n, 7) for n in range(1, 8)]
    assert {news.metric for news in room.heard} == {"accuracy"}
    assert room.model.modes == [False, False]  # asked twice, without dropout
    assert room.model.training


def test_the_mask_is_counted_every_twenty_steps(room):
    for step in range(1, 41):
        with torch.no_grad():
            room.layer.score.view(-1)[: step // 4] = -1.0
        room.report(TrainStep(step, 40, 1.0))
    zeros = [news.count.zeros for news in room.heard]
    assert zeros == [0] * 19 + [5] * 20 + [10]
    assert {news.count.weights for news in room.heard} == {20}


def test_the_loss_is_smoothed_and_starts_at_the_first_one(room):
    for step, loss in enumerate((2.0, 1.0, 1.0), start=1):
        room.report(TrainStep(step, 3, loss))
    assert [news.loss for news in room.heard] == pytest.approx([2.0, 1.95, 1.9025])
    assert not math.isnan(room.heard[0].loss)


def test_without_a_mask_there_is_no_count():
    heard = []
    newsroom = ProgressReporter(
        heard.append, metric="accuracy", evaluate=lambda: 0.5, count=None, per_epoch=3
    )
    for step in range(1, 41):
        newsroom.report(TrainStep(step, 40, 1.0))
    assert [news.count for news in heard] == [None] * 40


def test_zeros_of_all_layers_are_counted_together():
    layers = [MaskedLinear(nn.Linear(3, 2), start=start) for start in (0.5, -0.5)]
    assert count_zeros(layers) == MaskCount(12, 6)
