"""Labels of one's own data: names, several a row, held-out rows of each, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.formats import ConfigError, DataError
from maskpack.tasks.data.held_out import groups_of, held_out_places
from maskpack.tasks.data.splits import load_data, load_dev
from maskpack.tasks.data_warnings import find_warnings
from maskpack.tasks.task import Kind, find_task

FIELDS = {"text_field": "text", "label_field": "label"}
OWN = find_task("mine", **FIELDS)
MANY = find_task("mine", **FIELDS, kind=Kind.MULTI_LABEL)
BARS = find_task("mine", **FIELDS, kind=Kind.MULTI_LABEL, separator="|")


def csv(*rows: str) -> str:
    return "\n".join(["text,label", *rows, ""])


@pytest.mark.parametrize(
    ("task", "cell", "labels"),
    [
        (OWN, "a|b", ("a|b",)),
        (BARS, "b | a|b|", ("b", "a")),
        (BARS, "", ()),
        (MANY, "a|b", ("a|b",)),
        (MANY, '["b", "a", "b"]', ("b", "a")),
        (MANY, "['b', 'it\\'s']", ("b", "it's")),  # as pandas writes lists
        (BARS, "[]", ()),
        (MANY, "[a, b", ("[a, b",)),
        (MANY, "[1, 2]", ("1", "2")),
    ],
)
def test_a_cell_says_which_labels_a_row_has(task, cell, labels):
    assert task.type.cell_labels(cell, task.separator) == labels


def test_several_labels_a_row_become_a_table_of_0_and_1(write):
    path = write("a.csv", csv("one,red|blue", "two,", "three,green"))
    data = load_data(BARS, data=path, eval_data=path)
    assert (data.labels, data.outputs) == (("blue", "green", "red"), 3)
    assert data.train.labels.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert data.train.labels.dtype == np.int8
    lines = [
        json.dumps({"text": t, "label": ls})
        for t, ls in (("one", ["red", "blue"]), ("two", []), ("three", ["green"]))
    ]
    other = write("a.jsonl", "\n".join(lines))
    assert load_data(MANY, data=other, eval_data=other).train.sha256() == data.train.sha256()


def test_an_unknown_label_among_several_is_named(write):
    train, dev = write("a.csv", csv("one,a|b")), write("b.csv", csv("one,a", "two,b|c"))
    with pytest.raises(DataError, match="data row 2 of the evaluation split .* label `c`"):
        load_data(BARS, data=train, eval_data=dev)


def test_labels_keep_their_names_without_the_blanks_around_them(write):
    path = write("a.csv", csv("one, billing", "two,billing ", "three,legal stuff"))
    assert load_data(OWN, data=path, eval_data=path).labels == ("billing", "legal stuff")


def test_rare_labels_are_on_both_sides_of_the_split(write):
    rows = [f"t{i},{'common' if i % 15 else 'rare'}" for i in range(90)] + ["last,single"]
    data = load_data(OWN, data=write("a.csv", csv(*rows)))
    assert data.labels == ("common", "rare", "single")
    assert Counter(data.dev.labels.tolist()) == {0: 8, 1: 1}
    assert 2 in data.train.labels
    assert (data.held_out.rows, data.held_out.total, data.held_out.by_label) == (9, 91, True)


def test_a_row_of_several_labels_counts_for_its_rarest():
    assert groups_of([["a", "b"], ["a"], ["a"], ["b", "c"], []]) == ["b", "a", "a", "c", ""]


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_every_group_of_two_or_more_is_on_both_sides_and_the_share_is_kept(sizes):
    groups = [str(group) for group, size in enumerate(sizes) for _ in range(size)]
    places = held_out_places(groups)
    held = Counter(groups[place] for place in places)
    assert len(set(places.tolist())) == len(places)
    for group, size in enumerate(sizes):
        kept = held[str(group)]
        assert kept >= 1 if size >= 2 else kept == 0
        assert kept <= max(1, size // 10 + 1)
    assert len(places) >= len(groups) // 10 - sum(size == 1 for size in sizes)


def test_rows_held_out_of_several_labels_can_be_read_again(write):
    rows = [
        f"t{i},{'|'.join(name for name, n in (('a', 2), ('b', 3), ('c', 7)) if i % n == 0)}"
        for i in range(60)
    ]
    path = write("a.csv", csv(*rows))
    data = load_data(BARS, data=path)
    wanted = data.dev.sha256()
    assert load_dev(BARS, data.labels, data=path, sha256=wanted).sha256() == wanted
    assert data.dev.labels.any(axis=0).all()


def test_a_file_of_too_few_rows_has_nothing_to_hold_out(write):
    path = write("a.csv", csv("one,a", "two,b"))
    assert len(load_dev(OWN, ("a", "b"), data=path, sha256="of rows held out")) == 2


@pytest.mark.parametrize("label", ["", "  ", "nan", "NaN", "None"])
def test_a_row_without_a_label_is_named(write, label):
    path = write("a.csv", csv("one,a", f'two,"{label}"', "three,b"))
    with pytest.raises(DataError, match=r"data row 2 of `.*a\.csv` has no label in `label`"):
        load_data(OWN, data=path)


def test_a_column_of_text_that_is_empty_is_refused(write):
    with pytest.raises(DataError, match="column `text` of .* is empty in every row") as caught:
        load_data(OWN, data=write("a.csv", csv(",a", " ,b")))
    assert "text_field" in caught.value.hint


@pytest.mark.parametrize("task", [OWN, BARS])
def test_a_column_of_one_label_is_refused(write, task):
    path = write("a.csv", csv("one,a", "two,a"))
    with pytest.raises(DataError, match="column `label` holds one label only: a"):
        load_data(task, data=path, eval_data=path)


def test_a_column_without_any_label_is_refused(write):
    path = write("a.csv", csv("one,", "two,"))
    with pytest.raises(DataError, match="holds one label only: none at all"):
        load_data(BARS, data=path, eval_data=path)


def test_a_guessed_column_of_numbers_or_names_of_rows_is_no_label(write):
    path = write("a.csv", csv(*(f"t{i},{i / 7:.3f}" for i in range(80))))
    with pytest.raises(DataError, match="`label` holds 80 labels in 80 rows, such as") as caught:
        load_data(replace(OWN, guessed=True), data=path, eval_data=path)
    assert "regression" in caught.value.hint
    with pytest.raises(DataError, match="`label` holds 80 labels in 80 rows, such as"):
        load_data(OWN, data=path)  # nothing could be held out


def test_a_column_that_the_user_named_may_have_a_label_for_each_row(write):
    path = write("a.csv", csv(*(f"t{i},l{i}" for i in range(77))))
    data = load_data(OWN, data=path, eval_data=path)
    assert len(data.labels) == 77
    (told,) = [str(one) for one in find_warnings(data) if "77 labels in 77" in str(one)]
    assert told == (
        "column `label` holds 77 labels in 77 training rows; if they are none, choose another "
        "`label_field`; a number is of the kind `regression`"
    )


def test_numbers_of_one_value_have_one_order(write):
    path = write("a.csv", csv("one,1", "two,01", "three,001", "four,10", "five,2", "six,-1"))
    assert load_data(OWN, data=path, eval_data=path).labels == ("-1", "001", "01", "1", "2", "10")


def test_a_label_of_more_digits_than_a_number_has_is_a_word(write):
    huge = "9" * 5000
    path = write("a.csv", csv(f"one,{huge}", "two,1"))
    assert load_data(OWN, data=path, eval_data=path).labels == ("1", huge)


def test_half_a_letter_in_a_list_of_labels_is_named(write):
    path = write("a.csv", csv("one,a", """two,"[""b"", ""\\ud83d""]" """.strip()))
    with pytest.raises(
        DataError, match=r"data row 2 of .* has '\\ud83d' in `label`, which holds half"
    ):
        load_data(MANY, data=path)


def test_half_a_letter_in_the_name_of_a_column_is_refused():
    with pytest.raises(ConfigError, match=r"'\\udcff' holds half of a surrogate pair"):
        find_task("mine", text_field="text", label_field="\udcff")


def test_an_unknown_label_that_looks_like_a_known_one_is_spelled_out(write):
    train, dev = write("a.csv", csv("one,pay", "two,b")), write("b.csv", csv("one,p\u0430y"))
    with pytest.raises(DataError, match="unknown label") as caught:
        load_data(OWN, data=train, eval_data=dev)
    assert caught.value.hint == r"it looks like `pay`, and is `p\u0430y`; labels: b, pay"


def test_the_labels_may_stand_in_another_order(write):
    path = write("a.csv", csv("one,a", "two,b", "three,c", "four,a"))
    data = load_data(OWN, data=path, eval_data=path)
    other = data.in_order(("c", "a", "b"))
    assert [other.labels[one] for one in other.dev.labels] == ["a", "b", "c", "a"]
    assert data.in_order(data.labels) is data
    path = write("b.csv", csv("one,a|c", "two,b"))
    several = load_data(BARS, data=path, eval_data=path).in_order(("c", "a", "b"))
    assert several.train.labels.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_what_predict_expects_of_a_row_is_a_label_of_the_task(write):
    from maskpack.cli.asked import Columns, rows_of
    from maskpack.runtime.task import TaskConfig

    path = write("rows.csv", csv('a,"good "', "b, bad", "c,good", "d,bad"))
    found = load_data(OWN, data=path, eval_data=path)
    config = TaskConfig("mine", "classification", found.labels, 16, (0, ""))
    rows = rows_of(path, Columns("text", label="label"), config)
    assert [label for _, label in rows] == ["good", "bad", "good", "bad"]
    assert found.labels == ("bad", "good")
