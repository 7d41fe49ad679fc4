"""Questions, contexts and answers in all the forms in which people have them, windows of them, and how answers are scored."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from maskpack.compressor.training.loss import DistillationTargets, TaskLoss
from maskpack.formats import ArtifactError, ConfigError, DataError, ExportError, TaskEntry
from maskpack.runtime.task import TaskConfig
from maskpack.runtime.windows import LONGEST, Best, Window, best_in, best_of, cut_windows
from maskpack.tasks import find_task
from maskpack.tasks.batches import EncodedTokens
from maskpack.tasks.data.cache import Cache
from maskpack.tasks.data.cells import NO_LABEL
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.data.held_out import whole_groups
from maskpack.tasks.data.questions import answered_row
from maskpack.tasks.data.splits import Split, load_data
from maskpack.tasks.data.tables import column_names, read_rows
from maskpack.tasks.data_warnings import window_warnings
from maskpack.tasks.evaluation.evaluate import windows_of
from maskpack.tasks.evaluation.metrics import METRICS
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.windows import WindowRule, as_array, labels_of

KIND = TASK_TYPES["question-answering"]
CONTEXT = "Anna Lee met Bob in Rome in 1990."
COLUMNS = ("question", "context", "answers")


@pytest.mark.parametrize(
    ("cell", "spans"),
    [
        ({"text": ["Rome"], "answer_start": [20]}, [[20, 24]]),
        ({"text": ["Rome", "in Rome"], "answer_start": [20, 17]}, [[20, 24], [17, 24]]),
        ({"text": "Rome", "start": 20}, [[20, 24]]),
        ([{"text": "Rome", "answer_start": 20, "id": 1}], [[20, 24]]),
        ([{"text": "Rome", "start": 20}], [[20, 24]]),
        ({"text": [], "answer_start": []}, []),
        ([], []),
    ],
)
def test_answers_of_every_form(cell, spans):
    row = answered_row(("where?", CONTEXT, json.dumps(cell)), "row 1")
    assert row == ("where?", CONTEXT, json.dumps(spans))


def test_a_row_without_a_label_stays():
    assert answered_row(("where?", CONTEXT, NO_LABEL), "row 1") == ("where?", CONTEXT, NO_LABEL)
    assert KIND.lacks_label(NO_LABEL)
    assert not KIND.lacks_label("[]")


@pytest.mark.parametrize(
    ("cell", "fact", "hint"),
    [
        (
            [{"text": "Rome", "start": 19}],
            "row 7 has the answer `Rome` at letter 19, where its context has ` Rom`",
            "it stands at 20, counted from 0",
        ),
        (
            [{"text": "in", "start": 1}],
            "row 7 has the answer `in` at letter 1, where its context has `nn`",
            "it stands at 17 and 25, counted from 0",
        ),
        (
            [{"text": "rome", "start": 20}],
            "row 7 has the answer `rome` at letter 20, where its context has `Rome`",
            "an answer is a part of its context, letter by letter",
        ),
        ([{"text": "Rome", "start": -13}], "row 7 has the answer `Rome` at letter -13", "it stands at 20"),
        ([{"text": " ", "start": 4}], "row 7 has an empty answer", "an empty list says"),
        ("Rome", 'row 7 holds `"Rome"` where answers are expected', "answers are `{"),
        ({"text": ["a"], "answer_start": []}, "row 7 holds `{", "answers are `{"),
        ([{"text": "Rome"}], "row 7 holds `[{", "answers are `{"),
        ([["Rome", 20]], "row 7 holds `[[", "answers are `{"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_named(cell, fact, hint):
    with pytest.raises(DataError) as caught:
        answered_row(("where?", CONTEXT, json.dumps(cell)), "row 7")
    assert str(caught.value).startswith(fact)
    assert str(caught.value.hint).startswith(hint)


def test_text_that_is_no_json_is_named():
    with pytest.raises(DataError, match="row 7 holds `in Rome` where answers are expected"):
        answered_row(("where?", CONTEXT, "in Rome"), "row 7")


def squad(**more):
    """A file as SQuAD's: an article of two paragraphs."""
    asked = [
        {"id": "1", "question": "where?", "answers": [{"text": "Rome", "answer_start": 20}]},
        {"id": "2", "question": "why?", "answers": [], "is_impossible": True,
         "plausible_answers": [{"text": "Bob", "answer_start": 13}]},
    ]  # fmt: skip
    other = [{"id": "3", "question": "who?", "answers": [{"text": "Ann", "answer_start": 0}]}]
    paragraphs = [{"context": CONTEXT, "qas": asked}, {"context": "Ann.", "qas": other}]
    return {**more, "data": [{"title": "Anna", "paragraphs": paragraphs}]}


ROWS = [
    ("where?", CONTEXT, '[{"text": "Rome", "answer_start": 20}]'),
    ("why?", CONTEXT, "[]"),
    ("who?", "Ann.", '[{"text": "Ann", "answer_start": 0}]'),
]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("more", [{}, {"version": "v2.0"}])
def test_a_file_as_squads(write, indent, more):
    path = write("train.json", json.dumps(squad(**more), indent=indent))
    assert column_names(path) == COLUMNS
    assert read_rows(path, COLUMNS) == ROWS
    packed = path.with_name("train.json.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_rows(packed, COLUMNS) == ROWS


def test_an_article_that_lacks_a_part_is_named(write):
    tree = squad()
    del tree["data"][0]["paragraphs"][1]["qas"][0]["answers"]
    path = write("train.json", json.dumps(tree))
    with pytest.raises(DataError, match="article 1 of .* is not as SQuAD's: KeyError"):
        read_rows(path, COLUMNS)
    with pytest.raises(DataError, match="has no column `text`"):
        read_rows(path, ("text",))
    with pytest.raises(DataError, match="is not valid JSON"):
        read_rows(write("cut.json", json.dumps(squad())[:-9]), COLUMNS)


def test_objects_with_a_field_data_are_rows_as_before(write):
    lines = [{"data": [1], "text": "a"}, {"data": [2], "text": "b"}]
    assert read_rows(write("rows.jsonl", "\n".join(map(json.dumps, lines))), ("text",)) == [
        ("a",),
        ("b",),
    ]
    assert column_names(write("one.json", json.dumps(lines[0]))) == ("data", "text")


def many(texts=30):
    """Rows of several questions on each of some contexts; every fifth has no answer."""
    for number in range(3 * texts):
        context = f"{CONTEXT} {number // 3}"
        answers = {"text": ["Rome"], "answer_start": [20]}
        yield {
            "id": str(number),
            "title": "x",
            "context": context,
            "question": f"where? {number}",
            "answers": {"text": [], "answer_start": []} if number % 5 == 0 else answers,
        }


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_no_context_is_on_both_sides(tmp_path, form):
    path = tmp_path / f"rows.{form}"
    rows = list(many())
    if form == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
        parquet.write_table(table, path)
    task = task_of_said(Said("rows", named=False, data=path))
    assert (task.kind, task.texts, task.label) == (KIND.name, COLUMNS[:2], "answers")
    data = load_data(task, data=path)
    assert data.labels == ("start", "end")
    assert (len(data.train), len(data.dev)) == (81, 9)
    sides = [{context for _, context in split.texts} for split in (data.train, data.dev)]
    assert not sides[0] & sides[1]
    assert data.held_out.together
    assert data.dev.windows == WindowRule(None, no_answer=True)
    labels = dict(zip([row[0] for row in data.train.texts], data.train.labels, strict=True))
    assert set(labels.values()) == {(), ((20, 24),)}


def test_whole_groups_reach_a_tenth():
    groups = [str(number // 7) for number in range(210)]
    held = whole_groups(groups)
    assert 21 <= len(held) <= 27
    assert not {groups[place] for place in held} & {
        group for place, group in enumerate(groups) if place not in held
    }
    assert len(whole_groups(["a"] * 30)) == 0


def test_a_task_of_questions_needs_pairs(write):
    with pytest.raises(ConfigError, match="reads a question and a context, `x` has one text"):
        find_task("x", text_field="question", label_field="answers", kind=KIND.name)
    with pytest.raises(ConfigError, match="`stride` is of rows that are cut into windows"):
        find_task("x", text_field="text", label_field="label", stride=8)
    path = write("rows.jsonl", "\n".join(json.dumps({**row, "answers": []}) for row in many(4)))
    task = task_of_said(Said("rows", named=False, data=path, options=TaskOptions(stride=7)))
    assert task.windows.stride == 7
    with pytest.raises(DataError, match="no row has an answer in `answers`"):
        load_data(task, data=path)
    with pytest.raises(ArtifactError, match="expected start, end"):
        KIND.check_labels(("a", "b"), "x")


@pytest.fixture(scope="module")
def tokenizer():
    """One of words, with marks around texts as BERT has them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(60)), "q"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return made


def cut(tokenizer, question, context, prefix=0, **how):
    """Tokens and windows of a row."""
    read = tokenizer.encode(question, context)
    cuts = cut_windows(read, context, prefix=prefix, **how)
    return [(np.array(read.ids)[one.places].tolist(), one.window) for one in cuts]


@pytest.mark.parametrize("words", [0, 1, 9, 10, 11, 30, 59])
@pytest.mark.parametrize("stride", [0, 2, 4, None])
def test_windows_are_those_of_the_library(tokenizer, words, stride):
    context = " ".join(f"w{number}" for number in range(words))
    found = cut(tokenizer, "q q", context, max_length=15, stride=stride)
    tokenizer.enable_truncation(15, stride=3 if stride is None else stride, strategy="only_second")
    whole = tokenizer.encode("q q", context)
    tokenizer.no_truncation()
    assert [ids for ids, _ in found] == [one.ids for one in (whole, *whole.overflowing)]
    for ids, window in found:
        texts = [context[start:end] for start, end in window.spans.tolist()]
        assert ids[window.first : window.first + len(texts)] == [4 + int(t[1:]) for t in texts]


def test_a_long_question_loses_its_end_and_a_prefix_is_no_answer(tokenizer):
    found = cut(tokenizer, "q " * 40, "w1 w2 w3 w4 w5 w6", max_length=12, stride=1)
    assert [len(ids) for ids, _ in found] == [12, 12, 11]
    assert all(ids.count(64) == 6 for ids, _ in found)
    ((_, window),) = cut(tokenizer, "q", "w1 w2", prefix=3, max_length=12, stride=1)
    assert window.spans.tolist() == [[0, 0], [0, 2]]
    assert window.counted(7).tolist() == [True, False, False, False, True, False, False]
    ((_, empty),) = cut(tokenizer, "q", "", max_length=12, stride=1)
    assert empty.counted(4).tolist() == [True, False, False, False]
    assert best_in(empty, np.zeros((4, 2), np.float32)) == Best(0, 0, 0.0, 1.0)


def test_every_answer_is_found_again(tokenizer):
    context = " ".join(f"w{number}" for number in range(60))
    spans = [(0, 2), (0, len(context[:40])), (53, 60), (150, 160), (context.index("w57"), 229)]
    spans = [(context.rindex(" ", 0, start + 1) + 1 if start else 0, end) for start, end in spans]
    spans = [(start, (context + " ").index(" ", end)) for start, end in spans]
    for start, end in spans:
        found = cut(tokenizer, "q", context, max_length=24, stride=16)
        windows = [window for _, window in found]
        labels = labels_of(as_array([((start, end),)]), [context], [windows], WindowRule())
        inside = [one for one in labels if (one.start, one.end) != (0, 0)]
        size = len(context[start:end].split())
        assert bool(inside) == (size <= 20), (start, end)
        for one in inside:
            letters = one.window.spans[[one.start - one.window.first, one.end - one.window.first]]
            assert (letters[0, 0], letters[1, 1]) == (start, end)
            logits = np.zeros((24, 2), np.float32)
            logits[one.start, 0] = logits[one.end, 1] = 9.0
            best = best_in(one.window, logits)
            assert (best.start, best.end) == (start, end)


def brute(window, logits):
    """The best span by all pairs of tokens."""
    counts = np.flatnonzero(window.counted(len(logits)))
    shares = np.exp(logits[counts]) / np.exp(logits[counts]).sum(axis=0)
    score = {}
    for left, start in enumerate(counts):
        for right, end in enumerate(counts):
            if start <= end < start + LONGEST and start >= window.first:
                score[start, end] = shares[left, 0] * shares[right, 1]
    (start, end), best = max(score.items(), key=lambda one: one[1])
    return window.spans[start - window.first, 0], window.spans[end - window.first, 1], best


def test_the_best_span_is_that_of_all_pairs():
    rng = np.random.default_rng(3)
    for count in (1, 5, 29, 30, 31, 80):
        spans = np.stack([np.arange(count) * 3, np.arange(count) * 3 + 2], axis=1).astype(np.int32)
        spans[rng.random(count) < 0.2] = 0
        window, logits = Window(4, spans), rng.normal(size=(count + 5, 2)).astype(np.float32)
        if spans.any():
            found = best_in(window, logits)
            assert (found.start, found.end) == brute(window, logits)[:2]
            assert found.score == pytest.approx(brute(window, logits)[2], rel=1e-5)


def test_the_best_window_answers_and_none_where_rows_may_lack():
    found = [Best(0, 1, 0.2, 0.5), Best(3, 5, 0.3, 0.4)]
    assert best_of(found, may_lack=False) == found[1]
    assert best_of(found, may_lack=True) is None
    assert best_of([*found, Best(0, 1, 0.1, 0.25)], may_lack=True) == found[1]
    assert best_of([Best(0, 0, 0.0, 1.0)], may_lack=False) is None


@pytest.mark.parametrize(
    ("given", "right", "f1", "exact"),
    [
        ("the U.S. Army", ("us army",), 1, 1),
        ("in Rome", ("Rome",), 2 / 3, 0),
        ("in Rome", ("Milan", "in  rome!"), 1, 1),
        ("a a b", ("b b",), 2 / 3, 0),
        ("", (), 1, 1),
        ("Rome", (), 0, 0),
        ("", ("Rome",), 0, 0),
        ("the", ("the",), 1, 1),
        ("Rome", ("the", "Rome"), 1, 1),
        ("theory", ("theory",), 1, 1),
    ],
)
def test_answers_are_scored_as_squads_are(given, right, f1, exact):
    arrays = as_array([given]), as_array([right])
    assert METRICS["answer_f1"](*arrays) == pytest.approx(f1)
    assert METRICS["exact_match"](*arrays) == exact


def test_held_out_windows_are_of_other_contexts(tokenizer):
    windows, ids = [], []
    contexts = [f"w1 w2 w3 w4 w{number // 2}" for number in range(60)]
    for context in contexts:
        found = cut(tokenizer, "q", context, max_length=7, stride=1)
        ids += [row for row, _ in found]
        windows.append([window for _, window in found])
    labels = labels_of(KIND.blank(np.zeros(1), 60), contexts, windows, WindowRule())
    learned, held = EncodedTokens(ids, None, labels, 0, per_token=True).hold_out(if_asked=True)
    sides = [{one.row.context for one in part.labels} for part in (learned, held)]
    assert not sides[0] & sides[1]
    assert len(learned) + len(held) == len(ids)
    assert len(ids) // 10 <= len(held) <= len(ids) // 10 + 8
    alone = labels_of(KIND.blank(np.zeros(1), 60), ["w1"] * 60, windows, WindowRule())
    learned, held = EncodedTokens(ids, None, alone, 0, per_token=True).hold_out(if_asked=True)
    assert (len(learned), len(held)) == (len(ids) - len(ids) // 10, len(ids) // 10)


def test_rows_in_a_cache_are_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, many())))
    task = task_of_said(Said("rows", named=False, data=path))
    plain = load_data(task, data=path)
    kept = load_data(task, data=path, cache=Cache.of_option(str(tmp_path / "cache")))
    assert list(kept.train.texts) == list(plain.train.texts)
    assert kept.train.labels.tolist() == plain.train.labels.tolist()
    assert kept.dev.sha256() == plain.dev.sha256()


def asked_of(tokenizer, rows, max_length=12, stride=4):
    """Windows of questions and contexts, of which each has some answers."""
    ids, windows = [], []
    for context, _ in rows:
        found = cut(tokenizer, "q", context, max_length=max_length, stride=stride)
        ids += [row for row, _ in found]
        windows.append([window for _, window in found])
    contexts, answers = zip(*rows, strict=True)
    labels = labels_of(as_array(answers), contexts, windows, WindowRule(stride, no_answer=True))
    return EncodedTokens(ids, None, labels, 0, per_token=True)


def test_answers_that_cannot_be_found_are_counted(tokenizer):
    context = " ".join(f"w{number}" for number in range(50))
    rows = [(context, [(0, 2)]), (context, []), (context, [(0, 40)]), ("w1 w2", [(0, 5)])]
    split = Split([("q", one) for one, _ in rows], as_array([own for _, own in rows]))
    told = [*map(str, window_warnings([(split, asked_of(tokenizer, rows))], 12))]
    assert told == [
        "4 questions, 1 of them without an answer in 37 windows of at most 12 tokens",
        "answers that are whole in no window, and so are never learned: 1; a larger `max_length` or `stride` may hold them",
    ]
    rows = [(context, [(0, len(context))])]
    wide = asked_of(tokenizer, rows, max_length=60)
    split = Split([("q", context)], as_array([own for _, own in rows]))
    (_, long) = map(str, window_warnings([(split, wide)], 60))
    assert long == "answers of more than 30 tokens, which are never given: 1"


def test_the_loss_is_over_the_tokens_that_count(tokenizer):
    rows = [(" ".join(f"w{n}" for n in range(20)), [(6, 11)]), ("w1 w2 w3", []), ("w4", [(0, 2)])]
    encoded = asked_of(tokenizer, rows)
    count, rng = len(encoded), np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(count, 12, 2)).astype("f4"))
    wanted = []
    for label, row in zip(encoded.labels, logits, strict=True):
        own = row[torch.from_numpy(label.window.counted(12))]
        places = np.flatnonzero(label.window.counted(12)).tolist()
        ends = torch.tensor([places.index(label.start), places.index(label.end)])
        wanted.append(torch.nn.functional.cross_entropy(own.T, ends))
    loss = TaskLoss(KIND, encoded.labels)
    every = np.arange(count)
    assert float(loss(logits, every)) == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-5)
    parts = [every[:2], every[2:]]
    added = sum(len(one) / count * float(loss(logits[one], one)) for one in parts)
    assert added == pytest.approx(float(loss(logits, every)), rel=1e-5)
    targets = DistillationTargets(logits.numpy(), 1.0, 2.0)
    alike = TaskLoss(KIND, encoded.labels, targets)
    moved = logits + torch.full((count, 1, 2), 3.0)  # the same probabilities
    assert float(alike(moved, every)) == pytest.approx(0.0, abs=1e-5)
    assert float(alike(-moved, every)) > 0.1


def entry(**changes):
    usual = {
        "name": "asked", "file": "tasks/asked.safetensors", "sha256": "0" * 64, "kind": KIND.name,
        "labels": ("start", "end"), "metric": "answer_f1", "scores": {"answer_f1": 0.5}, "zeros": 0, "weights": 1,
        "max_length": 32, "data": {}, "training": {},
    }  # fmt: skip
    return TaskEntry(**{**usual, **changes})


def test_a_manifest_says_how_rows_are_cut():
    said = entry(requires=("stride",), config={"stride": 8, "no_answer": True})
    assert windows_of(said) == WindowRule(8, no_answer=True)
    with pytest.raises(ArtifactError, match="`asked` is a question-answering and does not require"):
        windows_of(entry())
    for odd in ({}, {"stride": -1, "no_answer": True}, {"stride": 8, "no_answer": 1}):
        with pytest.raises(ArtifactError, match="config` has the stride"):
            windows_of(entry(requires=("stride",), config=odd))


def test_a_device_refuses_a_configuration_that_does_not_say():
    usual = {"name": "x", "kind": KIND.name, "labels": ("start", "end"), "max_length": 32}
    whole = TaskConfig(**usual, pad=(0, ""), stride=8, no_answer=True)
    assert TaskConfig.from_json(whole.to_json()) == whole
    for stride in (None, -1, True):
        with pytest.raises(ExportError, match="has the stride .* for a question-answering"):
            TaskConfig(**usual, pad=(0, ""), stride=stride)
    with pytest.raises(ExportError, match="has the stride 8 for a regression"):
        TaskConfig("x", "regression", (), 32, (0, ""), stride=8)
