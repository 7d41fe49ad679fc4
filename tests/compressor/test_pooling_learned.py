"""Tasks whose heads read the mean, the first or the last state: learned, stored, started from, and their teachers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    fit,
    fit_task,
    run_baseline,
)
from maskpack.formats import ConfigError, open_artifact
from maskpack.formats.pooling import Pooling, pooling_of
from maskpack.models.pooling import KEY
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess


def test_a_mean_is_learned_stored_and_answers_as_when_it_was_learned(request_for):
    request = request_for(pooling="mean", steps=150, head_lr=3e-2)
    result = fit_task(request)
    artifact = open_artifact(request.out)
    entry = artifact.entry("sst2")
    assert (entry.requires, entry.config) == (("pooling",), {"pooling": "mean"})
    assert entry.training["pooling"] == "mean"
    assert set(artifact.patch("sst2").head) == {
        "pooled_classifier.weight",
        "pooled_classifier.bias",
    }
    assert not any(name.startswith("pooler.") for name in artifact.patch("sst2").masks)
    assert any(name.startswith("pooler.") for name in artifact.backbone.linears)
    assert assess(artifact, "sst2", data=request.data).scores == result.scores
    assert result.scores["accuracy"] > 0.6


def test_tasks_of_several_poolings_share_a_backbone(request_for):
    for pooling in ("auto", "mean", "cls", "last"):
        fit_task(request_for(name=pooling, pooling=pooling, steps=2))
    artifact = open_artifact(request_for().out)
    found = {name: pooling_of(artifact.entry(name)) for name in artifact.manifest.tasks}
    assert found == {"auto": None, "mean": "mean", "cls": "cls", "last": "last"}


def test_the_pooling_that_the_class_has_anyway_leaves_no_mark(request_for):
    fit_task(request_for(name="own", pooling="pooler", steps=2))
    fit_task(request_for(name="usual", steps=2))
    own, usual = (open_artifact(request_for().out).entry(name) for name in ("own", "usual"))
    assert own.requires == usual.requires == ()
    assert "pooling" not in usual.training


def test_no_random_pooler_is_quantised_or_masked(request_for, without_pooler):
    request = request_for(model=without_pooler, steps=2)
    fit_task(request)
    artifact = open_artifact(request.out)
    assert pooling_of(artifact.entry("sst2")) is Pooling.MEAN
    assert not any("pooler" in name for name in artifact.backbone.linears)
    with pytest.raises(ConfigError, match="has no weights of a pooler"):
        fit.prepare(request_for(model=without_pooler, name="other", pooling="pooler"))


def test_a_dense_teacher_and_a_baseline_pool_as_the_task(
    request_for, tiny_model, sentiment, tmp_path
):
    result = fit_task(request_for(pooling="mean", steps=3, teacher="twin"))
    assert result.options["teacher"] == "twin"
    config = BaselineConfig(
        method="full", steps=3, batch_size=16, max_length=16, precision="fp32", pooling="mean"
    )
    request = BaselineRequest(
        str(tiny_model), find_task("sst2"), config, out=tmp_path / "dense", data=sentiment
    )
    run_baseline(request)
    tree = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert tree[KEY] == "mean"
    # as a teacher, and as the model of a run: its head is where the task starts
    fit_task(request_for("taught", pooling="mean", steps=2, teacher=str(tmp_path / "dense")))
    started = request_for("started", model=tmp_path / "dense", steps=2)
    fit_task(started)
    assert pooling_of(open_artifact(started.out).entry("sst2")) is Pooling.MEAN
    with pytest.raises(ConfigError, match="reads mean, and `pooling` cls is asked for"):
        fit.prepare(request_for("other", model=tmp_path / "dense", pooling="cls"))


def test_a_baseline_on_a_quantised_backbone_pools_so_too(tiny_model, sentiment):
    config = BaselineConfig(
        method="head",
        bits=4,
        group=16,
        steps=3,
        batch_size=16,
        max_length=16,
        precision="fp32",
        pooling="mean",
    )
    found = run_baseline(
        BaselineRequest(str(tiny_model), find_task("sst2"), config, data=sentiment)
    )
    assert found.head_bytes == 4 * (2 * 32 + 2)


def test_a_run_that_starts_from_a_task_pools_as_that_task(request_for):
    request = request_for(name="first", pooling="last", steps=2)
    fit_task(request)
    again = replace(request_for(name="second", steps=2), start=(request.out, "first"))
    fit_task(again)
    assert pooling_of(open_artifact(request.out).entry("second")) is Pooling.LAST
    with pytest.raises(ConfigError, match="reads last, and `pooling` mean is asked for"):
        fit.prepare(
            replace(request_for(name="third", pooling="mean"), start=(request.out, "first"))
        )


def test_a_word_that_is_no_pooling_is_refused():
    with pytest.raises(
        ConfigError, match="`pooling` is 'max', expected auto, cls, last, mean, pooler"
    ):
        FitConfig(pooling="max")


def test_an_interrupted_run_goes_on_to_the_same_bytes(request_for, stop_at, snapshot):
    from maskpack.formats import Interrupted

    whole = request_for("whole", pooling="mean", steps=6, checkpoint_every=2)
    fit_task(whole)
    halved = request_for("halved", pooling="mean", steps=6, checkpoint_every=2)
    with pytest.raises(Interrupted):
        fit_task(halved, on_progress=stop_at(4))
    fit_task(replace(halved, resume=True))
    patches = [
        open_artifact(each.out).path / "tasks" / "sst2.safetensors" for each in (whole, halved)
    ]
    assert patches[0].read_bytes() == patches[1].read_bytes()
