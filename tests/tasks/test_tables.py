from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.formats import DataError
from maskpack.tasks.data.tables import column_names, read_rows

COLUMNS = ("text", "label")


def test_columns_come_in_the_order_they_were_asked_for(write):
    path = write("a.tsv", "label\tid\ttext\n1\tx\tone\n0\ty\ttwo\n")
    assert read_rows(path, COLUMNS) == [("one", "1"), ("two", "0")]


def test_bare_quotation_marks_in_tsv_stay_in_the_text(write):
    path = write("a.tsv", 'text\tlabel\n"open\t1\nsay "so"\t0\n"\t1\n')
    assert read_rows(path, COLUMNS) == [('"open', "1"), ('say "so"', "0"), ('"', "1")]


def test_tsv_breaks_lines_at_line_feeds_only(write):
    path = write("a.tsv", "text\tlabel\na\u2028b\x0bc\x85d\t1\n")
    assert read_rows(path, COLUMNS) == [("a\u2028b\x0bc\x85d", "1")]


def test_tsv_with_windows_line_ends_and_a_byte_order_mark_reads_the_same(write):
    path = write("a.tsv", "\ufefftext\tlabel\r\none\t1\r\ntwo\t0\r\n")
    assert read_rows(path, COLUMNS) == [("one", "1"), ("two", "0")]


def test_a_last_line_without_a_line_feed_and_empty_lines_are_read_past(write):
    path = write("a.tsv", "text\tlabel\n\none\t1\n\ntwo\t0")
    assert read_rows(path, COLUMNS) == [("one", "1"), ("two", "0")]


def test_a_file_without_a_header_takes_the_names_it_is_given(write):
    path = write("a.tsv", "src\t1\t*\tone\nsrc\t0\t\ttwo\n")
    header = ("source", "label", "mark", "text")
    assert read_rows(path, COLUMNS, header=header) == [("one", "1"), ("two", "0")]


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "txt", "json"])
def test_every_ending_may_be_zipped(write, ending):
    content = {
        "tsv": "text\tlabel\none\t1\n",
        "txt": "text\tlabel\none\t1\n",
        "csv": "text,label\none,1\n",
        "jsonl": '{"text": "one", "label": 1}\n',
        "json": '{"text": "one", "label": 1}\n',
    }[ending]
    path = write(f"a.{ending}.gz", gzip.compress(content.encode()))
    assert read_rows(path, COLUMNS) == [("one", "1")]


def test_endings_are_read_whatever_their_case(write):
    assert read_rows(write("A.TSV", "text\tlabel\none\t1\n"), COLUMNS) == [("one", "1")]


def test_csv_fields_hold_commas_quotes_and_line_breaks(write):
    path = write("a.csv", 'text,label\n"one, ""two""\nthree",1\nplain,0\n')
    assert read_rows(path, COLUMNS) == [('one, "two"\nthree', "1"), ("plain", "0")]


def test_csv_with_windows_line_ends_reads_the_same(write):
    path = write("a.csv", 'text,label\r\n"one",1\r\n\r\ntwo,0\r\n')
    assert read_rows(path, COLUMNS) == [("one", "1"), ("two", "0")]


def test_json_lines_give_numbers_and_truth_values_as_labels(write):
    path = write(
        "a.jsonl",
        '{"text": "one", "label": 1, "more": null}\n\n'
        '{"label": true, "text": "two"}\n'
        '{"label": 2.5, "text": "tab\\there"}\n',
    )
    assert read_rows(path, COLUMNS) == [("one", "1"), ("two", "1"), ("tab\there", "2.5")]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
relaxed = settings(deadline=None, max_examples=60)


@relaxed
@given(rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=6))
def test_json_lines_written_as_ascii_come_back_as_they_were(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "drawn.jsonl"
    lines = [json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    assert read_rows(path, COLUMNS) == rows


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), max_size=12)


@relaxed
@given(rows=st.lists(st.tuples(plain, plain), min_size=1, max_size=6))
def test_tsv_without_quoting_comes_back_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "drawn.tsv"
    lines = ["\t".join(row) for row in rows]
    path.write_bytes("\n".join(["text\tlabel", *lines, ""]).encode())
    assert read_rows(path, COLUMNS) == rows


def test_a_blank_at_the_end_of_a_column_is_seen(write):
    with pytest.raises(DataError, match="has no column `text`") as caught:
        read_rows(write("a.csv", 'id,text ,"a, b"\n1,one,2\n'), ("text", "id"))
    assert "its columns: id, 'text ', 'a, b'; choose" in caught.value.hint


def test_a_missing_column_is_named_and_the_columns_are_listed(write):
    with pytest.raises(DataError, match="has no column `label`") as caught:
        read_rows(write("a.tsv", "text\tstars\none\t1\n"), COLUMNS)
    assert "its columns: text, stars" in caught.value.hint
    assert "label_field" in caught.value.hint


def test_an_empty_file_has_no_column(write):
    with pytest.raises(DataError, match="has no column `text`"):
        read_rows(write("a.tsv", ""), COLUMNS)


@pytest.mark.parametrize(
    ("name", "content", "header", "row", "found"),
    [
        ("a.tsv", "text\tlabel\none\t1\ntwo\n", (), 3, "1 fields, not 2"),
        ("a.csv", "text,label\none,1\n\ntwo,0\nthree\n", (), 5, "1 fields, not 2"),
        ("a.tsv", "s\t1\t*\tone\ns\t0\t*\n", ("s", "label", "m", "text"), 2, "3 fields, not 4"),
    ],
)
def test_a_row_with_too_few_fields_is_named(write, name, content, header, row, found):
    with pytest.raises(DataError, match=f"row {row} of .* has {found}"):
        read_rows(write(name, content), COLUMNS, header=header)


def test_bytes_that_are_not_utf_8_are_named_by_line_and_offset(write):
    with pytest.raises(
        DataError, match="line 3 of .* is not UTF-8: byte 0xe9 at offset 20"
    ) as caught:
        read_rows(write("a.tsv", b"text\tlabel\none\t1\ncaf\xe9\t0\n"), COLUMNS)
    assert "iconv" in caught.value.hint


def test_bytes_that_are_not_utf_8_are_found_inside_gzip_too(write):
    path = write("a.tsv.gz", gzip.compress(b"text\tlabel\n\xff\t1\n"))
    with pytest.raises(DataError, match="line 2 of .* is not UTF-8"):
        read_rows(path, COLUMNS)


@pytest.mark.parametrize("damage", ["cut short", "not gzip", "wrong checksum"])
def test_a_broken_gzip_file_is_refused_by_name(write, damage):
    whole = gzip.compress(b"text\tlabel\n" + b"one\t1\n" * 50)
    data = {
        "cut short": whole[: len(whole) // 2],
        "not gzip": b"text\tlabel\none\t1\n",
        "wrong checksum": whole[:-8] + b"\0\0\0\0" + whole[-4:],
    }[damage]
    with pytest.raises(DataError, match=r"cannot read `.*broken\.tsv\.gz`"):
        read_rows(write("broken.tsv.gz", data), COLUMNS)


def test_an_unknown_ending_is_refused_with_the_known_ones(write):
    with pytest.raises(DataError, match="has an ending that is not read") as caught:
        read_rows(write("a.xlsx", "text\tlabel\n"), COLUMNS)
    assert ".tsv" in caught.value.hint
    assert ".jsonl" in caught.value.hint


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"cannot read `.*nowhere\.tsv`"):
        read_rows(tmp_path / "nowhere.tsv", COLUMNS)


def test_a_missing_json_field_is_named_with_its_row(write):
    path = write("a.jsonl", '{"text": "one", "label": 1}\n\n{"text": "two", "stars": 0}\n')
    with pytest.raises(DataError, match="row 3 of .* has no field 'label'") as caught:
        read_rows(path, COLUMNS)
    assert caught.value.hint == "its fields: text, stars"


@pytest.mark.parametrize("line", ["{", "[1, 2]", '"text"', "7"])
def test_a_line_that_is_no_object_of_texts_is_named(write, line):
    path = write("a.jsonl", f'{{"text": "one", "label": 1}}\n{line}\n')
    with pytest.raises(DataError, match="row 2 of .* is not a JSON object"):
        read_rows(path, COLUMNS)


@pytest.mark.parametrize("content", ['text,label\n"one,1\n', 'text,label\n"one"x,1\n'])
def test_csv_with_broken_quotes_is_refused(write, content):
    with pytest.raises(DataError, match="is not valid CSV"):
        read_rows(write("a.csv", content), COLUMNS)


HALF = '{"text": "nice \\ud83d", "label": 1}'


def test_half_of_a_surrogate_pair_is_named_by_its_row(write):
    path = write("a.jsonl", '{"text": "one \\ud83d\\ude00", "label": 1}\n' + HALF + "\n")
    with pytest.raises(
        DataError, match=r"row 2 of .* has 'nice \\ud83d' in `text`, which holds half"
    ):
        read_rows(path, COLUMNS)
    assert read_rows(path, ("label",)) == [("1",), ("1",)]  # what is not asked for does no harm
    array = write("a.json", f"[{HALF}]")
    with pytest.raises(DataError, match="row 1 of .* which holds half of a surrogate pair"):
        read_rows(array, COLUMNS)
    listed = write("b.jsonl", '{"text": "one", "label": ["\\udc00"]}')
    with pytest.raises(DataError, match="row 1 of .* in `label`, which holds half") as caught:
        read_rows(listed, COLUMNS, lists=True)
    assert caught.value.hint is None


@pytest.mark.parametrize("number", ["9" * 5000, "1e999", "-" + "7" * 4301])
@pytest.mark.parametrize("form", ["{}", "[{}]"])
def test_a_number_that_nothing_holds_is_named_by_its_row(write, number, form):
    path = write("a.json", form.format(f'{{"text": "one", "label": {number}}}'))
    with pytest.raises(DataError, match=r"row 1 of .* has -?inf in `label`, expected"):
        read_rows(path, COLUMNS)
    assert read_rows(path, ("text",)) == [("one",)]


def test_a_nul_character_is_a_character(write):
    assert read_rows(write("a.jsonl", '{"text": "a\\u0000b", "label": 1}'), COLUMNS)[0][0] == "a\0b"
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        path = write(name, f"text{separator}label\na\0b{separator}1\n")
        assert read_rows(path, COLUMNS) == [("a\0b", "1")]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.csv", ["text,label", '"one, two",1', "three,0"]),
        ("a.csv", ["sep=;", "text;label", "one, two;1", "three;0"]),
        ("a.tsv", ["text\tlabel", "one, two\t1", "three\t0"]),
        ("a.jsonl", ['{"text": "one, two", "label": 1}', '{"text": "three", "label": 0}']),
    ],
)
def test_lines_may_end_as_on_any_system(write, name, lines, end):
    path = write(name, end.join([*lines, ""]))
    assert read_rows(path, COLUMNS) == [("one, two", "1"), ("three", "0")]
    assert column_names(path) == COLUMNS


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "\ufeffsep=;"])
def test_a_first_line_may_name_the_separator_as_for_a_spreadsheet(write, first):
    path = write("a.csv", f"{first}\r\ntext;label,x\r\none;1\r\n")
    assert read_rows(path, ("text", "label,x")) == [("one", "1")]
    assert column_names(path) == ("text", "label,x")


def test_a_name_of_a_column_may_be_of_two_lines(write):
    path = write("a.csv", '"text\nof all";label\r\none;1\r\n')
    assert read_rows(path, ("text\nof all", "label")) == [("one", "1")]
    assert column_names(path) == ("text\nof all", "label")


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ('text,label\n"one,1\n', 2),
        ('text,label\n\ntwo,0\n"one"x,1\n', 4),
        ('text,label\n"a\nb",1\n"one,1\n', 3),
        ("text,label\na\rb,1\n", 2),
    ],
)
def test_a_fault_of_quotes_is_named_by_its_row(write, content, row):
    with pytest.raises(DataError, match=rf"row {row} of .* is not valid CSV: [^-]*$") as caught:
        read_rows(write("a.csv", content), COLUMNS)
    assert "quotation marks" in caught.value.hint


def test_a_row_of_too_many_fields_is_refused_in_tsv_too(write):
    path = write("a.tsv", "text\tlabel\none\t1\na\ttab\t0\n")
    with pytest.raises(DataError, match="row 3 of .* has 3 fields, not 2") as caught:
        read_rows(path, COLUMNS)
    assert "tab" in caught.value.hint
    assert read_rows(path, COLUMNS, crowded=True)[1] == ("a", "tab")  # as GLUE's own files have it
