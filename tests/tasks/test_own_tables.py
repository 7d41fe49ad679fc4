"""Tables as people have them: JSON arrays, semicolons, Parquet, and what is wrong with them."""

from __future__ import annotations

import gzip
import json
import sys

import pytest

from maskpack.cli.hints import in_commands
from maskpack.formats import DataError, MissingPackageError
from maskpack.tasks.data.cells import as_text
from maskpack.tasks.data.tables import read_rows

COLUMNS = ("text", "label")
ROWS = [{"text": "one", "label": "a", "more": 1}, {"text": "two", "label": "b", "more": None}]
READ = [("one", "a"), ("two", "b")]


@pytest.fixture
def parquet(tmp_path):
    """A function: columns as a Parquet file."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    def put(columns, name="a.parquet"):
        table = columns if isinstance(columns, arrow.Table) else arrow.table(columns)
        writer.write_table(table, tmp_path / name)
        return tmp_path / name

    return put


def test_json_may_be_one_array_of_objects(write):
    assert read_rows(write("a.json", json.dumps(ROWS, indent=1)), COLUMNS) == READ
    assert read_rows(write("b.json", "\ufeff" + json.dumps(ROWS)), COLUMNS) == READ


def test_a_json_array_that_is_cut_short_is_refused(write):
    with pytest.raises(DataError, match="is not valid JSON"):
        read_rows(write("a.json", json.dumps(ROWS, indent=1)[:-4]), COLUMNS)


def test_an_item_of_a_json_array_that_is_no_object_is_named(write):
    with pytest.raises(DataError, match="row 2 of .* is not a JSON object"):
        read_rows(write("a.json", json.dumps([ROWS[0], "two"])), COLUMNS)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_any_usual_separator_is_read(write, separator):
    lines = [
        separator.join(cells) for cells in (("id", "text", "label"), *[("1", *r) for r in READ])
    ]
    assert read_rows(write("a.csv", "\n".join(lines)), COLUMNS) == READ


def test_a_byte_order_mark_before_a_quoted_name_is_no_part_of_it(write):
    path = write("a.csv", '\ufeff"text","label"\n"one","a"\n"two","b"\n')
    assert read_rows(path, COLUMNS) == READ


def test_a_csv_row_with_too_many_fields_is_named(write):
    with pytest.raises(DataError, match="row 3 of .* has 3 fields, not 2") as caught:
        read_rows(write("a.csv", "text,label\none,a\nwell, two,b\n"), COLUMNS)
    assert "quotation marks" in caught.value.hint


def test_a_long_mail_is_no_error_of_csv(write):
    mail = "word " * 60_000
    assert read_rows(write("a.csv", f"text,label\n{mail},a\n"), COLUMNS) == [(mail, "a")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "Body,label\nx,a\n"),
        ("a.tsv", "Body\tlabel\nx\ta\n"),
        ("a.json", '[{"Body": "x"}]'),
    ],
)
def test_the_nearest_column_is_offered(write, name, content):
    with pytest.raises(DataError) as caught:
        read_rows(write(name, content), ("body", "label"))
    assert caught.value.hint.startswith("did you mean `Body`? its ")


@pytest.mark.parametrize(
    ("cell", "shown"), [("null", "null"), ("[]", r"\[\]"), ("NaN", "nan"), ('{"a": 1}', "{'a': 1}")]
)
def test_a_cell_that_is_no_text_is_named_with_its_row_and_column(write, cell, shown):
    path = write("a.jsonl", f'{{"text": "one", "label": 1}}\n{{"text": {cell}, "label": 1}}\n')
    with pytest.raises(DataError, match=f"row 2 of .* has {shown} in `text`, expected a text"):
        read_rows(path, COLUMNS)


def test_a_list_of_labels_is_taken_only_where_it_may_be_one(write):
    path = write("a.jsonl", '{"text": "one", "label": ["a", "b"]}\n{"text": "two", "label": []}\n')
    assert read_rows(path, COLUMNS, lists=True) == [("one", '["a", "b"]'), ("two", "[]")]
    with pytest.raises(DataError, match=r"row 1 .* in `label`, expected a text") as caught:
        read_rows(path, COLUMNS)
    assert "multi-label" in caught.value.hint


def test_a_list_within_a_list_is_no_label():
    with pytest.raises(TypeError):
        as_text([["a"]], lists=True)


def test_parquet_is_read_by_column(parquet):
    path = parquet({"label": ["a", "b"], "n": [1, 2], "text": ["one", "two"]})
    assert read_rows(path, COLUMNS) == READ
    assert read_rows(path, ("text", "n")) == [("one", "1"), ("two", "2")]


def test_zipped_parquet_is_read_too(parquet, write):
    path = parquet({"text": ["one", "two"], "label": ["a", "b"]})
    assert read_rows(write("b.parquet.gz", gzip.compress(path.read_bytes())), COLUMNS) == READ


def test_lists_of_labels_come_out_of_parquet(parquet):
    path = parquet({"text": ["one", "two"], "label": [["a", "b"], []]})
    assert read_rows(path, COLUMNS, lists=True) == [("one", '["a", "b"]'), ("two", "[]")]


def test_class_numbers_of_a_parquet_file_that_datasets_wrote_become_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [1, 0]}, features=features)
    rows.to_parquet(str(tmp_path / "a.parquet"))
    assert read_rows(tmp_path / "a.parquet", COLUMNS) == [("one", "yes"), ("two", "no")]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_an_empty_cell_of_parquet_is_named(parquet, missing):
    path = parquet({"text": ["one", "two"], "label": [1.0, missing]})
    with pytest.raises(DataError, match="row 2 of .* in `label`, expected a text or a number"):
        read_rows(path, COLUMNS)


def test_a_file_that_is_no_parquet_is_refused(write):
    with pytest.raises(DataError, match=r"cannot read `.*a\.parquet` as Parquet"):
        read_rows(write("a.parquet", "text,label\n"), COLUMNS)


def test_a_missing_column_of_parquet_is_named_with_the_nearest(parquet):
    with pytest.raises(DataError, match="has no column `txt`") as caught:
        read_rows(parquet({"text": ["one"], "label": ["a"]}), ("txt", "label"))
    assert caught.value.hint.startswith("did you mean `text`? its columns: text, label")


def test_parquet_without_its_package_gives_a_hint(monkeypatch, write):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match="needs the package pyarrow") as caught:
        read_rows(write("a.parquet", b"PAR1"), COLUMNS)
    assert caught.value.hint == 'pip install "maskpack[data]"'


def test_a_spreadsheets_utf_16_is_named(write):
    with pytest.raises(DataError, match="is not UTF-8") as caught:
        read_rows(write("a.csv", "text,label\none,a\n".encode("utf-16")), COLUMNS)
    assert "iconv -f utf-16" in caught.value.hint


def test_a_column_that_is_there_twice_is_refused(write):
    path = write("a.csv", "text,text,label\none,two,a\n")
    with pytest.raises(DataError, match="has the column `text` more than once") as caught:
        read_rows(path, COLUMNS)
    # the command line has other words for "rename one": those are of tasks
    assert in_commands(caught.value.advice) == "give each column of the file a name of its own"
    assert read_rows(path, ("label",)) == [("a",)]


def test_bytes_in_parquet_that_are_no_text_are_named_by_their_row(parquet):
    arrow = pytest.importorskip("pyarrow")
    path = parquet({"text": [b"one", b"two"], "label": ["a", "b"]})
    with pytest.raises(DataError, match="row 1 of .* has b'one' in `text`, expected a text"):
        read_rows(path, COLUMNS)
    broken = arrow.Array.from_buffers(
        arrow.string(),
        2,
        [None, arrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), arrow.py_buffer(b"o\xff")],
    )
    path = parquet(arrow.table({"text": broken, "label": ["a", "b"]}))
    with pytest.raises(DataError, match="row 2 of .* has a cell in `text` that cannot be read"):
        read_rows(path, COLUMNS)
