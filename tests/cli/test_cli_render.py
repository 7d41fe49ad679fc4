"""What is printed: data to stdout, words to stderr, the user's text as it is."""

from __future__ import annotations

import json
import shutil

import pytest

from maskpack.cli import render
from maskpack.compressor.training.progress import Progress
from maskpack.formats import MaskCount


def news(step, steps=40, **changes):
    values = {"loss": 0.5, "metric": "accuracy", "value": None, "count": None, **changes}
    return Progress(step, steps, **values)


def test_data_goes_to_stdout_and_ends_its_line_once(capsys):
    render.data("a")
    render.data("b\n")
    assert capsys.readouterr() == ("a\nb\n", "")


def test_numbers_that_json_lacks_are_words(capsys):
    render.json({"ratio": float("inf"), "each": [float("nan"), 1.5]}, sort_keys=True)
    assert capsys.readouterr().out == '{"each": ["nan", 1.5], "ratio": "inf"}\n'


def test_errors_and_hints_go_to_stderr(capsys):
    render.error("a fact", "a step")
    render.error("alone", None)
    assert capsys.readouterr() == ("", "error: a fact\nhint: a step\nerror: alone\n")


def test_words_are_not_read_as_markup_and_are_not_wrapped(capsys):
    long = "`[red]x[/nope]` " * 40
    render.words(long)
    assert capsys.readouterr().err == long + "\n"


def test_words_are_not_read_as_emoji(capsys):
    render.error("no task `:bug:`", "see `C:bug:x`")
    assert capsys.readouterr().err == "error: no task `:bug:`\nhint: see `C:bug:x`\n"


@pytest.mark.parametrize("text", ["[good]", "[/bad]", ":bug:"])
def test_a_table_shows_the_users_text_as_it_is(capsys, text):
    render.table(f"title {text}", ("what", "value"), [("labels", text)])
    assert capsys.readouterr().out.count(text) == 2


def test_an_artifact_under_a_path_with_brackets_can_be_inspected(main, work, tiny_artifact):
    shutil.copytree(tiny_artifact, work / "runs [" / "x]")
    found = main("inspect", "runs [/x]")
    assert found.code == 0
    assert "runs [/x]" in found.out


def test_columns_of_numbers_are_aligned_to_the_right(capsys):
    render.table("t", ("name", "value"), [("a", "1"), ("long name", "-22.5"), ("c", "")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    (one,) = [line for line in lines if line.endswith(" 1")]
    (two,) = [line for line in lines if line.endswith("-22.5")]
    assert len(one) == len(two)
    assert one.startswith("  a ")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (134_553, "134.6 KB"), (1_000_000, "1.00 MB")],
)
def test_sizes_are_in_decimal_units(count, text):
    assert render.size(count) == text


def test_progress_without_a_terminal_is_a_line_a_tenth(capsys):
    with render.progress("sst2") as on_progress:
        for step in range(1, 42):
            on_progress(news(step, 41, value=0.75, count=MaskCount(1000, 10)))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split()[1] for line in lines] == [
        *(f"{step}/41" for step in range(4, 41, 4)),
        "41/41",
    ]
    assert "loss 0.500, accuracy 0.7500, zeros 1.00%, 0.081 bpp" in lines[0]
    assert lines[-1].endswith(", 0 s left")


def test_a_quiet_run_says_nothing(capsys):
    with render.progress("sst2", quiet=True) as on_progress:
        on_progress(news(1))
    assert capsys.readouterr() == ("", "")


def test_json_of_a_listing_is_one_value(main):
    text = main("tasks", "--json").out
    assert text == json.dumps(json.loads(text)) + "\n"
