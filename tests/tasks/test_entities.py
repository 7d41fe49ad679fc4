"""Words, tags, spans and rows with entities, in all the forms in which people have them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maskpack.formats import ArtifactError, DataError
from maskpack.runtime.tags import IGNORED, entities_in, kinds_of, tags_of
from maskpack.runtime.words import words_of
from maskpack.tasks import find_task
from maskpack.tasks.data.cells import NO_LABEL
from maskpack.tasks.data.columns import Said, task_of_said
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.data.tables import read_rows
from maskpack.tasks.data.tagged import tagged_row
from maskpack.tasks.evaluation.metrics import METRICS, entity_counts
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.entities import tags_on_words

KIND = TASK_TYPES["token-classification"]
WORDS = ["Anna", "Lee", "met", "Bob", "in", "Rome"]
SCHEMES = {
    "IOB1": ["I-per", "I-per", "O", "I-per", "O", "I-loc"],
    "IOB2": ["B-per", "I-per", "O", "B-per", "O", "B-loc"],
    "BIOES": ["B-per", "E-per", "O", "S-per", "O", "S-loc"],
    "BILOU": ["B-per", "L-per", "O", "U-per", "O", "U-loc"],
    "BMEWO's letters": ["B-per", "E-per", "O", "S-per", "O", "S-loc"],
}
SPANS = [[0, 8, "per"], [13, 16, "per"], [20, 24, "loc"]]
TEXT = " ".join(WORDS)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_marks_the_same_entities(scheme):
    row = tagged_row((json.dumps(WORDS), json.dumps(SCHEMES[scheme])), "row 1")
    assert row == (TEXT, json.dumps(SPANS))


@pytest.mark.parametrize(
    "cells",
    [
        (TEXT, json.dumps(SPANS)),
        (
            TEXT,
            json.dumps([dict(zip(("start", "end", "label"), one, strict=True)) for one in SPANS]),
        ),
        (
            TEXT,
            json.dumps(
                [{"start_offset": s, "end_offset": e, "type": k} for s, e, k in SPANS[::-1]]
            ),
        ),
        (TEXT, " ".join(SCHEMES["IOB2"])),
    ],
)
def test_spans_and_blanks_between_tags_are_read_too(cells):
    assert tagged_row(cells, "row 1") == (TEXT, json.dumps(SPANS))


def test_a_row_without_entities_and_one_without_a_label():
    assert tagged_row((TEXT, "[]"), "row 1") == (TEXT, "[]")
    assert tagged_row((json.dumps(WORDS), json.dumps(["O"] * 6)), "row 1") == (TEXT, "[]")
    assert tagged_row((json.dumps(WORDS), NO_LABEL), "row 1") == (TEXT, NO_LABEL)
    assert tagged_row(("[a] is no list", "[]"), "row 1") == ("[a] is no list", "[]")
    for cell in ("", "nan", "None", " null "):
        assert tagged_row((TEXT, cell), "row 1") == (TEXT, NO_LABEL)
    assert tagged_row((json.dumps(WORDS), json.dumps(SPANS)), "row 1") == (TEXT, json.dumps(SPANS))
    assert tagged_row((json.dumps(WORDS), "[]"), "row 1") == (TEXT, "[]")


@pytest.mark.parametrize(
    ("cells", "fact"),
    [
        ((json.dumps(WORDS), json.dumps(["O"])), "row 7 has 6 words and 1 tags"),
        ((json.dumps(["a"]), json.dumps(["NOUN"])), "row 7 has the tag `NOUN`, which is of no scheme"),
        ((json.dumps(["a"]), json.dumps(["B-"])), "row 7 has the tag `B-`, which is of no scheme"),
        (("abc", '[[1, 4, "x"]]'), "row 7 has the span 1 to 4 of `x`, its text has 3 letters"),
        (("abc", '[[2, 2, "x"]]'), "row 7 has the span 2 to 2 of `x`, its text has 3 letters"),
        (("abc", '[[0, 2, "x"], [1, 3, "y"]]'), "row 7 has spans that overlap: 0 to 2 of `x`, 1 to 3 of `y`"),
        ((json.dumps(["a", 1]), json.dumps(["O", "O"])), "row 7 holds neither words and tags nor spans"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_named(cells, fact):
    with pytest.raises(DataError) as caught:
        tagged_row(cells, "row 7")
    assert str(caught.value) == fact
    assert caught.value.hint


def test_a_broken_scheme_is_read_as_the_scorer_of_conll_reads_it():
    assert entities_in(["O", "I-a", "I-b", "I-b", "B-b"]) == [("a", 1, 1), ("b", 2, 3), ("b", 4, 4)]
    assert entities_in(["E-a", "I-a"]) == [("a", 0, 0), ("a", 1, 1)]


def test_tags_have_one_order():
    assert kinds_of(tags_of(["x", "y-z"])) == ("x", "y-z")
    for odd in ((), ("O",), ("B-x", "I-x", "O"), ("O", "B-x", "I-y")):
        assert kinds_of(odd) is None
    with pytest.raises(ArtifactError, match="expected O, B-x, I-x for each kind x"):
        KIND.check_labels(("O", "B-x"), "t")


CONLL = (
    "-DOCSTART- -X- O O\n\n# a comment\nAnna NNP B-per\nmet VBD O\n\n\n"
    "Rome\tB-loc\n#tag\tO\n\nit\tO"
)


def test_words_with_tags_in_lines(write):
    path = write("train.conll", CONLL)
    rows = read_rows(path, ("text", "label"))
    assert [tagged_row(row, "row") for row in rows] == [
        ("Anna met", '[[0, 4, "per"]]'),
        ("Rome #tag", '[[0, 4, "loc"]]'),
        ("it", "[]"),
    ]
    with pytest.raises(DataError, match="line 2 of .* holds `met` alone, expected a word and its"):
        read_rows(write("odd.conll", "Anna B-per\nmet\n"), ("text", "label"))


def lines_of(rows):
    return "\n".join(json.dumps(row) for row in rows)


@pytest.mark.parametrize(
    ("name", "text", "label", "make"),
    [
        ("rows.conll", "text", "label", None),
        ("rows.jsonl", "tokens", "ner_tags", lambda w, t, _: {"tokens": w, "ner_tags": t}),
        ("rows.jsonl", "text", "entities", lambda w, _, s: {"text": " ".join(w), "entities": s}),
    ],
)
def test_a_file_of_each_form_becomes_the_same_rows(write, name, text, label, make):
    forms = [(WORDS, SCHEMES["IOB2"], SPANS), (["no", "body"], ["O", "O"], [])] * 20
    if make is None:
        content = "\n\n".join(
            "\n".join(f"{word} {tag}" for word, tag in zip(words, tags, strict=True))
            for words, tags, _ in forms
        )
    else:
        content = lines_of(make(*form) for form in forms)
    path = write(name, content)
    options = TaskOptions(type=None if make is None else "token-classification")
    task = task_of_said(Said("names", named=False, data=path, options=options))
    assert (task.kind, task.texts, task.label) == ("token-classification", (text,), label)
    data = load_data(task, data=path)
    assert data.labels == ("O", "B-loc", "I-loc", "B-per", "I-per")
    assert len(data.train) + len(data.dev) == 40
    rows = dict(zip([row[0] for row in data.train.texts], data.train.labels, strict=True))
    assert rows == {TEXT: ((0, 8, 1), (13, 16, 1), (20, 24, 0)), "no body": ()}


def test_rows_without_any_entity_are_no_task(write):
    path = write("rows.conll", "\n\n".join(["a O"] * 20))
    task = find_task("x", text_field="text", label_field="label", kind="token-classification")
    with pytest.raises(DataError, match="no row has an entity in `label`"):
        load_data(task, data=path)


def words_in(text, pieces, numbers=None):
    """Words of pieces that follow each other in a text."""
    offsets, at = [], 0
    for piece in pieces:
        start = text.index(piece, at)
        offsets.append((start, start + len(piece)))
        at = start + len(piece)
    return words_of(text, offsets, numbers or [0] * len(pieces))


@pytest.mark.parametrize(
    ("text", "pieces", "words"),
    [
        ("Paris, now", ["Par", "is", ",", " now"], ["Paris", ",", "now"]),
        ("don't", ["don", "'", "t"], ["don", "'", "t"]),
        ("हिन्दी", ["हि", "न्दी"], ["हिन्दी"]),
        ("東京にいる", ["東京", "に", "いる"], ["東京", "に", "いる"]),
        ("a7b", ["a", "7", "b"], ["a7b"]),
    ],
)
def test_words_of_pieces_that_a_tokenizer_keeps_together(text, pieces, words):
    found = words_in(text, pieces)
    assert [text[start:end] for start, end in found.spans.tolist()] == words


def test_tokens_of_no_word_and_letters_of_a_prefix_are_left_out():
    text = "find: Rome"
    offsets = [(0, 0), (0, 4), (4, 5), (6, 10), (0, 0)]
    found = words_of(text, offsets, [None, 0, 1, 2, None], prefix=6)
    assert found.first.tolist() == [3]
    assert found.spans.tolist() == [[0, 4]]


def test_bytes_of_one_letter_are_one_word():
    assert words_of("é", [(0, 1), (0, 1)], [0, 0]).spans.tolist() == [[0, 1]]


def labels_of(*rows):
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found


def test_tags_stand_where_words_begin():
    words = words_in("New York is big", ["New", "York", "is", "big"], [0, 1, 2, 3])
    table = tags_on_words(labels_of(((0, 8, 1),)), [words], ["New York is big"], 6)
    assert table.tolist() == [[3, 4, 0, 0, IGNORED, IGNORED]]


@pytest.mark.parametrize("span", [(1, 8), (0, 5), (4, 7)])
def test_a_span_that_cuts_a_word_is_refused(span):
    words = words_in("New York is big", ["New", "York", "is", "big"], [0, 1, 2, 3])
    with pytest.raises(
        DataError, match=r"of `New York is big` cuts the word `(New|York)`"
    ) as caught:
        tags_on_words(labels_of(((*span, 0),)), [words], ["New York is big"], 6)
    assert caught.value.hint == "let spans begin and end where words do"


def test_a_span_behind_the_cut_has_no_tags():
    words = words_in("a b", ["a"], [0])
    assert tags_on_words(labels_of(((2, 3, 0),)), [words], ["a b"], 2).tolist() == [[0, IGNORED]]


def random_tags(rng, rows, tokens, kinds):
    labels = rng.integers(0, 2 * kinds + 1, (rows, tokens))
    labels[rng.random((rows, tokens)) < 0.3] = 0
    labels[rng.random((rows, tokens)) < 0.2] = IGNORED
    return labels


def test_counts_are_those_of_a_library():
    evaluate = pytest.importorskip("nervaluate").Evaluator
    rng, kinds = np.random.default_rng(5), ["x", "y", "z"]
    labels = random_tags(rng, 40, 12, 3)
    predicted = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, 7, labels.shape))
    names = np.array(tags_of(kinds))

    def spans(table):
        for row, known in zip(table, labels, strict=True):
            tags = names[row[known != IGNORED]]
            yield [{"label": k, "start": a, "end": b} for k, a, b in entities_in(tags)]

    found = evaluate([*spans(labels)], [*spans(predicted)], tags=kinds, loader="dict").evaluate()
    hits, given, true = entity_counts(predicted, labels, 3)
    for place, kind in enumerate(kinds):
        exact = found["entities"][kind]["strict"]
        assert (hits[place], given[place], true[place]) == (
            exact.correct,
            exact.actual,
            exact.possible,
        )
    whole = found["overall"]["strict"]
    for name in ("f1", "precision", "recall"):
        assert METRICS[f"entity_{name}"](predicted, labels) == pytest.approx(getattr(whole, name))


def test_metrics_where_there_is_nothing():
    none = np.zeros((2, 3), dtype=np.int64)
    assert [METRICS[f"entity_{name}"](none, none) for name in ("f1", "precision", "recall")] == [
        0,
        0,
        0,
    ]


def test_outputs_behind_the_longest_row_do_not_count():
    labels = np.array([[1, 2, IGNORED, IGNORED]])
    assert METRICS["entity_f1"](np.array([[1, 2]]), labels) == 1.0
