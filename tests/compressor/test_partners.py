"""Texts that are learned beside another text of their label: other ones in every epoch, none in an evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.training.kept_states import answers_and_states
from maskpack.compressor.training.loss import DistillationTargets, HiddenStateTeacher, TaskLoss
from maskpack.formats import Interrupted, open_artifact
from maskpack.models.placement import to_tensors
from maskpack.tasks import find_task
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.context import ModelContext, restore_task
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import encode_for, evaluation_rows
from maskpack.tasks.partners import EncodedByLabel, Partners
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.vectors import CLASS

WORDS = ["the", "film", "was", "story", "very", "we", "it"]
TASK = find_task("about", text_field="text", label_field="label", kind="label-retrieval")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Texts whose label is their one telling word."""
    rng, lines = np.random.default_rng(5), []
    for number in range(120):
        text = " ".join(rng.permutation([*rng.choice(WORDS, 3), f"word{number % 6}"]))
        lines.append(json.dumps({"text": text, "label": f"about {number % 6}"}))
    path = tmp_path_factory.mktemp("rows") / "about.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny_model, rows, quick):
    """An artifact, and its result."""
    out = tmp_path_factory.mktemp("learned") / "a"
    config = quick(steps=80, margin=0.3, lr=3e-3)
    return out, fit_task(FitRequest(str(tiny_model), TASK, out, config, data=rows))


def encoded(learned, labels, labelled=None):
    """Texts of 1 to 5 words with these labels, as training reads them."""
    context, rng = ModelContext.of_artifact(open_artifact(learned[0])), np.random.default_rng(1)
    texts = tuple((" ".join(rng.choice(WORDS, 1 + n % 5)),) for n in range(len(labels)))
    split = Split(texts, np.array(labels, dtype=CLASS))
    found = context.preprocessor("groups").encode(split, max_length=16)
    assert isinstance(found, EncodedByLabel)
    return found if labelled is None else replace(found, labelled=np.array(labelled), partners=None)


def test_partners_share_the_label_and_are_others_in_every_epoch():
    labels = np.random.default_rng(0).integers(0, 9, 200)
    partners, every = Partners.of(labels), np.arange(200)
    turns = [partners.at(every, turn) for turn in range(7, 12)]
    for found in turns:
        assert (labels[found] == labels).all()
        assert (found != every).all()
        assert sorted(found.tolist()) == list(range(200)), "each is the partner of one row"
    assert np.bincount(labels).min() > len(turns)
    met = np.stack(turns)
    assert all(len(set(met[:, row].tolist())) == len(turns) for row in range(200))
    some = np.array([5, 190, 5])
    np.testing.assert_array_equal(partners.at(some, 8), turns[1][some])


def test_epochs_follow_from_the_seed_and_an_evaluation_reads_texts_alone(learned):
    whole = encoded(learned, [0, 1] * 10 + [2])
    batch = np.array([3, 20, 7])
    alone = whole.feeds(batch)["input_ids"]
    assert len(alone) == 3
    np.testing.assert_array_equal(whole.read_with(batch), batch)
    seen = {}
    for seed, epoch in ((0, 0), (0, 1), (0, 2), (1, 0)):
        own = whole.of_epoch(seed, epoch)
        read = seen[seed, epoch] = own.read_with(batch)
        np.testing.assert_array_equal(read, whole.of_epoch(seed, epoch).read_with(batch))
        assert read.reshape(3, 2)[:, 0].tolist() == batch.tolist()
        assert read[3] == 20, "alone with its label"
        ids = own.feeds(batch)["input_ids"]
        for place, row in enumerate(read.tolist()):
            size = int(whole.lengths[row])
            assert ids[place, :size].tolist() == whole.ids[row].tolist()
    assert seen[0, 0][1] != seen[0, 1][1] != seen[0, 2][1]
    assert any((seen[0, 0] != seen[1, 0]).tolist())
    half = whole.take(np.arange(0, 20, 2)).of_epoch(0, 0)
    assert half.read_with(np.arange(10)).max() < 10, "partners are among the rows that are taken"


def test_rows_without_a_label_have_partners_of_their_own(learned):
    """Their label is 0 as that of others, because something must stand there."""
    known = np.arange(12) < 6
    rows = encoded(learned, [0, 1, 0, 1, 0, 1, *[0] * 6], known)
    for epoch in range(5):
        read = rows.of_epoch(0, epoch).read_with(np.arange(12)).reshape(12, 2)[:, 1]
        assert (known[read] == known).all()
    both = encoded(learned, [0, 1, 0, 1]).followed_by([encoded(learned, [0] * 4).without_labels()])
    read = both.of_epoch(0, 3).read_with(np.arange(8)).reshape(8, 2)[:, 1]
    assert (read[:4] < 4).all()
    assert (read[4:] >= 4).all()


def test_a_metric_asks_the_model_for_each_text_once(learned, rows):
    artifact = open_artifact(learned[0])
    entry = artifact.entry("about")
    split = evaluation_rows(entry, rows)
    read = encode_for(ModelContext.of_artifact(artifact), entry, split)
    predict, asked = torch_predict(restore_task(artifact, "about")), []

    def counted(feeds):
        asked.append(len(feeds["input_ids"]))
        return predict(feeds)

    found = predict_all(counted, read)
    assert found.shape == (len(split), 1, 32)
    assert sum(asked) == len(split)


def test_what_a_teacher_said_of_a_text_serves_it_as_a_partner_too(learned, tmp_path):
    """Logits and states that were kept before the first epoch, beside a teacher that runs in the step."""
    teacher = HiddenStateTeacher(restore_task(open_artifact(learned[0]), "about").eval(), 1.0)
    labels = [0, 1, 2, 1, 0, 2, 0, 1, 2, 0, 1]
    rows = encoded(learned, labels)
    logits, kept = answers_and_states(teacher, rows, folder=tmp_path)
    assert logits.shape == (11, 1, 32)
    epoch, batch = rows.of_epoch(3, 4), np.array([8, 0, 5])
    inputs = to_tensors(epoch.feeds(batch), teacher.model)
    wanted, states = teacher.answers(inputs, states=True)
    read = epoch.read_with(batch)
    np.testing.assert_allclose(logits[read, 0], wanted.numpy(), atol=1e-5)
    for own, there in zip(kept.states(inputs, read), states, strict=True):
        torch.testing.assert_close(own, there, atol=5e-3, rtol=5e-3)
    kind = TASK_TYPES["label-retrieval"]
    told = DistillationTargets(logits, 0.5, 1.0, kept)
    loss = TaskLoss(kind, rows.labels, told, encoded=rows)(wanted, batch, None, epoch)
    groups = wanted.view(3, 2, -1)
    alone = 0.5 * kind.loss(groups, torch.from_numpy(rows.labels[batch]))
    assert float(loss) == pytest.approx(float(alone), abs=1e-5), "no way from its own answers"


@pytest.mark.parametrize("options", [{}, {"teacher": "twin", "teacher_states": 1.0}])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    options, rows, tiny_model, quick, stop_at, snapshot, tmp_path
):
    config = quick(steps=40, batch_size=16, checkpoint_every=10, keep_states=True, **options)
    made = []
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
        made.append(FitRequest(str(tiny_model), TASK, tmp_path / name / "a", config, data=rows))
    fit_task(made[0])
    with pytest.raises(Interrupted):
        fit_task(made[1], on_progress=stop_at(17))
    fit_task(replace(made[1], resume=True))
    assert snapshot(made[1].out) == snapshot(made[0].out)


@pytest.mark.parametrize(
    "options", [{"init": "snip", "sparsity": 0.1}, {"units": "heads,neurons", "keep_units": 0.5}]
)
def test_gradients_before_and_in_a_run_are_those_of_texts_and_partners(
    options, rows, tiny_model, quick, tmp_path
):
    config = quick(steps=20, **options)
    result = fit_task(FitRequest(str(tiny_model), TASK, tmp_path / "a", config, data=rows))
    assert result.steps == 20
