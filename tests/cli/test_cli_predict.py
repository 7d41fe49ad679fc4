"""`compress predict`: lines in, lines of JSON out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from maskpack.cli.predict import Columns, rows_of
from maskpack.formats import DataError
from maskpack.tasks.task import Kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("predict") / "sst2"
    tolerance = Tolerance.of(Compute.FP32)
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, Compute.FP32, tolerance, verify=False))
    return out


def lines(outcome):
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_a_line_of_json_for_each_line_of_text(main, folder, tmp_path):
    (tmp_path / "texts").write_text("the good film\r\n\nbad\n")
    found = lines(main("predict", folder, "--texts", tmp_path / "texts"))
    assert len(found) == 3
    for answer in found:
        assert answer["score"] == max(answer["scores"].values())
        assert sum(answer["scores"].values()) == pytest.approx(1.0)
    alone = lines(main("predict", folder, "--texts", tmp_path / "texts", "--batch-size", 1))
    assert [answer["label"] for answer in alone] == [answer["label"] for answer in found]


def test_texts_come_from_standard_input(main, folder, tmp_path):
    found = lines(main("predict", folder, stdin="bad\n"))
    (tmp_path / "texts").write_text("bad")
    assert found == lines(main("predict", folder, "--texts", tmp_path / "texts"))


def test_a_tab_parts_a_pair(main, folder, tmp_path):
    (tmp_path / "texts").write_text("good\tbad film\n")
    assert len(lines(main("predict", folder, "--texts", tmp_path / "texts", "--pair"))) == 1
    (tmp_path / "texts").write_text("good bad film\n")
    outcome = main("predict", folder, "--texts", tmp_path / "texts", "--pair")
    assert (outcome.code, outcome.out) == (1, "")
    assert "no tab in the line `good bad film`" in outcome.err


def test_what_is_missing_is_named(main, folder, tmp_path):
    assert "no exported task at" in main("predict", tmp_path).err
    assert "cannot read" in main("predict", folder, "--texts", tmp_path / "absent").err
    (tmp_path / "texts").write_bytes(b"\xff\xfe\n")
    assert "is not UTF-8" in main("predict", folder, "--texts", tmp_path / "texts").err


@pytest.mark.parametrize(
    ("name", "args", "content"),
    [
        ("rows.csv", [], b"body,queue\ngood film,1\n"),
        ("rows.jsonl", [], b"{}"),
        ("rows.csv.gz", [], b""),
        ("rows.txt", [], b"text,label\ngood film,1\n"),
        ("rows.tsv", ["--pair"], b"text\ttext_pair\tlabel\n"),
    ],
)
def test_a_table_is_not_taken_for_lines(main, folder, work, name, args, content):
    (work / name).write_bytes(content)
    found = main("predict", folder, "--texts", name, *args)
    assert (found.code, found.out) == (1, "")
    error, hint = found.err.splitlines()
    assert error == f"error: `{name}` is a table, not a text a line"
    assert hint.endswith(f"--data {name} --text-field COLUMN`")


def test_a_table_on_standard_input_is_noticed_by_its_first_line(main, folder):
    table = main("predict", folder, stdin='id;"Sentence";label\n1;good;0\n')
    assert "standard input is a table" in table.err
    assert len(lines(main("predict", folder, stdin="a text, a label\n"))) == 1


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_bytes_that_are_no_text_are_refused_on_standard_input_too(folder, environment, locale):
    done = subprocess.run(
        [str(Path(sys.executable).with_name("compress")), "predict", str(folder)],
        input=b"PK\x03\x04\xbf\xff\n",
        capture_output=True,
        env={**environment, "LC_ALL": locale},
        check=False,
    )
    assert done.returncode == 1, done.stderr.decode()
    assert b"error: `standard input` is not UTF-8" in done.stderr


def test_a_byte_order_mark_is_no_part_of_the_first_text(main, folder, work):
    (work / "marked").write_bytes(b"\xef\xbb\xbfgood film\n")
    (work / "bare").write_bytes(b"good film\n")
    marked, bare = (main("predict", folder, "--texts", name).json for name in ("marked", "bare"))
    assert marked == bare


def test_nothing_to_answer_is_an_error(main, folder, work):
    found = main("predict", folder)
    assert (found.code, found.out) == (1, "")
    assert "there is no text in standard input\nhint: a text a line" in found.err
    (work / "texts").write_text("")
    assert "there is no text in `texts`" in main("predict", folder, "--texts", "texts").err
    (work / "rows.csv").write_text("text\n")
    assert "`rows.csv` has no rows" in main("predict", folder, "--data", "rows.csv").err


ROWS = [("the good film", "good"), ("bad film, word1", "bad")]


def test_rows_of_a_table_come_back_with_their_own_labels(main, folder, work):
    body = "".join(f'{i},"{text}",{label}\n' for i, (text, label) in enumerate(ROWS))
    (work / "rows.csv").write_text("id,body,queue\n" + body)
    (work / "texts").write_text("\n".join(text for text, _ in ROWS))
    plain = lines(main("predict", folder, "--texts", "texts"))
    columns = ["--text-field", "body", "--label-field", "queue"]
    found = lines(main("predict", folder, "--data", "rows.csv", *columns))
    assert [one.pop("expected") for one in found] == ["good", "bad"]
    assert found == plain
    assert lines(main("predict", folder, "--data", "rows.csv", *columns[:2])) == plain


@pytest.mark.parametrize(
    ("header", "label"), [("id,Text,label", True), ("sentence,Label", True), ("id,text", False)]
)
def test_plain_columns_of_a_table_are_taken_and_said(main, folder, work, header, label):
    cells = {"id": "1", "text": "good film", "sentence": "good film", "label": "x"}
    row = ",".join(cells[name.casefold()] for name in header.split(","))
    (work / "rows.csv").write_text(f"{header}\n{row}\n")
    found = main("predict", folder, "--data", "rows.csv")
    assert found.json.get("expected") == ("x" if label else None)
    assert found.err.startswith("note: of `rows.csv` `")
    assert ("as the label" in found.err) is label


def test_pairs_of_a_table_are_pairs(main, folder, work):
    row = {"a": "good", "b": "bad film", "y": 1}
    (work / "rows.json").write_text(json.dumps([row]))
    (work / "texts").write_text("good\tbad film\n")
    columns = ["--text-field", "a", "--pair-field", "b"]
    found = main("predict", folder, "--data", "rows.json", *columns)
    assert found.json == main("predict", folder, "--texts", "texts", "--pair").json


def test_a_tab_between_labels_is_typed_as_in_fit(main, folder, work):
    shutil.copytree(folder, work / "several")
    config = json.loads((folder / "task.json").read_text())
    (work / "several" / "task.json").write_text(json.dumps({**config, "kind": "multi-label"}))
    (work / "rows.csv").write_text('body,queue\nfilm,"negative\tpositive"\n')
    columns = ["--text-field", "body", "--label-field", "queue", "--label-separator", "\\t"]
    (found,) = lines(main("predict", "several", "--data", "rows.csv", *columns))
    assert found["expected"] == ["negative", "positive"]


@pytest.mark.parametrize(
    ("args", "fact"),
    [
        (["--data", "rows.csv"], "which column of `rows.csv` is the text?"),
        (["--data", "rows.csv", "--text-field", "bdy"], "`rows.csv` has no column `bdy`"),
        (["--data", "rows.csv", "--label-field", "queue"], "need `--text-field`"),
        (["--data", "rows.csv", "--texts", "rows.csv"], "goes without `--texts`"),
        (["--data", "rows.csv", "--text-field", "body", "--pair"], "goes without `--texts` and"),
        (["--text-field", "body"], "columns are of `--data`"),
        (["--data", "none.csv", "--text-field", "body"], "cannot read `none.csv`"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(main, folder, work, args, fact):
    (work / "rows.csv").write_text("body,queue\nthe film,1\n")
    found = main("predict", folder, *args)
    assert (found.code, found.out) == (1, "")
    assert fact in found.err


@pytest.mark.parametrize(
    ("kind", "separator", "cell", "wanted"),
    [
        (Kind.CLASSIFICATION, None, "7", "7"),
        (Kind.REGRESSION, None, "2.5", 2.5),
        (Kind.MULTI_LABEL, "|", "a|b", ["a", "b"]),
        (Kind.MULTI_LABEL, "|", "", []),
        (Kind.MULTI_LABEL, None, "a", ["a"]),
    ],
)
def test_an_expected_label_is_of_the_tasks_kind(tmp_path, kind, separator, cell, wanted):
    (tmp_path / "rows.csv").write_text(f"body,queue\nx,{cell}\n")
    (row,) = rows_of(tmp_path / "rows.csv", Columns("body", None, "queue", separator), kind)
    assert row == ("x", wanted)


def test_a_list_of_labels_is_expected_as_one(tmp_path):
    (tmp_path / "rows.json").write_text('[{"body": "x", "queue": ["b", "a"]}]')
    (row,) = rows_of(tmp_path / "rows.json", Columns("body", None, "queue"), Kind.MULTI_LABEL)
    assert set(row[1]) == {"a", "b"}


def test_a_number_that_is_none_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("body,queue\nx,many\n")
    with pytest.raises(DataError, match="`many` is no number"):
        rows_of(tmp_path / "rows.csv", Columns("body", None, "queue"), Kind.REGRESSION)
