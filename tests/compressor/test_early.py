from __future__ import annotations

import numpy as np
import pytest

from maskpack.compressor import fit, fit_task
from maskpack.compressor.training import progress
from maskpack.formats import ConfigError, open_artifact


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


def test_it_is_judged_by_the_held_out_rows_once_an_epoch_and_stops(request_for, monkeypatch):
    run = fit.prepare(request_for(patience=2, steps=60))
    analyzed = []

    def score(_kind, _logits, labels, metrics):
        if len(labels) == len(run.held_out):  # the others are for the run's history
            analyzed.append(labels)
        return dict.fromkeys(metrics, -float(len(analyzed)))  # ever worse: the first look is best

    monkeypatch.setattr(progress, "compute_metrics", score)
    told = []
    taken = fit.learn(run, on_progress=lambda news: told.append(news.step)).steps
    assert taken == told[-1] == 18  # three looks, six steps apart
    assert len(analyzed) == 3
    assert all(np.array_equal(labels, run.held_out.labels) for labels in analyzed)


def test_the_patch_is_that_of_the_best_look_and_the_result_counts_the_steps_taken(
    request_for, monkeypatch
):
    early, short = request_for("a", patience=1, steps=60), request_for("b", patience=9, steps=60)
    patches = []
    for request, verdicts in ((early, (0.5, 0.4)), (short, (0.5, *[0.4] * 9))):
        run, left = fit.prepare(request), iter(verdicts)
        real, held_out = progress.compute_metrics, len(run.held_out)

        def verdict(kind, logits, labels, metrics, left=left, real=real, held_out=held_out):
            if len(labels) == held_out:
                return {"accuracy": next(left)}
            return real(kind, logits, labels, metrics)  # the run's history, of the evaluation rows

        monkeypatch.setattr(progress, "compute_metrics", verdict)
        patches.append(fit.learn(run, on_progress=lambda _: None))
        monkeypatch.setattr(progress, "compute_metrics", real)
    assert [trained.steps for trained in patches] == [12, 60]
    first, second = (trained.patch for trained in patches)
    for name, value in first.head.items():
        assert np.array_equal(value, second.head[name])
    for name, mask in first.masks.items():
        assert np.array_equal(mask.packed, second.masks[name].packed)


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
