"""A task of an artifact as the teacher of another run."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import ArtifactError, ModelError, open_artifact
from maskpack.tasks import find_task


@pytest.fixture
def run(tiny_model, sentiment, quick, tmp_path):
    """A function: learn with a teacher; the result and the artifact."""

    def learn(teacher, name="a", **options):
        config = quick(teacher=str(teacher), **options)
        out = tmp_path / name
        request = FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment)
        return fit_task(request), open_artifact(out)

    return learn


def test_a_mask_teaches_the_next_one(run, tiny_artifact, caplog):
    caplog.set_level(logging.INFO)
    _, taught = run(f"{tiny_artifact}#sst2", margin=0.5)
    _, alone = run("none", "b", margin=0.5)
    score = open_artifact(tiny_artifact).entry("sst2").scores["accuracy"]
    assert f"the teacher has accuracy {score:.4f}" in caplog.text
    masks = [each.patch("sst2").masks for each in (taught, alone)]
    assert any(not np.array_equal(masks[0][n].packed, masks[1][n].packed) for n in masks[0])
    assert taught.entry("sst2").training["teacher"] == f"{tiny_artifact.name}#sst2"


def test_the_only_task_needs_no_name(run, tiny_artifact):
    results = [
        run(teacher, name)[1].patch("sst2").head["classifier.bias"].tolist()
        for name, teacher in (("a", tiny_artifact), ("b", f"{tiny_artifact}#sst2"))
    ]
    assert results[0] == results[1]


def test_a_task_that_is_not_there_is_refused(run, tiny_artifact):
    with pytest.raises(ArtifactError, match="has no task `other`"):
        run(f"{tiny_artifact}#other")


def test_one_of_several_must_be_named(run, tiny_artifact, tmp_path, tiny_model, sentiment, quick):
    out = tmp_path / "two"
    for name in ("one", "two"):
        request = FitRequest(
            str(tiny_model), find_task("sst2"), out, quick(steps=2), data=sentiment, name=name
        )
        fit_task(request)
    with pytest.raises(ModelError, match="holds several tasks") as caught:
        run(out)
    assert f"{out}#one" in str(caught.value.hint)
