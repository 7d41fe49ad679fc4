"""Masks of several tasks as one, by majority: in arrays, in an artifact, and as a command's function."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.repeat import recorded_run
from maskpack.formats import (
    ArtifactError,
    BitMask,
    ConfigError,
    DataError,
    Patch,
    check_artifact,
    open_artifact,
)
from maskpack.formats.vote import majority_patch
from maskpack.tasks import VoteRequest, find_task, vote_tasks
from maskpack.tasks.evaluation.evaluate import assess

BITS = np.random.default_rng(0).random((3, 6, 10)) < 0.6


def patch(bits, bias):
    return Patch({"a": BitMask.from_bool(bits)}, {"head": np.array([bias], np.float16)})


def test_a_weight_stays_where_most_masks_keep_it():
    found = majority_patch([patch(bits, n) for n, bits in enumerate(BITS)])
    np.testing.assert_array_equal(found.masks["a"].to_bool(), BITS.sum(axis=0) >= 2)
    assert found.head["head"].tolist() == [1.0]


def test_a_tie_keeps():
    found = majority_patch([patch(bits, 0) for bits in BITS[:2]])
    np.testing.assert_array_equal(found.masks["a"].to_bool(), BITS[0] | BITS[1])


def test_patches_of_other_shapes_are_refused():
    with pytest.raises(ConfigError, match="differ in the names or shapes"):
        majority_patch([patch(BITS[0], 0), patch(BITS[1][:5], 0)])
    with pytest.raises(ConfigError, match="two patches or more, not of 1"):
        majority_patch([patch(BITS[0], 0)])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment, quick):
    """Three masks of one run."""
    out = tmp_path_factory.mktemp("vote") / "artifact"
    config = quick(schedule="restarts", cycles=3, snapshots=True, steps=45, margin=0.5)
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment))
    return out


NAMES = ("sst2-1", "sst2-2", "sst2")


def test_the_vote_is_a_task_with_its_own_metrics(artifact, sentiment):
    result = vote_tasks(VoteRequest(artifact, NAMES, "voted", data=sentiment))
    check_artifact(artifact)
    opened = open_artifact(artifact)
    masks = [opened.patch(name).masks for name in NAMES]
    for name, mask in opened.patch("voted").masks.items():
        wanted = np.sum([one[name].to_bool() for one in masks], axis=0) >= 2
        np.testing.assert_array_equal(mask.to_bool(), wanted)
    entry = opened.entry("voted")
    assert entry.zeros == result.zeros
    assert entry.training["vote"] == list(NAMES)
    assert assess(opened, "voted", data=sentiment).scores == result.assessment.scores
    assert entry.scores["accuracy"] == result.assessment.scores["accuracy"]
    with pytest.raises(ArtifactError, match="voted"):
        vote_tasks(VoteRequest(artifact, NAMES, "voted", data=sentiment))


@pytest.mark.parametrize(
    ("tasks", "words"),
    [(("sst2",), "two different tasks or more"), (("sst2", "sst2"), "not of sst2, sst2")],
)
def test_what_is_no_vote_is_refused(artifact, tasks, words):
    with pytest.raises(ConfigError, match=words):
        VoteRequest(artifact, tasks, "other")


def test_tasks_that_answer_otherwise_are_refused(artifact, tiny_model, sentiment, quick):
    config = quick(max_length=12)
    request = FitRequest(str(tiny_model), find_task("sst2"), artifact, config, data=sentiment)
    fit_task(replace(request, name="short"))
    before = open_artifact(artifact).manifest.tasks.keys()
    with pytest.raises(ConfigError, match="`sst2` and `short` differ in `max_length`"):
        vote_tasks(VoteRequest(artifact, ("sst2", "short"), "other", data=sentiment))
    assert open_artifact(artifact).manifest.tasks.keys() == before


def test_no_run_is_told_of_a_vote(artifact, sentiment):
    vote_tasks(VoteRequest(artifact, NAMES[1:], "told", data=sentiment))
    with pytest.raises(DataError, match="`told` is a vote of sst2-2, sst2: no run made it"):
        recorded_run(open_artifact(artifact), "told")


def test_the_entry_names_the_rows_that_were_measured(artifact, sentiment, tmp_path):
    lines = (sentiment / "dev.tsv").read_text().splitlines()
    (tmp_path / "dev.tsv").write_text("\n".join(lines[:21]) + "\n")
    vote_tasks(VoteRequest(artifact, NAMES, "few", data=tmp_path))
    opened = open_artifact(artifact)
    entry = opened.entry("few")
    assert entry.data["eval_rows"] == 20
    assert entry.data["eval_sha256"] != opened.entry("sst2").data["eval_sha256"]
    assert assess(opened, "few", data=tmp_path).same_data
    assert not assess(opened, "few", data=sentiment).same_data
