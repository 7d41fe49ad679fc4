"""Several tasks that answer as one: the mean of their outputs, in every layout, window, and command."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from maskpack.formats import ConfigError, open_artifact
from maskpack.runtime import Session
from maskpack.runtime.ensemble import MeanGraph
from maskpack.runtime.graph import TaskRun
from maskpack.tasks.evaluation.evaluate import evaluation_split
from maskpack.tasks.evaluation.exported import assess_exported

BOTH = ("sst2", "other")
TEXTS = ["good fine film", "bad word1", "film " * 5, "word1 good", "bad bad fine"]


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_the_logits_are_the_mean_of_the_members(laid_out, layout):
    session = Session(laid_out("bert", "fp32", layout)[0])
    each = [session.logits(TEXTS, task=name) for name in BOTH]
    assert np.abs(each[0] - each[1]).max() > 1e-2
    np.testing.assert_allclose(session.logits(TEXTS, task=BOTH), np.mean(each, axis=0), atol=1e-6)


def test_answers_are_those_of_the_mean(swapped):
    session = Session(swapped("bert", "fp32")[0])
    logits = session.logits(TEXTS, task=BOTH)
    labels = session.config(BOTH).labels
    found = session.predict(TEXTS, task=BOTH)
    assert [one.label for one in found] == [labels[row.argmax()] for row in logits]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert [one.score for one in found] == pytest.approx(shares.max(axis=1), rel=1e-5)


def test_windows_are_joined_as_of_one_task(swapped):
    session = Session(swapped("bert", "fp32")[0])
    text = " ".join(["good film bad word1 fine"] * 12)
    (found,) = session.predict([text], task=BOTH, windows=True)
    alone = [session.predict([text], task=name, windows=True)[0] for name in BOTH]
    assert found.windows == alone[0].windows > 1
    least, most = sorted(one.scores[found.label] for one in alone)
    assert least < found.score < most


def test_members_stay_in_memory_together(swapped):
    session = Session(swapped("bert", "fp32")[0], keep=1)
    again = Session(swapped("bert", "fp32")[0])
    np.testing.assert_array_equal(
        session.logits(TEXTS, task=BOTH), again.logits(TEXTS, task=BOTH[::-1])
    )


def test_metrics_are_of_the_mean(swapped, artifacts, sentiment):
    folder, artifact = swapped("bert", "fp32")[0], open_artifact(artifacts["bert"])
    found = assess_exported(artifact, folder, "sst2", data=sentiment, ensemble=("other",))
    assert found.task == "sst2"
    alone = assess_exported(artifact, folder, "sst2", data=sentiment)
    assert found.rows == alone.rows
    session = Session(folder)
    split = evaluation_split(artifact.entry("sst2"), data=sentiment)
    logits = session.logits(split.for_device(), task=BOTH)
    right = (logits.argmax(axis=1) == split.labels).mean()
    assert found.scores["accuracy"] == pytest.approx(right)


class Fixed:
    """A graph whose output is a table."""

    def __init__(self, table):
        self.table = np.array(table, np.float32)

    def get_inputs(self):
        return []

    def run(self, names, feeds, options):
        return [self.table]


def test_vectors_of_an_ensemble_have_the_length_one():
    members = [SimpleNamespace(graph=Fixed(each), own=TaskRun()) for each in ([[1, 0]], [[0, 1]])]
    (found,) = MeanGraph(tuple(members), vectors=True).run(["sentence_embedding"], {})
    assert found[0] == pytest.approx([0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "not of none"),
        (("sst2",), "an ensemble is of two different tasks or more, not of sst2"),
        (("sst2", "sst2"), "not of sst2, sst2"),
        (("sst2", "none"), "no task `none` is here"),
    ],
)
def test_what_is_no_ensemble_is_refused(swapped, names, words):
    with pytest.raises(ConfigError, match=words):
        Session(swapped("bert", "fp32")[0]).logits(TEXTS, task=names)


def test_tasks_that_answer_otherwise_are_refused(tagged_exports):
    with pytest.raises(ConfigError, match="`sst2` and `names` are of different types"):
        Session(tagged_exports("shared")).predict(TEXTS, task=("sst2", "names"))


def test_folded_exports_beside_each_other_are_an_ensemble(exported, tmp_path):
    for name in BOTH:
        shutil.copytree(exported("bert", "fp32", name).folder, tmp_path / name)
    session = Session(tmp_path)
    each = [session.logits(TEXTS, task=name) for name in BOTH]
    np.testing.assert_allclose(session.logits(TEXTS, task=BOTH), np.mean(each, axis=0), atol=1e-6)
