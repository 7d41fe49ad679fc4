"""The range test: rates rise by equal factors, the loss is smoothed, and the suggestion is far enough from divergence."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    find_learning_rate,
    lr_find,
)
from maskpack.compressor.lr_find import RateCurve, _DivergedError, _Record, with_rate
from maskpack.compressor.training.progress import Progress
from maskpack.formats import ConfigError, open_artifact
from maskpack.tasks import find_task

OPTIONS = {"batch_size": 16, "max_length": 16, "precision": "fp32"}


@pytest.fixture(scope="module")
def asked(tiny_model, sentiment):
    """A function: a baseline of a method."""

    def make(method, **options):
        config = BaselineConfig(method=method, **{**OPTIONS, **options})
        return BaselineRequest(str(tiny_model), find_task("sst2"), config, data=sentiment)

    return make


def test_a_dense_run_finds_a_rate_below_that_of_divergence(asked):
    heard = []
    curve = find_learning_rate(asked("full"), on_progress=heard.append)
    assert curve.option == "lr"
    factors = np.diff(np.log(curve.rates))
    assert curve.rates[0] == pytest.approx(1e-6)
    assert np.allclose(factors, factors[0])
    assert curve.diverged == (len(curve.rates) < 100)
    assert len(heard) == len(curve.rates)
    assert 1e-5 < curve.suggestion < 3e-2
    assert curve.suggestion < curve.lowest
    assert curve.steepest <= curve.lowest * 1.05
    first, least = curve.losses[0], min(curve.losses[5:])
    assert least < first - 0.01


def test_rounds_of_pruning_have_the_rate_of_their_first(asked):
    rounds = asked("imp", sparsity=0.3, rewind=90)
    found, dense = (find_learning_rate(one, steps=40) for one in (rounds, asked("full")))
    assert (found.rates, found.losses) == (dense.rates, dense.losses)


def test_only_the_head_has_the_heads_option(asked):
    curve = find_learning_rate(asked("head", head_lr=1e-3), steps=40)
    assert (curve.option, curve.ratio) == ("head_lr", 1.0)
    config = with_rate(BaselineConfig(method="head"), curve)
    assert config.head_lr == curve.suggestion
    assert config.lr is None


def test_the_ratio_of_the_rates_stays(asked):
    curve = find_learning_rate(asked("full", lr=1e-3, head_lr=5e-3), steps=40)
    assert curve.ratio == pytest.approx(5.0)
    config = with_rate(BaselineConfig(method="full"), curve)
    assert config.head_lr == pytest.approx(5 * config.lr, rel=0.05)


def test_estimators_whose_rate_matters_have_one_too(tiny_model, sentiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = FitConfig(bits=4, group=16, estimator="bernoulli", sparsity=0.1, **OPTIONS)
    request = FitRequest(
        str(tiny_model), find_task("sst2"), tmp_path / "artifact", config, data=sentiment
    )
    curve = find_learning_rate(request, steps=30)
    assert curve.option == "lr"
    assert list(tmp_path.iterdir()) == []


def test_the_rate_of_a_threshold_cancels(tiny_model, sentiment, tmp_path):
    request = FitRequest(
        str(tiny_model), find_task("sst2"), tmp_path / "a", FitConfig(), data=sentiment
    )
    with pytest.raises(ConfigError, match="the rate of scores of estimator threshold cancels"):
        find_learning_rate(request)


def test_too_few_steps_are_refused(asked):
    with pytest.raises(ConfigError, match="`steps` is 19, a range test needs 20 or more"):
        find_learning_rate(asked("full"), steps=19)


def told(loss, stage="task"):
    return Progress(1, 1, 0.0, "accuracy", None, None, stage, step_loss=loss)


def test_the_mean_of_equal_losses_is_that_loss():
    record = _Record(lambda _: None)
    for _ in range(30):
        record.on_progress(told(0.7))
        record.on_progress(told(9.0, "backbone"))
    assert record.losses == pytest.approx([0.7] * 30)


def test_the_test_ends_where_the_loss_grows():
    record = _Record(lambda _: None)
    for _ in range(30):
        record.on_progress(told(0.5))
    with pytest.raises(_DivergedError):
        for _ in range(30):
            record.on_progress(told(5.0))
    assert record.losses[-2] <= 2.0 < record.losses[-1]


def test_suggestions_of_a_known_curve():
    rates = tuple(10.0 ** (-6 + n / 10) for n in range(61))
    losses = tuple(1 - math.exp(-((math.log10(rate) + 2) ** 2)) for rate in rates)
    curve = RateCurve("lr", rates, losses, 10.0, diverged=False)
    assert curve.lowest == pytest.approx(1e-2, rel=1e-6)
    assert curve.suggestion == pytest.approx(1e-3)
    assert curve.steepest == pytest.approx(10 ** (-2 - 0.5**0.5), rel=0.2)


def test_what_a_run_leaves_on_its_way_is_no_part_of_a_test(tiny_model, sentiment, tmp_path):
    options = {"schedule": "restarts", "cycles": 2, "snapshots": True}
    config = FitConfig(bits=4, group=16, estimator="bernoulli", sparsity=0.1, **options, **OPTIONS)
    request = FitRequest(
        str(tiny_model), find_task("sst2"), tmp_path / "artifact", config, data=sentiment
    )
    assert len(find_learning_rate(request, steps=20).rates) <= 20


def test_a_test_stands_on_the_artifacts_backbone(tiny_artifact, tiny_model, sentiment, monkeypatch):
    seen = []
    fit = lr_find.fit_task
    monkeypatch.setattr(
        lr_find,
        "fit_task",
        lambda request, on_progress: (
            seen.append(open_artifact(request.out).manifest.scheme.bits)
            or fit(request, on_progress=on_progress)
        ),
    )
    config = FitConfig(estimator="bernoulli", sparsity=0.1, **OPTIONS)
    request = FitRequest(
        str(tiny_model), find_task("sst2"), tiny_artifact, config, data=sentiment, bits_given=False
    )
    before = {path: path.read_bytes() for path in tiny_artifact.rglob("*") if path.is_file()}
    find_learning_rate(request, steps=20)
    assert seen == [4]
    assert {p: p.read_bytes() for p in tiny_artifact.rglob("*") if p.is_file()} == before


def test_rows_without_labels_are_left_out_where_no_teacher_says_what_is_right(
    tiny_model, sentiment, tmp_path
):
    texts = tmp_path / "more.txt"
    texts.write_text("the film was good\nit was bad\n")
    config = FitConfig(estimator="bernoulli", sparsity=0.1, teacher="twin", **OPTIONS)
    request = FitRequest(
        str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment, texts=texts
    )
    assert len(find_learning_rate(request, steps=30).rates) >= 5
