"""What a label or a path may be, whatever the console can show: nothing ends in an error of encoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")

LABELS = ("好评 😀", "差评")
CONSOLES = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}
COMPRESS = str(Path(sys.executable).with_name("compress"))


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model):
    """A folder with rows of those labels, an artifact of them, and its export."""
    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
    from maskpack.tasks import find_task

    root = tmp_path_factory.mktemp("labels")
    cells = [
        f"{word} film {i},{label}"
        for i in range(12)
        for word, label in zip(("good", "bad"), LABELS, strict=True)
    ]
    (root / "rows.csv").write_text("\n".join(["text,label", *cells, ""]), encoding="utf-8")
    task = find_task("mine", text_field="text", label_field="label")
    config = FitConfig(bits=4, group=16, steps=3, batch_size=8, max_length=16, precision="fp32")
    fit_task(FitRequest(str(tiny_model), task, root / "artifact", config, data=root / "rows.csv"))
    tolerance = Tolerance.of(Compute.FP32)
    request = ExportRequest(
        root / "artifact", "mine", root / "onnx", Compute.FP32, tolerance, verify=False
    )
    export_onnx(request)
    return root


@pytest.fixture
def on_a_console(environment, made):
    """A function: exit code, output and words of a command on a console, or with its streams in pipes."""

    def call(console, *args, stdin=b"", piped=False, program=COMPRESS):
        env = {**environment, **CONSOLES[console], "COLUMNS": "100"}
        if piped:
            done = subprocess.run(
                [program, *args], input=stdin, capture_output=True, cwd=made, env=env, check=False
            )
            return done.returncode, done.stdout, done.stderr
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [program, *args],
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=subprocess.PIPE,
            cwd=made,
            env=env,
        ) as process:
            os.close(theirs)
            out = b""
            process.stdin.write(stdin)
            process.stdin.close()
            try:
                while part := os.read(ours, 1 << 16):
                    out += part
            except OSError:  # how a console ends
                pass
            words = process.stderr.read()
        os.close(ours)
        return process.returncode, out, words

    return call


@pytest.mark.parametrize("console", CONSOLES)
def test_an_answer_is_json_on_every_console(on_a_console, console):
    code, out, words = on_a_console(console, "predict", "onnx", stdin="good film 😀\n".encode())
    assert code == 0, words
    assert set(json.loads(out)["scores"]) == set(LABELS)
    assert out.isascii()  # an old code page would show something else


def test_an_answer_in_a_pipe_is_utf_8(on_a_console):
    code, out, words = on_a_console("ascii", "predict", "onnx", stdin=b"good film\n", piped=True)
    assert code == 0, words
    assert LABELS[0] in out.decode("utf-8")


TABLE = """
from maskpack.cli import render
render.plain_streams()
render.table("\\u597d", ("label", "f1"), [("\\u8bc4 \\U0001f600", "1")])
"""


def test_a_table_shows_a_code_where_the_console_has_no_letter(on_a_console):
    code, out, words = on_a_console("cp1252", "-c", TABLE, program=sys.executable)
    assert code == 0, words
    assert rb"\u597d" in out
    assert rb"\u8bc4 \ud83d\ude00" in out


def test_words_show_a_code_where_the_console_has_no_letter(on_a_console):
    code, out, words = on_a_console("ascii", "predict", "onnx", "--data", "好 😀.csv")
    assert (code, out) == (1, b"")
    assert "no such file or folder: `好 😀.csv`" in words.decode(
        "utf-8"
    )  # a pipe takes every letter
    code, out, _ = on_a_console("ascii", "check", "好 😀")
    assert (code, rb"`\u597d \ud83d\ude00`" in out) == (1, True)


def test_a_path_of_any_bytes_is_told(main, made, tmp_path):
    folder = tmp_path / ("long" * 20)  # wider than the tables
    folder.mkdir()
    place = folder / os.fsdecode(b"art\xff")
    try:
        place.symlink_to(made / "artifact")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this system's names are text")
    shown = "art\\udcff"
    assert shown in main("check", place).out
    assert shown in main("check", f"{place}\udcfe").out
    packed = main("pack", place, "-t", "mine", "-o", f"{place}.patch", "--json")
    assert packed.json["file"] == f"{place}.patch"
    assert shown in main("inspect", place).out


@pytest.mark.parametrize("stream", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_closed_stream_is_no_bug(made, environment, stream):
    line = f'"{COMPRESS}" tasks {stream}'
    done = subprocess.run(
        ["sh", "-c", line], cwd=made, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) is ("1>" not in stream)


def test_a_closed_stream_of_errors_gets_no_file(made, environment):
    line = (
        f'"{COMPRESS}" pack artifact -t mine -o closed.patch 2>&-; "{COMPRESS}" check nowhere 2>&-'
    )
    done = subprocess.run(
        ["sh", "-c", line], cwd=made, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    assert b"is not an artifact" in done.stdout
    code = "import sys; from maskpack.cli import render; render.plain_streams(); print(open('rows.csv').fileno())"
    line = f'"{sys.executable}" -c "{code}" 0<&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", line], cwd=made, env=environment, capture_output=True, check=False
    )
    assert int(done.stdout) > 2
