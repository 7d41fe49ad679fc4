"""A task on the straight line between two masks."""

from __future__ import annotations

import pytest
import torch

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import ArtifactError, ConfigError, open_artifact
from maskpack.models.build import head_parameters
from maskpack.tasks import PathRequest, find_task, mask_path
from maskpack.tasks import path as path_module
from maskpack.tasks.evaluation.evaluate import assess


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment, quick):
    """Two masks of one task from two seeds, and one over fewer matrices."""
    out = tmp_path_factory.mktemp("path") / "artifact"
    runs = {"one": {}, "two": {"seed": 1}, "few": {"modules": "query"}}
    for name, options in runs.items():
        config = quick(margin=0.5, **options)
        request = FitRequest(
            str(tiny_model), find_task("sst2"), out, config, data=sentiment, name=name
        )
        fit_task(request)
    return out


def test_the_ends_are_the_tasks(artifact, sentiment):
    found = mask_path(PathRequest(artifact, "one", "two", data=sentiment, points=5))
    opened = open_artifact(artifact)
    assert [point.share for point in found.points] == [0, 0.25, 0.5, 0.75, 1]
    for name, point in (("one", found.points[0]), ("two", found.points[-1])):
        assert point.value == assess(opened, name, data=sentiment).scores["accuracy"]
    back = mask_path(PathRequest(artifact, "two", "one", data=sentiment, points=5))
    losses = [point.loss for point in back.points]
    assert losses[::-1] == pytest.approx([point.loss for point in found.points], rel=1e-4)
    assert len(set(losses)) == 5


def test_a_barrier_is_measured_from_the_line_between_the_ends(artifact, sentiment):
    found = mask_path(PathRequest(artifact, "one", "two", data=sentiment, points=3))
    first, middle, last = (point.loss for point in found.points)
    assert found.barrier == pytest.approx(max(0.0, middle - (first + last) / 2))


def test_heads_that_read_other_states_do_not_fade(
    tmp_path, tiny_model, sentiment, quick, monkeypatch
):
    for name, pooling in (("mean", "mean"), ("first", "cls"), ("again", "mean")):
        config = quick(margin=0.5, pooling=pooling, seed=len(name), steps=4)
        request = FitRequest(
            str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment, name=name
        )
        fit_task(request)
    heads = []
    put = path_module._put_between

    def look(model, ends, share):
        put(model, ends, share)
        heads.append(next(iter(head_parameters(model).values())).detach().clone())

    monkeypatch.setattr(path_module, "_put_between", look)
    for name, fades in (("first", False), ("again", True)):
        mask_path(PathRequest(tmp_path / "a", "mean", name, data=sentiment, points=3))
        start, _, end = heads[-3:]
        assert torch.equal(start, end) is not fades


def test_what_is_no_path_is_refused(artifact, sentiment):
    with pytest.raises(ConfigError, match="not to `one` again"):
        PathRequest(artifact, "one", "one")
    with pytest.raises(ConfigError, match="`points` is 2"):
        PathRequest(artifact, "one", "two", points=2)
    with pytest.raises(ConfigError, match="masks over different matrices"):
        mask_path(PathRequest(artifact, "one", "few", data=sentiment))
    with pytest.raises(ArtifactError, match="no task `three`"):
        mask_path(PathRequest(artifact, "one", "three", data=sentiment))
