"""`compress predict`: lines in, lines of JSON out."""

from __future__ import annotations

import csv
import doctest
import io
import json
import os
import select
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from maskpack.cli import lines as lines_module
from maskpack.cli.asked import Columns, rows_of
from maskpack.cli.lines import arriving, byte_lines, decoded
from maskpack.formats import ConfigError, DataError
from maskpack.runtime import Session
from maskpack.runtime.task import TaskConfig
from maskpack.tasks.task import Kind


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("predict") / "sst2"
    tolerance = Tolerance.of(Compute.FP32)
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, Compute.FP32, tolerance, verify=False))
    return out


@pytest.fixture(scope="module")
def paired(folder, tmp_path_factory):
    """The same graph as that of a task on pairs."""
    out = tmp_path_factory.mktemp("paired") / "pairs"
    shutil.copytree(folder, out)
    config = json.loads((out / "task.json").read_text())
    (out / "task.json").write_text(json.dumps({**config, "texts": 2}))
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


def test_long_texts_are_cut_off_with_a_note_or_read_in_windows(main, folder, paired):
    texts = ["good", "the film was bad " * 20]
    cut = main("predict", folder, "--batch-size", 1, stdin="\n".join(texts))
    assert all("windows" not in answer for answer in lines(cut))
    note = "note: `sst2` reads 16 tokens of a row, not what stands behind them in longer ones; `--windows` reads all of it"
    assert cut.err.splitlines() == [note]
    whole = main("predict", folder, "--batch-size", 1, "--windows", stdin="\n".join(texts))
    found = lines(whole)
    assert whole.err == ""
    assert [answer["windows"] for answer in found] == [1, 8]
    assert found[0] == {**lines(cut)[0], "windows": 1}
    asked = {"windows": True, "batch_size": 1, "stride": 0}
    (want,) = Session(folder).predict(texts[1:], **asked)
    fewer = main("predict", folder, "--windows", "--stride", 0, "--batch-size", 1, stdin=texts[1])
    assert lines(fewer) == [want.to_dict()]
    assert want.windows == 6
    wrong = main("predict", folder, "--stride", 3, stdin="good")
    assert wrong.code == 1
    assert "hint: give `--windows`" in wrong.err
    wrong = main("predict", paired, "--windows", "--pair", stdin="good\tbad")
    assert wrong.code == 1
    assert "`sst2` reads pairs of texts, and joins no windows of a text" in wrong.err
    assert "leave `--windows` out" in wrong.err
    long = main("predict", paired, "--pair", stdin=f"good\t{texts[1]}")
    assert "learn it with a larger `--max-length`" in long.err


def of_texts(folder, out, texts):
    """A copy of an exported folder whose configuration names another number of texts; None: as older releases."""
    shutil.copytree(folder, out)
    config = json.loads((out / "task.json").read_text())
    del config["texts"]
    (out / "task.json").write_text(json.dumps({**config, **({"texts": texts} if texts else {})}))
    return out


def test_a_tab_parts_a_pair(main, paired, tmp_path):
    (tmp_path / "texts").write_text("good\tbad film\n")
    assert len(lines(main("predict", paired, "--texts", tmp_path / "texts", "--pair"))) == 1


def test_a_bad_line_gets_an_error_and_the_others_their_answers(main, paired, tmp_path):
    (tmp_path / "texts").write_text("good\tbad film\ngood bad film\nbad\tfilm\n")
    outcome = main("predict", paired, "--texts", tmp_path / "texts", "--pair")
    first, bad, last = map(json.loads, outcome.out.splitlines())
    assert (outcome.code, "label" in first, "label" in last) == (1, True, True)
    assert bad == {"error": "no tab in the line `good bad film`, expected a pair of texts"}
    assert outcome.err.splitlines() == [
        "error: row 2: no tab in the line `good bad film`, expected a pair of texts",
        "error: 1 of 3 rows were not answered",
    ]


def cells(outcome):
    """Rows of CSV."""
    return list(csv.reader(outcome.out.splitlines()))


def test_every_row_of_csv_has_the_cells_of_its_header(main, paired, work):
    (work / "texts").write_text("good\tbad film\ngood, bad film\nbad\tfilm\n")
    outcome = main("predict", paired, "--texts", "texts", "--pair", "--csv")
    first, last = lines(main("predict", paired, "--pair", stdin="good\tbad film\nbad\tfilm\n"))
    assert outcome.code == 1
    assert cells(outcome) == [
        ["text", "pair", "sst2"],
        ["good", "bad film", first["label"]],
        ["good, bad film", "", ""],
        ["bad", "film", last["label"]],
    ]


def test_a_line_break_in_a_text_stays_in_its_cell(main, folder, work):
    texts = ["line one\r\nline two", "good\nfilm", "bad\rfilm"]
    (work / "rows.json").write_text(json.dumps([{"text": text} for text in texts]))
    found = main("predict", folder, "--data", "rows.json", "--csv")
    told = list(csv.reader(io.StringIO(found.out, newline="")))
    assert [row[0] for row in told[1:]] == texts
    assert {len(row) for row in told} == {2}


def test_an_answer_that_is_no_number_is_the_rows_error(main, folder, work, monkeypatch):
    predict = Session.predict_all_each

    def overflow(self, texts, **options):
        found = predict(self, texts, **options)
        for name, answer in found[0].items():
            found[0][name] = replace(answer, score=float("nan"))
        return found

    monkeypatch.setattr(Session, "predict_all_each", overflow)
    found = main("predict", folder, stdin="good film\nbad film\n")
    first, second = (
        json.loads(line, parse_constant=pytest.fail) for line in found.out.splitlines()
    )
    assert found.code == 1
    assert first == {"error": "the graph's answer is not a number"}
    assert set(second) == {"label", "score", "scores"}
    assert "error: row 1: the graph's answer is not a number" in found.err


def test_texts_of_a_row_that_a_graph_cannot_answer_stay(main, paired, work, monkeypatch):
    def fail(*_):
        raise RuntimeError("no room")

    monkeypatch.setattr("maskpack.runtime.answers.run", fail)
    (work / "rows.csv").write_text("a,b,y\ngood,bad film,1\n")
    columns = ["--text-field", "a", "--pair-field", "b", "--label-field", "y"]
    outcome = main("predict", paired, "--data", "rows.csv", *columns, "--csv")
    assert outcome.code == 1
    assert cells(outcome) == [
        ["text", "pair", "sst2", "expected"],
        ["good", "bad film", "", "positive"],
    ]


def test_the_header_of_csv_is_of_the_rows_that_were_read(main, folder, work):
    """An older release did not say how many texts its task reads."""
    old = of_texts(folder, work / "old", None)
    (work / "rows.csv").write_text("text,text_pair\ngood,film\n")
    found = cells(main("predict", old, "--data", "rows.csv", "--csv"))
    assert [row[:2] for row in found] == [["text", "pair"], ["good", "film"]]
    assert [len(row) for row in found] == [3, 3]


def test_nothing_is_printed_before_rows_are_refused(main, folder, work):
    (work / "lines").write_text("good\tfilm\n")
    outcome = main("predict", folder, "--texts", "lines", "--pair", "--csv")
    assert (outcome.code, outcome.out) == (1, "")


def test_a_label_is_expected_in_csv_too(main, folder, work):
    body = "".join(f'"{text}",{label}\n' for text, label in ROWS)
    (work / "rows.csv").write_text("body,queue\n" + body)
    columns = ["--text-field", "body", "--label-field", "queue"]
    answers = lines(main("predict", folder, "--data", "rows.csv", *columns))
    found = cells(main("predict", folder, "--data", "rows.csv", *columns, "--csv"))
    assert found == [
        ["text", "sst2", "expected"],
        *([text, one["label"], label] for (text, label), one in zip(ROWS, answers, strict=True)),
    ]
    (work / "plain.csv").write_text("text,label\n" + body)  # found by its name
    assert cells(main("predict", folder, "--data", "plain.csv", "--csv")) == found
    alone = cells(main("predict", folder, "--data", "rows.csv", *columns[:2], "--csv"))
    assert alone == [row[:2] for row in found]


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [("multi-label", "negative;positive", "negative|positive"), ("multi-label", "", "")],
)
def test_several_expected_labels_share_a_cell(main, folder, work, kind, given, wanted):
    shutil.copytree(folder, work / "several")
    config = json.loads((folder / "task.json").read_text())
    (work / "several" / "task.json").write_text(json.dumps({**config, "kind": kind}))
    (work / "rows.csv").write_text(f"body,queue\nfilm,{given}\n")
    columns = ["--text-field", "body", "--label-field", "queue", "--label-separator", ";"]
    found = cells(main("predict", "several", "--data", "rows.csv", *columns, "--csv"))
    assert [row[2] for row in found] == ["expected", wanted]


@pytest.mark.parametrize("name", ["text", "pair", "expected"])
def test_a_task_named_as_a_column_of_csv_is_refused(main, folder, work, name):
    shutil.copytree(folder, work / "own")
    config = json.loads((folder / "task.json").read_text())
    (work / "own" / "task.json").write_text(json.dumps({**config, "name": name}))
    (work / "texts").write_text("good\n")
    for every in ((), ("--all",)):
        outcome = main("predict", "own", *every, "--texts", "texts", "--csv")
        assert (outcome.code, outcome.out) == (1, "")
        assert f"the column of a task cannot be named `{name}`" in outcome.err
        assert lines(main("predict", "own", *every, "--texts", "texts"))


def test_a_row_that_no_tokenizer_reads_is_named_before_any_is_answered(main, folder, work):
    (work / "rows.json").write_text('[{"text": "good"}, {"text": "\\ud800"}, {"text": "bad"}]')
    outcome = main("predict", folder, "--data", "rows.json", "--text-field", "text")
    assert (outcome.code, outcome.out) == (1, "")
    assert "row 2 of `rows.json`" in outcome.err


@pytest.mark.parametrize("old", [False, True])
def test_rows_of_too_few_or_too_many_texts_are_refused(main, folder, work, old):
    pairs, ones = (
        of_texts(folder, work / name, None if old else n) for name, n in (("p", 2), ("o", 1))
    )
    (work / "lines").write_text("good\tfilm\n")
    (work / "rows.csv").write_text("text,text_pair\ngood,film\n")
    for target, args, fact, advice in (
        (pairs, ("--texts", "lines"), "the lines are one text a row", "give it with `--pair`"),
        (ones, ("--texts", "lines", "--pair"), "the lines are a pair", "leave `--pair` out"),
        (pairs, ("--data", "rows.csv", "--text-field", "text"), "are one text", "`--pair-field`"),
        (ones, ("--data", "rows.csv"), "the rows of `rows.csv` are a pair", "`--pair-field` out"),
    ):
        outcome = main("predict", target, *args)
        if old:  # an older release did not say how many texts its task reads
            assert len(lines(outcome)) == 1
        else:
            assert (outcome.code, outcome.out) == (1, "")
            assert fact in outcome.err
            assert advice in outcome.err


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
        ("rows.txt", [], b"sep=;\r\nbody;queue\r\n"),
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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_of_texts_may_end_its_lines_as_on_any_system(main, folder, work, end):
    (work / "texts").write_bytes(end.join(["good film", "bad", "quite sad", ""]).encode())
    plain = lines(main("predict", folder, stdin="good film\nbad\nquite sad\n"))
    assert lines(main("predict", folder, "--texts", "texts")) == plain


def test_a_carriage_return_within_a_line_parts_no_text(main, folder, work):
    (work / "texts").write_bytes(b"good\rfilm\nbad\r\n")
    assert len(lines(main("predict", folder, "--texts", "texts"))) == 2
    (work / "bad").write_bytes(b"good film\nbad \xff\n")
    assert (
        "line 2 of `bad` is not UTF-8: byte 0xff" in main("predict", folder, "--texts", "bad").err
    )


@pytest.mark.parametrize("option", ["--texts", "--data"])
def test_an_empty_text_is_answered_with_a_warning(main, folder, work, option):
    (work / "rows.txt").write_text(
        "text\tlabel\ngood\t1\n \t0\n" if option == "--data" else "good\n\n"
    )
    found = main("predict", folder, option, "rows.txt")
    assert len(lines(found)) == 2
    said = (
        "warning: texts that are empty: 1 of 2, the first is number 2; their answers mean nothing"
    )
    assert said in found.err.splitlines()
    assert "warning" not in main("predict", folder, stdin="good\nbad\n").err


def test_a_tables_columns_are_those_that_the_task_was_learned_from(main, folder, work):
    shutil.copytree(folder, work / "own")
    config = json.loads((folder / "task.json").read_text())
    assert "columns" not in config  # plain names are found without being told
    told = {**config, "kind": "multi-label", "columns": ["body", "queue"], "label_separator": "|"}
    (work / "own" / "task.json").write_text(json.dumps(told))
    (work / "rows.csv").write_text("id,body,queue,text\n1,good film,a|b,bad\n")
    found = main("predict", "own", "--data", "rows.csv")
    assert found.json["expected"] == ["a", "b"]
    assert found.err.startswith(
        "note: of `rows.csv` `body` is taken as the text, `queue` as the label"
    )
    asked = main("predict", "own", "--data", "rows.csv", "--text-field", "body")
    assert found.json["scores"] == asked.json["scores"]
    (work / "rows.csv").write_text("text\nbad\n")  # of another make: plain names
    assert "`text` is taken" in main("predict", "own", "--data", "rows.csv").err


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
    assert b"error: line 1 of standard input is not UTF-8: byte 0xbf" in done.stderr


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


def test_pairs_of_a_table_are_pairs(main, paired, work):
    row = {"a": "good", "b": "bad film", "y": 1}
    (work / "rows.json").write_text(json.dumps([row]))
    (work / "texts").write_text("good\tbad film\n")
    columns = ["--text-field", "a", "--pair-field", "b"]
    found = main("predict", paired, "--data", "rows.json", *columns)
    assert found.json == main("predict", paired, "--texts", "texts", "--pair").json


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
        (
            ["--data", "rows.csv", "--label-field", "queue"],
            "error: `--label-field` needs `--text-field`",
        ),
        (["--data", "rows.csv", "--texts", "rows.csv"], "`--data` goes without `--texts`\n"),
        (
            ["--data", "rows.csv", "--text-field", "body", "--pair"],
            "`--data` goes without `--pair`\n",
        ),
        (["--text-field", "body"], "columns are of `--data`"),
        (["--data", "none.csv", "--text-field", "body"], "cannot read `none.csv`"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(main, folder, work, args, fact):
    (work / "rows.csv").write_text("body,queue\nthe film,1\n")
    found = main("predict", folder, *args)
    assert (found.code, found.out) == (1, "")
    assert fact in found.err


def of(kind, **changes):
    """The configuration of a task of a kind."""
    labels = () if kind is Kind.REGRESSION else ("a", "b")
    return TaskConfig("mine", kind, labels, 16, (0, "[PAD]"), **changes)


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
    (row,) = rows_of(tmp_path / "rows.csv", Columns("body", None, "queue", separator), of(kind))
    assert row == ("x", wanted)


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.REGRESSION, Kind.MULTI_LABEL])
def test_a_row_without_a_label_expects_nothing(tmp_path, kind):
    rows = [{"body": "x", "queue": 1}, {"body": "y", "queue": None}, {"body": "z"}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = rows_of(tmp_path / "rows.json", Columns("body", None, "queue"), of(kind))
    assert found[0][1] is not None
    assert found[1:] == [("y", None), ("z", None)]


def test_an_empty_cell_is_no_label(tmp_path):
    (tmp_path / "rows.csv").write_text("body,queue\nx,\ny,2\n")
    for kind, wanted in ((Kind.CLASSIFICATION, "2"), (Kind.REGRESSION, 2.0)):
        found = rows_of(tmp_path / "rows.csv", Columns("body", None, "queue"), of(kind))
        assert found == [("x", None), ("y", wanted)]


def test_a_label_of_a_known_tasks_file_is_expected_by_its_name(main, folder, work):
    (work / "dev.tsv").write_text("sentence\tlabel\ngood film\t1\nbad film\t0\n")
    found = main("predict", folder, "--data", "dev.tsv")
    assert [one["expected"] for one in lines(found)] == ["positive", "negative"]


def test_a_list_of_labels_is_expected_as_one(tmp_path):
    (tmp_path / "rows.json").write_text('[{"body": "x", "queue": ["b", "a"]}]')
    (row,) = rows_of(tmp_path / "rows.json", Columns("body", None, "queue"), of(Kind.MULTI_LABEL))
    assert set(row[1]) == {"a", "b"}


@pytest.mark.parametrize("cell", ["many", "inf", "1e400"])
def test_a_number_that_is_none_is_refused(tmp_path, cell):
    (tmp_path / "rows.csv").write_text(f"body,queue\nw,1\nx,{cell}\n")
    with pytest.raises(DataError, match=f"row 2 of `.*`: `{cell}` is no number"):
        rows_of(tmp_path / "rows.csv", Columns("body", None, "queue"), of(Kind.REGRESSION))


@pytest.mark.skipif(sys.platform == "win32", reason="reads a pipe without waiting")
def test_a_pipe_that_stays_open_is_answered(folder, environment):
    """As `tail -f texts | compress predict FOLDER`."""
    command = [str(Path(sys.executable).with_name("compress")), "predict", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            answers = []
            for text in ("good film", "bad film", "a"):
                process.stdin.write(f"{text}\n")
                process.stdin.flush()
                assert select.select([process.stdout], [], [], 60)[0], "no answer came"
                answers.append(json.loads(process.stdout.readline()))
            process.stdin.write("the end, without a line feed")
            process.stdin.close()
            answers.append(json.loads(process.stdout.readline()))
            assert process.wait(timeout=300) == 0
        finally:
            process.kill()
    assert [set(one) for one in answers] == [{"label", "score", "scores"}] * 4


def test_lines_that_come_slowly_end_a_list_and_fast_ones_fill_it():
    reading, writing = os.pipe()
    first = Event()

    def write():
        os.write(writing, b"one\ntwo\nhal")
        first.wait(300)
        os.write(writing, b"f\n" + b"x\n" * 1500)
        os.close(writing)

    Thread(target=write).start()
    found = []
    for chunk in lines_module._prompt(decoded(byte_lines(arriving(reading, 0.1)), "a pipe")):
        found.append(len(chunk))
        first.set()
    os.close(reading)
    assert found == [2, 1024, 477]


def test_a_descriptor_that_cannot_be_read_is_the_readers_error():
    reading, writing = os.pipe()
    os.close(writing)
    os.close(reading)
    with pytest.raises(OSError, match="Bad file descriptor"):
        list(arriving(reading))


def test_the_helpers_of_lines_do_what_they_say():
    found = doctest.testmod(lines_module)
    assert (found.failed, found.attempted) == (0, 3)


@pytest.mark.parametrize(("option", "value", "least"), [("threads", -1, 0), ("keep", 0, 1)])
def test_what_a_session_cannot_be_is_said_of_that_argument_alone(folder, option, value, least):
    with pytest.raises(ConfigError) as wrong:
        Session(folder, **{option: value})
    assert str(wrong.value) == f"`{option}` is {value}, expected {least} or more"


def test_threads_below_none_are_refused(main, folder):
    found = main("predict", folder, "--threads", "-1", stdin="a\n")
    assert (found.code, found.err) == (1, "error: `threads` is -1, expected 0 or more\n")


def test_a_folder_is_asked_by_its_evaluation_file(main, folder, sentiment):
    whole = lines(main("predict", folder, "--data", sentiment))
    assert whole == lines(main("predict", folder, "--data", sentiment / "dev.tsv"))
    assert len(whole) == 32


def test_a_data_set_of_the_hub_is_asked_by_its_evaluation_split(main, folder, work, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", work / "cache")
    (work / "set").mkdir()
    for name, texts in (("train", ["bad"]), ("validation", ["good film", "bad film"])):
        rows = [{"sentence": text, "label": str(number)} for number, text in enumerate(texts)]
        datasets.Dataset.from_list(rows).to_parquet(str(work / "set" / f"{name}.parquet"))
    found = lines(main("predict", folder, "--data", "hub:set"))
    assert [one.pop("expected") for one in found] == ["negative", "positive"]
    assert found == lines(main("predict", folder, stdin="good film\nbad film\n"))
    columns = ["--text-field", "nothing"]
    assert "no column `nothing`" in main("predict", folder, "--data", "hub:set", *columns).err
