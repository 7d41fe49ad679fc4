"""Groups of texts, losses of vectors and metrics of what they find."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from maskpack.formats import ConfigError, DataError
from maskpack.tasks.batches import EncodedGroups, predict_all
from maskpack.tasks.data.columns import Said, found_columns, task_of_said
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.evaluation.metrics import METRICS, compute_metrics, majority
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.task import Task
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.vectors import group_labels, grouped_texts, numbered, ranks_of

FINDS, ALIKE = TASK_TYPES["retrieval"], TASK_TYPES["similarity"]


def units(rows, texts, width, seed=0):
    """Random vectors `(rows, texts, width)` of length 1."""
    values = np.random.default_rng(seed).normal(size=(rows, texts, width)).astype("f4")
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_a_loss_of_retrieval_is_that_of_its_definition():
    """Rows are three texts and the anchor's number: the second anchor is a text of the third row, the last its own right one."""
    vectors, labels = units(4, 3, 5), np.array([[0, 1, -1], [1, 3, 4], [0, 4, 5], [2, 0, 2]])
    total = 0.0
    for row in range(4):
        texts = [(vectors[n, place], labels[n, place - 1]) for place in (1, 2) for n in range(4)]
        near = 20 * np.array([vectors[row, 0] @ text for text, _ in texts])
        kept = [n for n, (_, own) in enumerate(texts) if n == row or own not in labels[row, [0, 2]]]
        total += np.log(np.exp(near[kept]).sum()) - near[row]
    loss = FINDS.loss(torch.from_numpy(vectors), torch.from_numpy(labels))
    assert float(loss) == pytest.approx(total / 4, rel=1e-5)


def test_a_loss_of_similarity_counts_pairs_in_a_wrong_order():
    vectors, labels = units(5, 2, 4), np.array([0.0, 2.5, 1.0, 1.0, 4.0])
    cosines = 20 * (vectors[:, 0] * vectors[:, 1]).sum(axis=1)
    wrong = sum(
        np.exp(cosines[j] - cosines[i]) for i in range(5) for j in range(5) if labels[i] > labels[j]
    )
    loss = ALIKE.loss(torch.from_numpy(vectors), torch.from_numpy(labels))
    assert float(loss) == pytest.approx(np.log1p(wrong), rel=1e-5)
    turned = ALIKE.loss(torch.from_numpy(vectors), torch.from_numpy(100 * labels - 7))
    assert float(turned) == float(loss), "scores may have any unit"


@pytest.mark.parametrize("kind", [FINDS, ALIKE])
def test_a_teacher_of_the_same_vectors_is_no_distance_away(kind):
    vectors = torch.from_numpy(units(6, 2, 8))
    assert float(kind.distillation_loss(vectors, vectors, 2.0)) == pytest.approx(0, abs=1e-6)
    other = torch.from_numpy(units(6, 2, 8, seed=1))
    assert float(kind.distillation_loss(vectors, other, 2.0)) > 0.1


def test_ranks_count_each_text_once():
    """Wherever it stands: a text to be found in one row is one that is not in another."""
    labels = np.random.default_rng(1).integers(0, 12, (30, 2))
    texts = units(12, 1, 6, seed=2)[:, 0]
    vectors = np.concatenate([units(30, 1, 6), texts[labels]], axis=1)
    near = vectors[:, 0] @ texts[np.unique(labels)].T
    alone = np.column_stack([labels, np.full(30, -1)])
    own = (vectors[:, 0] * texts[labels[:, 0]]).sum(axis=1)
    assert (
        ranks_of(vectors, alone).tolist() == ((near > own[:, None] - 1e-6).sum(axis=1) - 1).tolist()
    )


def test_a_text_does_not_find_itself():
    """Duplicates: each text should find the next one, and all texts are among those to be found."""
    texts = units(20, 1, 6)[:, 0]
    following = np.roll(np.arange(20), -1)
    vectors = np.stack([texts, texts[following]], axis=1)
    labels = numbered([(f"t{n}", f"t{following[n]}") for n in range(20)])
    near = texts @ texts.T
    others = [np.delete(near[n], n) for n in range(20)]
    own = near[np.arange(20), following]
    assert ranks_of(vectors, labels).tolist() == [
        int((row > wanted + 1e-6).sum()) for row, wanted in zip(others, own, strict=True)
    ]
    assert (
        ranks_of(
            np.stack([texts, texts], axis=1), numbered([(f"t{n}",) * 2 for n in range(20)])
        ).max()
        == 0
    )


def test_a_vector_of_no_numbers_is_last():
    vectors = np.full((3, 2, 4), np.nan, dtype="f4")
    labels = np.column_stack([np.arange(3), np.full(3, -1)])
    assert ranks_of(vectors, labels).tolist() == [2, 2, 2]


def test_metrics_of_ranks():
    ranks, labels = np.array([0, 1, 9, 10]), np.arange(4)
    assert METRICS["recall_at_1"](ranks, labels) == 0.25
    assert METRICS["recall_at_10"](ranks, labels) == 0.75
    gains = [1, 1 / np.log2(3), 1 / np.log2(11), 0]
    assert METRICS["ndcg_at_10"](ranks, labels) == pytest.approx(np.mean(gains))
    same = np.eye(4, dtype="f4")[:, None].repeat(2, axis=1)
    numbers = np.column_stack([labels, np.full(4, -1)])
    assert compute_metrics(FINDS, same, numbers, ["ndcg_at_10"]) == {"ndcg_at_10": 1.0}
    chance = majority(FINDS, np.arange(40), ["recall_at_1", "recall_at_10"])
    assert chance == {"recall_at_1": 1 / 40, "recall_at_10": 0.25}


def test_similarity_is_measured_by_its_order():
    vectors = np.zeros((3, 2, 2), dtype="f4")
    vectors[:, 0, 0] = 1
    vectors[:, 1] = [[1, 0], [0.6, 0.8], [0, 1]]
    assert compute_metrics(ALIKE, vectors, np.array([9.0, 5.0, 1.0]), ["spearman"])["spearman"] == 1
    assert ALIKE.pairs(np.array([9.0]), vectors[:1]) == ((9.0, 1.0),)


def groups(rows=7, size=2):
    lengths = np.random.default_rng(0).integers(1, 9, rows * size)
    ids = [np.full(length, number + 1) for number, length in enumerate(lengths)]
    return EncodedGroups(ids, None, np.arange(rows), pad=0, size=size)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_groups_are_rows_of_several_texts(size):
    encoded = groups(size=size)
    assert len(encoded) == 7
    assert encoded.lengths.sum() == encoded.ids.lengths.sum()
    some = encoded.take(np.array([4, 0]))
    assert (len(some), some.labels.tolist()) == (2, [4, 0])
    feeds = some.feeds(np.array([1, 0]))
    assert feeds["input_ids"][:, 0].tolist() == [
        *range(1, size + 1),
        *range(4 * size + 1, 5 * size + 1),
    ]
    assert feeds["input_ids"].shape[1] == max(some.ids.lengths)

    def predict(batch):
        return batch["input_ids"][:, :1].astype("f4")

    found = predict_all(predict, encoded, batch_size=3)
    assert found.shape == (7, size, 1)
    assert found.ravel().tolist() == list(range(1, 7 * size + 1))


def test_a_label_that_is_a_text_is_the_second_of_its_group(write):
    rows = [{"anchor": f"a{n}", "positive": f"p{n // 2}", "negative": f"n{n}"} for n in range(40)]
    path = write("rows.jsonl", "\n".join(map(json.dumps, rows)))
    options = TaskOptions(type="sentence-similarity", prefix="query: ", pair_prefix="passage: ")
    task = task_of_said(Said("find", named=False, data=path, options=options))
    assert (task.kind, task.texts, task.label) == ("retrieval", ("anchor", "negative"), "positive")
    data = load_data(task, data=path)
    assert data.labels == ()
    split = data.train.prefixed(task.prefixes)
    first = grouped_texts(split)[0]
    number = first[0].removeprefix("query: a")
    assert first[1:] == (f"passage: p{int(number) // 2}", f"passage: n{number}")
    labels = group_labels(split, grouped_texts(split))
    assert labels.shape == (len(split), 3)
    assert (labels[:, 2] == -1).all()
    assert len(np.unique(labels[:, 0])) == len(set(data.train.labels.tolist()))


@pytest.mark.parametrize("kind", ["similarity", "token-classification"])
def test_another_number_of_texts_is_refused(kind):
    texts = ("a",) if kind == "similarity" else ("a", "b")
    with pytest.raises(ConfigError, match="texts, `t` has one text|reads one text, `t` has two"):
        Task("t", kind, texts, "label", metrics=TASK_TYPES[kind].usual_metrics)


def test_columns_with_plain_names():
    assert found_columns(["Query", "Document"]) == ("Query", "Document")
    assert found_columns(["id", "question", "answer"]) == ("question", "answer")
    assert found_columns(["text", "label"]) is None


def test_a_row_without_a_text_to_find(write):
    path = write("rows.csv", "query,document\n" + "a,b\n" * 20 + "a,\n")
    options = TaskOptions(type="sentence-similarity")
    task = task_of_said(Said("find", named=False, data=path, options=options))
    with pytest.raises(DataError, match="data row 21 of .* has no text in `document`"):
        load_data(task, data=path)


def test_types_that_contradict_each_other():
    assert TaskOptions(type="sentence-similarity", regression=True).kind == "similarity"
    with pytest.raises(ConfigError, match="`type` token-classification has not a number"):
        TaskOptions(type="token-classification", regression=True)
    with pytest.raises(ConfigError, match="`type` sentence-similarity has not several labels"):
        TaskOptions(type="sentence-similarity", multi_label=True)
