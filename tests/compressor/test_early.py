from __future__ import annotations

import numpy as np
import pytest

from maskpack.compressor import fit, fit_task
from maskpack.formats import ConfigError, open_artifact
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.single_label import SingleLabel


def rows_of(encoded) -> list[bytes]:
    return sorted(
        row.tobytes() + bytes([label])
        for row, label in zip(encoded.ids, encoded.labels, strict=True)
    )


def test_rows_that_judge_are_a_tenth_that_is_not_trained_on_the_same_for_every_seed(request_for):
    whole = fit.prepare(request_for())
    run, other = (fit.prepare(request_for(patience=2, seed=seed)) for seed in (0, 1))
    assert whole.held_out is None
    assert (len(run.train), len(run.held_out)) == (87, 9)
    assert sorted(rows_of(run.train) + rows_of(run.held_out)) == rows_of(whole.train)
    assert rows_of(run.held_out) == rows_of(other.held_out)
    places = {row.tobytes(): place for place, row in enumerate(whole.train.ids)}
    order = [places[row.tobytes()] for row in run.train.ids]
    assert [whole.train.labels[place] for place in order] == run.train.labels.tolist()


class RightOnce(SingleLabel):
    """Answers to the held-out rows are right at the first look and wrong ever after."""

    def __init__(self, held_out):
        self.held_out, self.looks = held_out, 0

    def answers(self, logits):
        if len(logits) != len(self.held_out):  # the evaluation rows, for the run's history
            return super().answers(logits)
        self.looks += 1
        return self.held_out if self.looks == 1 else 1 - self.held_out


@pytest.fixture
def learned(monkeypatch):
    """`learned(run)`: what a run learns that is judged so, its looks and the steps it told."""

    def learn(run):
        judge, told = RightOnce(run.held_out.labels), []
        monkeypatch.setitem(TASK_TYPES, "classification", judge)
        found = fit.learn(run, on_progress=lambda news: told.append(news.step))
        return found, judge.looks, told

    return learn


def test_it_is_judged_by_the_held_out_rows_once_an_epoch_and_stops(request_for, learned):
    found, looks, told = learned(fit.prepare(request_for(patience=2, steps=60)))
    assert found.steps == told[-1] == 18  # three looks, six steps apart
    assert looks == 3


def test_the_patch_is_that_of_the_best_look_and_the_result_counts_the_steps_taken(
    request_for, learned
):
    early, late = (
        learned(fit.prepare(request_for(f"p{patience}", patience=patience, steps=60)))[0]
        for patience in (1, 9)
    )
    assert (early.steps, late.steps) == (12, 60)
    for name, value in early.patch.head.items():
        assert np.array_equal(value, late.patch.head[name])
    for name, mask in early.patch.masks.items():
        assert np.array_equal(mask.packed, late.patch.masks[name].packed)


def test_the_figures_of_a_run_that_ended_early_are_those_of_what_was_done(request_for):
    request = request_for(patience=1, steps=600)
    result = fit_task(request)
    assert result.steps < 600
    assert result.steps % 6 == 0
    assert result.train_rows == 87
    assert open_artifact(request.out).entry("sst2").scores == result.scores


def test_one_row_cannot_be_split(request_for):
    with pytest.raises(ConfigError, match="`patience` wants 2 training rows"):
        fit.prepare(request_for(patience=1, train_rows=1))
