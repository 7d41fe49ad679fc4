from __future__ import annotations

import numpy as np
import pytest
import torch

from maskpack.tasks.batches import EncodedTokens, predict_all, torch_predict
from maskpack.tasks.evaluation.metrics import compute_metrics, majority
from maskpack.tasks.types import TASK_TYPES

CLASSES, NUMBERS = TASK_TYPES["classification"], TASK_TYPES["regression"]


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_logits_come_back_in_the_order_of_the_split(batch_size):
    rng = np.random.default_rng(0)
    ids = tuple(np.full(rng.integers(1, 9), row, dtype=np.int64) for row in range(1, 24))
    encoded = EncodedTokens(ids, None, np.zeros(len(ids), dtype=np.int64), pad=0)
    widths = []

    def predict(feeds):
        widths.append(feeds["input_ids"].shape[1])
        first = feeds["input_ids"][:, 0].astype(np.float32)
        return np.stack([first, feeds["attention_mask"].sum(axis=1)], axis=1)

    logits = predict_all(predict, encoded, batch_size=batch_size)
    assert logits[:, 0].tolist() == list(range(1, 24))
    assert logits[:, 1].tolist() == encoded.lengths.tolist()
    assert widths == sorted(widths)
    assert len(widths) == -(-23 // batch_size)


def test_classes_are_scored_by_their_largest_logit():
    logits = np.array([[0.1, 0.9], [2.0, -1.0], [0.4, 0.5], [0.2, 0.1]], dtype=np.float32)
    labels = np.array([1, 0, 0, 0])
    scores = compute_metrics(CLASSES, logits, labels, ["accuracy", "f1"])
    assert scores == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}


def test_one_column_of_logits_is_scored_as_numbers():
    logits = np.array([[0.5], [1.5], [9.0]], dtype=np.float32)
    labels = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    spearman = compute_metrics(NUMBERS, logits, labels, ["spearman"])
    assert spearman == {"spearman": pytest.approx(1.0)}
    assert compute_metrics(NUMBERS, logits, labels, ["pearson"])["pearson"] < 0.99


def test_the_majority_always_answers_the_commonest_class():
    labels = np.array([2, 0, 2, 1, 2])
    floor = majority(CLASSES, labels, ["accuracy", "matthews"])
    assert floor == {"accuracy": 0.6, "matthews": 0.0}


def test_the_majority_of_numbers_is_their_mean_and_correlates_with_nothing():
    labels = np.array([1.0, 2.0, 4.5], dtype=np.float32)
    floor = majority(NUMBERS, labels, ["spearman", "pearson"])
    assert floor == {"spearman": 0.0, "pearson": 0.0}


def test_a_torch_predictor_switches_dropout_off_and_keeps_no_graph():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, input_ids, attention_mask):
            logits = self.dropout(input_ids.double() * self.scale * attention_mask)
            return type("Output", (), {"logits": logits})

    model = Model().train()
    ids = np.arange(64, dtype=np.int64).reshape(8, 8)
    logits = torch_predict(model)({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert logits.dtype == np.float32
    assert logits.tolist() == ids.tolist()
    assert not model.training
