"""What a user is told of their data: each remark comes when it should, and only then."""

from __future__ import annotations

import logging

import pytest
from transformers import AutoTokenizer

from maskpack.compressor import FitRequest, fit_task
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.data_warnings import find_warnings, length_warnings
from maskpack.tasks.task import Kind, find_task
from maskpack.tasks.texts import TextPreprocessor

FIELDS = {"text_field": "text", "label_field": "label"}
OWN = find_task("mine", **FIELDS)
MANY = find_task("mine", **FIELDS, kind=Kind.MULTI_LABEL)


def rows(**counts: int) -> list[str]:
    return [f"{name} {i},{name}" for name, count in counts.items() for i in range(count)]


@pytest.fixture
def told(write):
    """A function: the remarks on rows of a file, notes and warnings apart."""

    def look(lines, *, dev=None, task=OWN):
        path = write("a.csv", "\n".join(["text,label", *lines]))
        other = None if dev is None else write("b.csv", "\n".join(["text,label", *dev]))
        found = find_warnings(load_data(task, data=path, eval_data=other))
        return [[str(one) for one in found if one.serious is serious] for serious in (False, True)]

    return look


def test_sound_data_is_counted_and_nothing_else(told):
    notes, warnings = told(rows(a=300, b=300))
    assert notes == [
        (
            "held out 60 of 600 rows (10%) for evaluation, the same share of each label, seed 0; "
            "`eval_data` gives rows of your own"
        ),
        "rows of each label, training + evaluation: a 270 + 30, b 270 + 30",
    ]
    assert warnings == []


def test_an_evaluation_file_of_its_own_is_not_called_held_out(told):
    notes, warnings = told(rows(a=60, b=60), dev=[f"x{line}" for line in rows(a=30, b=30)])
    assert len(notes) == 1
    assert warnings == []


def test_many_labels_are_told_by_their_ends(told):
    (_, counts), _ = told(rows(**{f"l{i:02}": 20 + i for i in range(12)}))
    assert counts.endswith(
        "l11 28 + 3, l10 27 + 3, l09 26 + 3, ... 6 more ..., l02 20 + 2, l01 19 + 2, l00 18 + 2"
    )


def only(found, word):
    (line,) = [one for one in found[1] if word in one]
    return line


def test_a_label_that_outnumbers_another_is_told_with_its_floor(told):
    found = told(rows(a=560, b=40))
    assert only(found, "14 times the rows") == (
        "`a` has 14 times the rows of the rarest label: always answering it is 93% accurate; "
        "judge by the metric `macro_f1`"
    )
    other = told(rows(a=560, b=40), task=OWN.with_metric("macro_f1"))
    assert "judge by" not in only(other, "14 times the rows")


def test_few_rows_are_told(told):
    found = told(rows(a=20, b=20))
    assert "training rows: 36, which is few" in only(found, "is few")
    assert "evaluation rows: 4, each is 25.0 points" in only(found, "evaluation rows")
    assert only(told(rows(a=600, b=6)), "under 8") == (
        "under 8 training rows: b (5); add rows or merge labels"
    )


def test_a_label_without_a_row_in_a_split_is_named(told):
    found = told([*rows(a=300, b=300), "once,single"])
    assert only(found, "evaluation split") == (
        "without a row in the evaluation split, and so it is not scored: single"
    )


def test_a_class_of_a_known_task_without_a_training_row_is_named(write):
    line = "a film\t{}\n"
    train = write("train.tsv", "sentence\tlabel\n" + line.format(1) * 3)
    write("dev.tsv", "sentence\tlabel\n" + line.format(0))
    texts = [str(one) for one in find_warnings(load_data(find_task("sst2"), data=train.parent))]
    assert "without a row in the training split, and so it is never learned: negative" in texts


def test_rows_on_both_sides_are_counted(told):
    dev = rows(a=30, b=30)
    found = told(rows(a=100, b=10), dev=dev)
    assert "training rows too: 40 of 60;" in only(found, "flatter")


def test_a_text_under_two_labels_is_counted(told):
    found = told([*rows(a=200, b=200), "same,a", "same,b"], dev=rows(c=0, a=0) + ["x,a"] * 50)
    assert (
        only(found, "different labels") == "training texts under different labels: 1; correct them"
    )


def test_labels_that_differ_in_case_only_are_named(told):
    found = told([f"{i} {line}" for i, line in enumerate(rows(Bug=200, bug=200))])
    assert "Bug, bug" in only(found, "letter case")


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        ("Cafe\u0301", r"Cafe\u0301"),  # decomposed
        ("Caf\u00e9\u200b", "Caf\u00e9\\u200b"),  # a space of no width
        ("\ufeffCaf\u00e9", "\\ufeffCaf\u00e9"),  # a mark of byte order
        ("Caf\u00ad\u00e9", "Caf\\xad\u00e9"),  # a soft hyphen
        ("C\u0430f\u00e9", "C\\u0430f\u00e9"),  # Cyrillic
    ],
)
def test_labels_that_look_alike_are_spelled_out(told, other, shown):
    lines = [f"{i},{label}" for label in ("Caf\u00e9", "b", other) for i in range(60)]
    line = only(told(lines), "look alike")
    start, end = "labels look alike but are different texts: ", "; make them one"
    named = line.removeprefix(start).removesuffix(end).split(" and ")
    assert sorted(named) == sorted(["`Caf\u00e9`", f"`{shown}`"])


@pytest.mark.parametrize("other", ["a\u00a0", " a", "a "])
def test_blanks_around_a_label_are_no_part_of_it(told, other):
    (_, counts), warnings = told([*rows(a=300, b=300), *(f"x{i},{other}" for i in range(60))])
    assert "a 324 + 36" in counts
    assert warnings == []


def test_empty_texts_are_counted(told):
    assert "an empty text: 3;" in only(
        told([*rows(a=300, b=300), *[",a"] * 3], dev=rows(c=0, a=60)), "empty text"
    )


def test_several_labels_that_are_never_several_are_doubted(told):
    assert "is something else than this separator" in only(
        told(rows(a=300, b=300), task=MANY), "more than one label"
    )


def test_numbers_are_held_out_at_random_and_not_counted(told):
    lines = [f"t{i},{i / 7:.3f}" for i in range(600)]
    (note,), warnings = told(lines, task=find_task("mine", **FIELDS, kind=Kind.REGRESSION))
    assert "drawn at random" in note
    assert warnings == []


@pytest.mark.parametrize(
    ("longest", "told"),
    [
        (512, "a `max_length` of 24 would hold all of them"),
        (16, "a `max_length` of 16 would hold 1 of them, and the model reads no more"),
        (9, "a `max_length` of 9 would hold none of them, and the model reads no more"),
        (8, "it reads no more"),
    ],
)
def test_texts_that_are_cut_are_counted_with_a_length_that_would_do(
    tiny_model, write, longest, told
):
    lines = ["good " * 8 + ",a", "bad " * 20 + ",b", *rows(a=40, b=40)]
    data = load_data(OWN, data=write("a.csv", "\n".join(["text,label", *lines])))
    preprocessor = TextPreprocessor(AutoTokenizer.from_pretrained(tiny_model), token_types=True)
    full_lengths = preprocessor.full_lengths
    splits = [(split, preprocessor.encode(split, max_length=8)) for split in (data.train, data.dev)]
    (remark,) = length_warnings(full_lengths, splits, max_length=8, longest=longest)
    assert str(remark) == f"2 of 82 texts are longer than 8 tokens and are cut; {told}"
    splits = [
        (split, preprocessor.encode(split, max_length=30)) for split in (data.train, data.dev)
    ]
    assert length_warnings(full_lengths, splits, max_length=30, longest=512) == []


def test_a_run_hands_its_remarks_to_the_log(tiny_model, sentiment, quick, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="maskpack"):
        fit_task(
            FitRequest(
                str(tiny_model), find_task("sst2"), tmp_path / "a", quick(steps=1), data=sentiment
            )
        )
    levels = {record.levelno: record.getMessage() for record in caplog.records}
    assert "negative 48 + 16" in levels[logging.INFO]
    assert "evaluation rows: 32, each" in levels[logging.WARNING]
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == len(set(told)), "each is said once"
