"""Rows without a label: an error, left out, or kept for the teacher; from every kind of file."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from maskpack.formats import ConfigError, DataError
from maskpack.tasks.data.splits import load_data, load_dev
from maskpack.tasks.task import TASKS, Kind, Unlabelled, find_task

FIELDS = {"text_field": "text", "label_field": "label"}
GAPS = (2, 5, 20)
"""Rows without a label, counted from 1."""


def task(unlabelled=Unlabelled.SKIP, **more):
    return find_task("mine", **FIELDS, unlabelled=unlabelled, **more)


def rows(count=40, value=lambda number: "ab"[number % 2]):
    return [(f"text {number}", value(number)) for number in range(1, count + 1)]


def table(gap, given):
    lines = [f"{text},{gap if n in GAPS else label}" for n, (text, label) in enumerate(given, 1)]
    return "\n".join(["text,label", *lines, ""])


def without_gaps(given):
    return [row for number, row in enumerate(given, 1) if number not in GAPS]


@pytest.mark.parametrize("gap", ["", " ", "NaN", "None", "null"])
def test_the_other_rows_are_those_of_a_file_without_the_gaps(gap, write, caplog):
    path = write("a.csv", table(gap, rows()))
    with pytest.raises(DataError, match=r"data row 2 of `.*a\.csv` has no label") as caught:
        load_data(task(Unlabelled.STOP), data=path)
    assert "`unlabelled` skip" in caught.value.hint
    plain = write("b.csv", "\n".join(["text,label", *map(",".join, without_gaps(rows())), ""]))
    with caplog.at_level(logging.INFO):
        data = load_data(task(), data=path)
    clean = load_data(task(Unlabelled.STOP), data=plain)
    assert data.train.sha256() == clean.train.sha256()
    assert data.dev.sha256() == clean.dev.sha256()
    assert data.held_out == clean.held_out
    assert data.train.unlabelled == (("text 2",), ("text 5",), ("text 20",))
    assert data.dev.unlabelled == ()
    assert "3 of 40 rows" in caplog.text
    assert "left out: data rows 2, 5, 20" in caplog.text


def test_many_gaps_are_counted_and_the_first_are_named(write, caplog):
    given = [(text, label if number % 2 else "") for number, (text, label) in enumerate(rows(60))]
    given = [(text, label and "xyz"[number % 3]) for number, (text, label) in enumerate(given)]
    path = write("a.csv", "\n".join(["text,label", *map(",".join, given), ""]))
    with caplog.at_level(logging.INFO):
        load_data(task(Unlabelled.TEACH), data=path)
    assert "30 of 60 rows" in caplog.text
    assert "learned from the teacher: data rows 1, 3, 5, 7, 9, 11, 13, 15, ..." in caplog.text


def test_json_may_say_null_or_nothing(write):
    lines = [
        {"text": text, "label": label} if number not in GAPS else {"text": text}
        for number, (text, label) in enumerate(rows(), 1)
    ]
    lines[4]["label"] = None
    path = write("a.jsonl", "\n".join(map(json.dumps, lines)))
    data = load_data(task(), data=path, eval_data=path)
    assert len(data.train) == len(data.dev) == 37
    assert data.dev.unlabelled == data.train.unlabelled == (("text 2",), ("text 5",), ("text 20",))
    with pytest.raises(DataError, match="row 2 of .* has no field 'label'"):
        load_data(task(Unlabelled.STOP), data=path)


def test_parquet_may_hold_null_and_nan(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    scores = [None if n in GAPS[:2] else float("nan") if n in GAPS else n / 2 for n in range(1, 41)]
    texts = [text for text, _ in rows()]
    parquet.write_table(arrow.table({"text": texts, "label": scores}), tmp_path / "a.parquet")
    data = load_data(task(kind=Kind.REGRESSION), data=tmp_path / "a.parquet")
    assert len(data.train) + len(data.dev) == 37
    assert len(data.train.unlabelled) == 3


def test_a_number_that_is_infinite_is_no_gap(write):
    path = write("a.csv", table("inf", rows(value=str)))
    with pytest.raises(DataError, match="data row 2 of .* has `inf`, not a number"):
        load_data(task(kind=Kind.REGRESSION), data=path)


def test_a_row_of_several_labels_may_have_none_and_that_is_no_gap(write):
    labels = [None if n in GAPS else [] if n == 7 else ["ab"[n % 2]] for n in range(1, 41)]
    lines = [
        {"text": text, "label": label} for (text, _), label in zip(rows(), labels, strict=True)
    ]
    path = write("a.jsonl", "\n".join(map(json.dumps, lines)))
    data = load_data(task(kind=Kind.MULTI_LABEL), data=path, eval_data=path)
    assert len(data.train) == 37
    assert data.train.labels[data.train.texts.index(("text 7",))].tolist() == [0, 0]


def test_a_class_that_datasets_does_not_know_is_a_gap(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    feature = {"names": ["no", "yes"], "_type": "ClassLabel"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": feature}
    columns = {
        "text": [t for t, _ in rows()],
        "label": [-1 if n in GAPS else n % 2 for n in range(1, 41)],
    }
    made = arrow.table(columns).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    parquet.write_table(made, tmp_path / "a.parquet")
    data = load_data(task(), data=tmp_path / "a.parquet")
    assert data.labels == ("no", "yes")
    assert len(data.train.unlabelled) == 3


def test_a_known_task_has_gaps_too(write, sentiment):
    lines = (sentiment / "train.tsv").read_text().splitlines()
    lines[3] = lines[3].split("\t")[0] + "\t"
    path = write("train.tsv", "\n".join(lines))
    known = find_task("sst2", unlabelled="skip")
    assert load_data(known, data=path).train.unlabelled == ((lines[3].strip(),),)
    with pytest.raises(DataError, match="unknown label"):
        load_data(TASKS["sst2"], data=path)


def test_a_column_without_any_label_is_refused(write):
    path = write("a.csv", "text,label\none,\ntwo,\n")
    with pytest.raises(DataError, match="none of the 2 rows of .* has a label in `label`"):
        load_data(task(), data=path)


def test_evaluation_rows_are_found_again_in_the_same_file(write):
    path = write("a.csv", table("", rows()))
    data = load_data(task(), data=path)
    again = load_dev(task(), data.labels, data=path, sha256=data.dev.sha256())
    assert again.texts == data.dev.texts
    assert len(again.unlabelled) == 3


def test_a_subset_of_the_rows_keeps_those_without_a_label(write):
    data = load_data(task(), data=write("a.csv", table("", rows())))
    few = data.limit_train(5)
    assert len(few.train) == 5
    assert few.train.unlabelled == data.train.unlabelled
    assert np.array_equal(few.in_order(("b", "a")).train.labels, 1 - few.train.labels)


def test_another_treatment_is_refused():
    with pytest.raises(ConfigError, match="no treatment `drop` of rows without a label") as caught:
        task("drop")
    assert "stop, skip, teach" in caught.value.hint
