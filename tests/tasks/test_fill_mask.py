"""Tokens that are hidden from texts: which ones, what is read in their place, the loss, the metrics, and the rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from maskpack.compressor.training.loss import Drawn, TaskLoss
from maskpack.formats import ConfigError, DataError, ModelError
from maskpack.models.build import fresh_classifier
from maskpack.models.cloze import cloze_class
from maskpack.runtime.cloze import ClozeRule, choose, chosen_for_metrics, hide, reduced, table_of
from maskpack.tasks.batches import predict_all, torch_predict
from maskpack.tasks.cloze import EncodedCloze
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.data.splits import Split, load_data
from maskpack.tasks.evaluation.gains import best_of, gain
from maskpack.tasks.evaluation.metrics import METRICS, compute_metrics, majority
from maskpack.tasks.options import TaskOptions, Type
from maskpack.tasks.task import Task, find_task
from maskpack.tasks.token_rows import TokenRows
from maskpack.tasks.types import TASK_TYPES

KIND = TASK_TYPES["fill-mask"]
RULE = ClozeRule(mask=4, vocabulary=50, special=(0, 1, 2, 3, 4))


def blocks(*lengths: int, seed: int = 0) -> EncodedCloze:
    """Rows of random words between the tokens that begin and end a text."""
    rng = np.random.default_rng(seed)
    ids = TokenRows.of([[2, *rng.integers(5, 50, size - 2), 3] for size in lengths])
    return EncodedCloze.of(ids, None, pad=0, rule=RULE, sources=np.arange(len(lengths)))


@pytest.fixture(scope="module")
def model():
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=20,
        initializer_range=0.5,
    )
    config.architectures = ["BertForMaskedLM"]
    torch.manual_seed(0)
    return fresh_classifier(config).eval()


def test_fifteen_of_a_hundred_tokens_are_chosen_and_most_of_them_hidden():
    ids = np.concatenate([[2], np.tile(np.arange(5, 50), 400), [3]])
    chosen = choose(ids, RULE, np.random.default_rng(1))
    assert len(chosen) == round(0.15 * (len(ids) - 2))
    place, right, read = chosen.T
    assert (np.diff(place) > 0).all()
    np.testing.assert_array_equal(right, ids[place])
    assert np.isin(right, RULE.special).sum() == 0
    assert np.mean(read == 4) == pytest.approx(0.8 + 0.1 / 50, abs=0.02)
    assert np.mean(read == right) == pytest.approx(0.1 + 0.1 / 50, abs=0.02)
    assert read.max() == 49, "any token may stand there"


def test_a_row_without_words_hides_nothing_and_a_short_one_hides_a_word():
    assert len(choose(np.array([2, 3]), RULE, np.random.default_rng(0))) == 0
    assert choose(np.array([2, 7, 3]), RULE, np.random.default_rng(0))[0, :2].tolist() == [1, 7]


def test_metrics_hide_the_same_tokens_in_every_run_and_order():
    rows = blocks(12, 30, 7)
    again = rows.take(np.array([2, 0])).take(np.array([1, 0]))
    np.testing.assert_array_equal(again.labels, rows.labels[[0, 2]])
    np.testing.assert_array_equal(
        table_of([chosen_for_metrics(rows.ids[1], RULE)], rows.labels.shape[1])[0], rows.labels[1]
    )
    assert [again.row_of(place) for place in range(2)] == [0, 2]


def test_training_hides_other_tokens_in_every_epoch_which_follow_from_the_seed():
    rows, some = blocks(30, 30, 12), np.array([0, 2])
    feeds = [
        rows.of_epoch(*draw).feeds(some)["labels"] for draw in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    np.testing.assert_array_equal(feeds[0], feeds[1])
    assert (feeds[0] != feeds[2]).any()
    assert (feeds[0] != feeds[3]).any()
    assert {int((one >= 0).sum()) for one in feeds} == {4 + 2}, "as many in every epoch"
    alone = rows.of_epoch(0, 0).feeds(np.array([2]))["labels"]
    np.testing.assert_array_equal(alone[0], feeds[0][1, : alone.shape[1]])


def test_hidden_tokens_are_read_as_drawn_and_others_as_they_are():
    ids = np.array([[2, 7, 8, 3], [2, 9, 3, 0]])
    table = table_of([np.array([[1, 7, 4], [2, 8, 11]]), np.array([[1, 9, 9]])], 3)
    labels = hide(ids, table)
    assert ids.tolist() == [[2, 4, 11, 3], [2, 9, 3, 0]]
    assert labels.tolist() == [[-100, 7, 8, -100], [-100, 9, -100, -100]]


def test_logits_are_reduced_alike_whether_a_model_gives_them_all_or_not():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 50)).astype("f4")
    labels = np.array([[-100, 7, 8, -100], [-100, 9, -100, -100]])
    found = reduced(logits, labels, 3)
    np.testing.assert_array_equal(found, reduced(logits[labels >= 0], labels, 3))
    wide = logits.astype("f8")
    shares = np.exp(wide) / np.exp(wide).sum(axis=-1, keepdims=True)
    wanted = [
        [np.log(shares[0, 1, 7]), np.log(shares[0, 2, 8]), 0],
        [np.log(shares[1, 1, 9]), 0, 0],
    ]
    np.testing.assert_allclose(found[..., 0], wanted, rtol=1e-5)
    best = [[logits[0, 1].argmax(), logits[0, 2].argmax(), 0], [logits[1, 1].argmax(), 0, 0]]
    np.testing.assert_array_equal(found[..., 1], best)
    own = [[logits[0, 1, 7], logits[0, 2, 8], 0], [logits[1, 1, 9], 0, 0]]
    np.testing.assert_array_equal(found[..., 2], np.float32(own))


def test_loss_and_perplexity_are_those_of_transformers(model):
    rows = blocks(12, 30, 7, 30)
    batch = np.arange(len(rows))
    feeds = {name: torch.from_numpy(each) for name, each in rows.feeds(batch).items()}
    plain = transformers.BertForMaskedLM(model.config).eval()
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        theirs = float(plain(**feeds).loss)  # a mean over tokens with a label
        own = TaskLoss(KIND, rows.labels).over(model, feeds, batch)
    assert float(own) == pytest.approx(theirs, rel=1e-5)
    logits = predict_all(torch_predict(model), rows, batch_size=3)
    assert logits.shape == (4, rows.labels.shape[1], 3), "logits of a vocabulary are held nowhere"
    scores = compute_metrics(KIND, logits, rows.labels, KIND.usual_metrics)
    assert scores["perplexity"] == pytest.approx(np.exp(theirs), rel=1e-5)
    with torch.inference_mode():
        everything = plain(**{k: v for k, v in feeds.items() if k != "labels"}).logits
    asked = feeds["labels"] >= 0
    right = (everything[asked].argmax(dim=-1) == feeds["labels"][asked]).float().mean()
    assert scores["masked_accuracy"] == pytest.approx(float(right))


def test_a_constant_answer_knows_how_often_tokens_are():
    labels = np.array([[[1, 7, 4], [2, 7, 4]], [[1, 7, 4], [3, 9, 4]]], dtype=np.int32)
    found = majority(KIND, labels, KIND.usual_metrics)
    assert found["masked_accuracy"] == 0.75
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert found["perplexity"] == pytest.approx(np.exp(entropy))


def test_losses_of_parts_add_up_to_that_of_the_step(model):
    rows, batch = blocks(40, 9, 17, 3, 30).of_epoch(3, 1), np.arange(5)
    loss = TaskLoss(KIND, rows.labels)

    def of(some):
        feeds = {name: torch.from_numpy(each) for name, each in rows.feeds(some).items()}
        with torch.inference_mode():
            return float(loss.over(model, feeds, some)) * len(some)

    assert of(batch[:2]) + of(batch[2:]) == pytest.approx(of(batch), rel=1e-5)
    logits = torch.randn(0, 50, requires_grad=True)
    none = loss(logits, batch[:1], Drawn(torch.zeros(0, dtype=torch.int64)))
    none.backward()
    assert float(none.detach()) == 0.0


def test_a_teacher_is_mixed_in(model):
    from maskpack.compressor.training.loss import DistillationTargets, HiddenStateTeacher

    rows, batch = blocks(20, 20), np.arange(2)
    feeds = {name: torch.from_numpy(each) for name, each in rows.feeds(batch).items()}
    teacher = HiddenStateTeacher(model, 0.0)
    wanted, states = teacher.answers(feeds, states=True)
    assert wanted.shape == (int((feeds["labels"] >= 0).sum()), 50)
    assert [one.shape for one in states] == [(40, 16)], "of all tokens, of a layer"
    taught = TaskLoss(KIND, rows.labels, DistillationTargets(None, 0.25, 2.0, asked=teacher))
    with torch.inference_mode():
        alone = TaskLoss(KIND, rows.labels).over(model, feeds, batch)
    other = wanted + torch.randn_like(wanted)
    same = taught(wanted, batch, Drawn.of(feeds, wanted))
    assert float(same) == pytest.approx(0.75 * float(alone), rel=1e-5), "no distance to itself"
    apart = KIND.distillation_loss(other, wanted, 2.0)
    own = KIND.loss(other, feeds["labels"][feeds["labels"] >= 0])
    mixed = taught(other, batch, Drawn.of(feeds, wanted))
    assert float(mixed) == pytest.approx(float(0.75 * own + 0.25 * apart), rel=1e-5)


def test_points_of_a_metric_that_is_smaller_where_a_task_is_better():
    assert gain("perplexity", 8.0, 10.0) == pytest.approx(20.0)
    assert gain("perplexity", 11.0, 10.0) == pytest.approx(-10.0)
    assert gain("accuracy", 0.8, 0.9) == pytest.approx(-10.0)
    assert best_of("perplexity", [3.0, 2.0]) == 2.0
    assert best_of("accuracy", [0.3, 0.2]) == 0.3
    assert METRICS["perplexity"](np.zeros((0, 2)), np.zeros(0)) == 1.0


def said(data, **options):
    return task_of_said(Said("own", False, data, TaskOptions(type=Type.MASKS, **options)))


def test_a_line_of_a_file_is_a_text(write):
    data = write("own.txt", "a text\tof one\n\n  the next  \n" + "more\n" * 20)
    task = said(data)
    assert (task.texts, task.label, task.metric) == (("text",), "text", "perplexity")
    rows = load_data(task, data=data)
    texts = sorted({row[0] for row in (*rows.train.texts, *rows.dev.texts)})
    assert texts == ["a text\tof one", "more", "the next"]
    assert (len(rows.train), len(rows.dev), rows.labels) == (20, 2, ())


def test_a_sweep_needs_no_name_of_a_column_of_lines():
    task = Said("letters", options=TaskOptions(type=Type.MASKS)).task()
    assert (task.kind, task.texts, task.label) == ("fill-mask", ("text",), "text")
    with pytest.raises(ConfigError, match="`tickets` is a classification task"):
        Said("tickets", options=TaskOptions(type=Type.MASKS)).task()


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl"])
def test_a_column_of_a_table_is_the_text(write, name):
    rows = [{"text": f"text {n}", "label": "x"} for n in range(20)]
    table = "\n".join(["text,label", *(f"{row['text']},x" for row in rows)])
    data = write(name, table if name.endswith("csv") else "\n".join(map(json.dumps, rows)))
    assert len(load_data(said(data), data=data).train) == 18
    named = said(data, text_field="label")
    assert {row[0] for row in load_data(named, data=data).train.texts} == {"x"}


def test_rows_that_are_no_texts_are_refused(write):
    data = write("own.csv", "text,more\na,b\n ,c\n" + "d,e\n" * 9)
    with pytest.raises(ConfigError, match=r"which column of `.*own\.csv` is the text") as caught:
        said(data)
    assert str(caught.value.hint) == "its columns: text, more; choose `text_field`"
    task = said(data, text_field="text")
    with pytest.raises(DataError, match="data row 2 of .* has no text in `text`"):
        load_data(task, data=data)
    with pytest.raises(ConfigError, match="a text is its own label .* `label_field` is `more`"):
        said(data, text_field="text", label_field="more")
    with pytest.raises(ConfigError, match="a fill-mask task reads one text"):
        Task("own", "fill-mask", ("a", "b"), "a", metrics=KIND.usual_metrics)
    with pytest.raises(ConfigError, match="`type` fill-mask has not a number"):
        TaskOptions(type=Type.MASKS, regression=True)


def test_a_long_text_becomes_blocks_of_which_none_is_lost(tiny_model):
    from maskpack.models.load import load_pretrained

    context = ModelContext.of_pretrained(load_pretrained(str(tiny_model)))
    words = [f"word{n % 18}" for n in range(33)]
    split = Split((("film",), (" ".join(words),), ("",)), np.zeros(3, dtype=np.int64))
    rows = context.encode("cloze", split, 12, ())
    assert isinstance(rows, EncodedCloze)
    assert rows.lengths.tolist() == [3, 12, 12, 12, 5, 2]
    assert rows.sources.tolist() == [0, 1, 1, 1, 1, 2]
    tokenizer = context.preprocessor("cloze").tokenizer
    inner = np.concatenate([rows.ids[place][1:-1] for place in range(1, 5)])
    assert tokenizer.convert_ids_to_tokens(inner.tolist()) == words
    assert (rows.labels[5] == -1).all(), "an empty text hides nothing"


def test_blocks_of_one_text_are_held_out_together():
    sources = np.arange(60) // 3
    ids = TokenRows.of([[2, 5 + source, 3] for source in sources])
    rows = EncodedCloze.of(ids, None, pad=0, rule=RULE, sources=sources)
    train, held = rows.hold_out(if_asked=True)
    assert len(held) == 6
    assert not set(train.sources) & set(held.sources)


def test_models_that_fill_no_masks_are_refused_by_name(family_models, quick, write, tmp_path):
    from maskpack.compressor import FitRequest, fit_task

    data = write("own.txt", "the film was good\n" * 30)
    task = find_task("own", text_field="text", kind="fill-mask")
    for kind, what in (("gpt2", "MaskedLM` of `gpt2`"), ("mobilebert", "head of `mobilebert`")):
        request = FitRequest(str(family_models(kind)), task, tmp_path / kind, quick(), data=data)
        with pytest.raises(ModelError, match=what):
            fit_task(request)
        assert not (tmp_path / kind).exists()


def test_a_tokenizer_without_a_mask_token_is_refused(tiny_model):
    from maskpack.models.load import load_pretrained

    pretrained = load_pretrained(str(tiny_model))
    pretrained.tokenizer._special_tokens_map["mask_token"] = None
    context = ModelContext.of_pretrained(pretrained)
    context.preprocessor("cloze").tokenizer.mask_token = None
    split = Split((("film",),), np.zeros(1, dtype=np.int64))
    with pytest.raises(ModelError, match="has no mask token"):
        context.encode("cloze", split, 8, ())


def test_a_class_of_another_task_stays_as_it_is():
    assert cloze_class(None, transformers.BertModel) is transformers.BertModel
