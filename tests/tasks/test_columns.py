"""Which columns are meant where nobody says so: plain names are taken, all else is asked."""

from __future__ import annotations

import doctest
import gzip
import json
import logging
from pathlib import Path

import pytest

from maskpack.formats import ConfigError, DataError
from maskpack.tasks.data import columns
from maskpack.tasks.data.columns import Said, columns_of, plain_columns, task_of_said
from maskpack.tasks.data.tables import READERS, TAGGED, column_names
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.task import TASKS, Kind

NAMES = ["body", "queue", "id"]
ROW = ["text, with a comma", "bug", "7"]


def contents(ending):
    """Bytes of a file with the columns `NAMES` and one row."""
    if ending == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        sink = arrow.BufferOutputStream()
        parquet.write_table(
            arrow.table({name: [cell] for name, cell in zip(NAMES, ROW, strict=True)}), sink
        )
        return sink.getvalue().to_pybytes()
    if ending in {".json", ".jsonl"}:
        row = dict(zip(NAMES, ROW, strict=True))
        return json.dumps([row] if ending == ".json" else row).encode()
    separator = "," if ending == ".csv" else "\t"
    cells = [f'"{cell}"' if ending == ".csv" else cell for cell in ROW]
    return f"{separator.join(NAMES)}\n{separator.join(cells)}\n".encode()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("ending", [one for one in READERS if one not in TAGGED])
def test_columns_of_every_kind_of_file_are_named(tmp_path, ending, zipped):
    path = tmp_path / f"rows{ending}{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(contents(ending)) if zipped else contents(ending))
    assert columns_of(path) == tuple(NAMES)
    (tmp_path / f"train{ending}").write_bytes(contents(ending))
    assert columns_of(tmp_path) == tuple(NAMES)


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.csv", "body;queue\na;b\n", ("body", "queue")),
        ("a.csv", "body\tqueue\r\n", ("body", "queue")),
        ("a.csv", '\ufeff"the, body",queue\n', ("the, body", "queue")),
        ("a.csv", "body\n", ("body",)),
        ("a.csv", "", ()),
        ("a.tsv", "", ()),
        ("a.jsonl", "", ()),
        ("a.json", "[]", ()),
        ("a.jsonl", '\n{"body": 1}\n', ("body",)),
    ],
)
def test_columns_of_odd_files_are_named(write, name, text, wanted):
    assert column_names(write(name, text)) == wanted


@pytest.mark.parametrize(
    ("name", "text", "fact"),
    [
        ("a.xls", "", "has an ending that is not read"),
        ("a.jsonl", "[1", "is not valid JSON"),
        ("a.jsonl", "{", "row 1 of .* is not a JSON object"),
        ("a.jsonl", "3", "row 1 of .* is not a JSON object"),
        ("a.parquet", "no", "as Parquet"),
    ],
)
def test_what_has_no_columns_is_refused(write, name, text, fact):
    with pytest.raises(DataError, match=fact):
        column_names(write(name, text))


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        columns_of(tmp_path / "none.csv")
    with pytest.raises(DataError, match="has no file `train`"):
        columns_of(tmp_path)


def test_columns_of_a_data_set_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(tmp_path / "set")
    assert columns_of(Path(f"hub:{tmp_path}/set")) == ("text", "label")


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["text", "label"], ("text", "label")),
        (["label", "sentence"], ("sentence", "label")),
        (["Text", "LABEL"], ("Text", "LABEL")),
        (["idx", "sentence1", "sentence2", "label"], ("sentence1", "sentence2", "label")),
        (["text_pair", "text", "label"], ("text", "text_pair", "label")),
        (["premise", "hypothesis", "label"], ("premise", "hypothesis", "label")),
        (["", "text", "label", "label_text"], ("text", "label")),
        (["text", "Text", "label"], None),
        (["text", "text", "label"], None),
        (["text", "title", "label"], None),
        (["text", "sentence", "label"], None),
        (["text", "labels"], None),
        (["sentence1", "label"], None),
        (["body", "queue"], None),
        (["text"], None),
        ([], None),
    ],
)
def test_plain_names_are_taken_and_no_others(names, wanted):
    assert plain_columns(names) == wanted


def test_the_examples_of_the_module_hold():
    found = doctest.testmod(columns)
    assert (found.failed, found.attempted) == (0, 5)


@pytest.fixture
def told(caplog):
    """`told(said)`: the task, and what was said about it."""
    caplog.set_level(logging.INFO, "maskpack.tasks.data.columns")

    def call(said):
        caplog.clear()
        return task_of_said(said), "\n".join(caplog.messages)

    return call


def test_a_file_with_plain_names_is_a_task_of_its_own(write, told):
    path = write("mine.csv", "idx,sentence1,Sentence2,label\n1,a,b,yes\n")
    task, words = told(
        Said("mine", named=False, data=path, options=TaskOptions(label_separator="|"))
    )
    assert (task.name, task.texts, task.label) == ("mine", ("sentence1", "Sentence2"), "label")
    assert (task.kind, task.separator) == (Kind.MULTI_LABEL, "|")
    assert words == (
        f"of `{path}` `sentence1` and `Sentence2` are taken as the text, `label` as the label"
    )


def test_a_file_with_the_name_of_a_sample_is_not_the_sample(write, told):
    path = write("tickets.csv", "text,label\na,mine\n")
    task, words = told(Said("tickets", named=False, data=path))
    assert (task.folder, task.raw_labels, task.texts) == (None, (), ("text",))
    assert "of a task of your own; the known task is `tickets`" in words


def test_a_known_task_that_somebody_names_is_that_task(write, told):
    path = write("tickets.csv", "text,label\na,mine\n")
    for name in ("tickets", "cola"):
        assert told(Said(name, data=path)) == (TASKS[name], "")
        assert told(Said(name)) == (TASKS[name], "")


@pytest.mark.parametrize(
    ("name", "header"),
    [("rte", "index\tsentence1\tsentence2\tlabel"), ("cola", "gj04\t1\t\tThe book fell.")],
)
def test_a_file_of_glue_is_known_by_its_name(write, told, name, header):
    assert told(Said(name, named=False, data=write(f"{name}.tsv", header))) == (TASKS[name], "")


@pytest.mark.parametrize("header", ["text,label", "idx,text,label"])
def test_a_table_with_the_name_of_a_task_without_a_header_has_its_own(write, told, header):
    """The known CoLA is read without a header line; that is no reason to read a table so."""
    path = write("cola.csv", f"{header}\n{header.replace('text', 'It fell.')}\n")
    task, words = told(Said("cola", named=False, data=path))
    assert (task.texts, task.label, task.header) == (("text",), "label", ())
    assert "the known task is `cola`" in words
    with pytest.raises(ConfigError, match="which columns"):
        path = write("cola.csv", "one,two,three,four\n1,2,3,4\n")
        told(Said("cola", named=False, data=path))


def test_columns_that_somebody_names_are_not_looked_for(tmp_path, told):
    columns = TaskOptions(text_field="a", label_field="b")
    said = Said("tickets", data=tmp_path / "none.csv", options=columns)
    task, words = told(said)
    assert (task.texts, task.label, words) == (("a",), "b", "")


@pytest.mark.parametrize(
    ("said", "fact", "hint"),
    [
        ({"named": False}, "which columns of `{path}` are the text and the label?", "{columns}"),
        ({"name": "tickets", "named": False}, "which columns of `{path}` are", "{columns}"),
        (
            {"name": "mine"},
            "no task `mine`, and no columns for one of your own",
            "{columns}; known",
        ),
        ({"name": "stt2"}, "no task `stt2`, and no columns", "did you mean `sst2`? {columns}; kn"),
        (
            {"options": TaskOptions(text_field="body")},
            "needs both a text field and a label field",
            "{columns}",
        ),
        (
            {"name": "rte", "options": TaskOptions(label_field="queue")},
            "needs both a text field",
            "{columns}",
        ),
        ({"options": TaskOptions(pair_field="body")}, "needs both a text field", "{columns}"),
    ],
)
def test_what_nobody_says_is_asked_with_the_columns_at_hand(write, said, fact, hint):
    path = write("t.csv", "body,queue\na,b\n")
    with pytest.raises(ConfigError) as problem:
        task_of_said(Said(**{"name": "t", "data": path, **said}))
    shown = f"`{path}` has the columns body, queue; choose `text_field` and `label_field`"
    assert fact.format(path=path) in str(problem.value)
    assert problem.value.hint.startswith(hint.format(columns=shown))


def test_a_wide_or_empty_table_is_told_in_short(write):
    for text, words in (
        (",".join(f"c{i}" for i in range(30)), "c11, 18 more; choose"),
        ("", "is empty"),
    ):
        with pytest.raises(ConfigError) as problem:
            task_of_said(Said("t", named=False, data=write("t.csv", text)))
        assert words in problem.value.hint


def test_a_task_that_nobody_knows_without_data_is_refused_as_ever():
    with pytest.raises(ConfigError, match="no task `mine`"):
        task_of_said(Said("mine"))


def test_a_blank_at_the_end_of_a_column_at_hand_is_seen(write):
    with pytest.raises(ConfigError) as problem:
        task_of_said(Said(name="mine", data=write("t.csv", "Text ,Queue\na,b\n")))
    assert "has the columns 'Text ', Queue; choose `text_field`" in problem.value.hint
