"""Windows and macOS, simulated, where the product asks which system it runs on; files are in formats/test_files.py."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maskpack.cli import app, asked, hints, render
from maskpack.compressor import estimate
from maskpack.compressor.quantization.calibration import calibration_texts
from maskpack.compressor.sweep import log
from maskpack.exporters.bench import memory, result
from maskpack.exporters.bench.result import Cell
from maskpack.exporters.report import spell_out
from maskpack.exporters.session import Spent, speedup
from maskpack.runtime import graph
from maskpack.runtime.task import TaskConfig, find_tasks
from maskpack.tasks.data.text_lines import lines_in


def on(monkeypatch, module, platform):
    """Let one module of ours see another system."""
    rest = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr", "exit")}
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform=platform, **rest))


def test_processor_times_of_a_coarse_clock_give_one_ratio():
    assert speedup([0.0, 32.0, 0.0], [0.0, 0.0, 16.0]) == 2.0
    cell = Cell.of(Spent([1.0], [0.0]), Spent([2.0], [16.0]), threads=1, batch=1, length=1)
    assert cell.cpu_speedup != cell.cpu_speedup  # no number
    assert json.loads(json.dumps(spell_out({"cpu": cell.cpu_speedup}))) == {"cpu": "nan"}


def test_the_peak_of_memory_is_in_bytes_everywhere(monkeypatch):
    usage = SimpleNamespace(ru_maxrss=3000)
    fake = SimpleNamespace(getrusage=lambda _: usage, RUSAGE_SELF=0)
    monkeypatch.setattr(estimate, "resource", fake)
    for platform, found in (("linux", 3000 * 1024), ("darwin", 3000), ("win32", None)):
        on(monkeypatch, estimate, platform)
        assert estimate._peak_memory() == found


def test_a_machine_is_described_without_what_only_linux_tells(monkeypatch, tmp_path):
    on(monkeypatch, result, "win32")
    monkeypatch.delattr(os, "sched_getaffinity")
    for name in ("_STATUS", "_FORGET"):
        monkeypatch.setattr(memory, name, tmp_path / "none" / name)
    machine = result.this_machine(None)
    assert machine.cores == os.cpu_count()
    assert machine.load == (None, None)
    assert (memory.memory_now(), memory.peak_memory()) == (None, None)
    memory.forget_peak()


def test_freed_memory_is_given_back_where_the_system_can(monkeypatch):
    asked = []
    monkeypatch.setattr(graph.ctypes, "CDLL", lambda name: asked.append(name) or SimpleNamespace())
    for platform in ("win32", "darwin", "linux"):  # and a C library without `malloc_trim`
        on(monkeypatch, graph, platform)
        graph.give_back()
    assert asked == [None]


def test_copies_that_macos_leaves_beside_files_are_no_tasks(tmp_path):
    config = {
        "format": "maskpack-task",
        "format_version": 1,
        "name": "a",
        "kind": "regression",
        "labels": [],
        "max_length": 8,
        "pad_id": 0,
        "pad_token": "[PAD]",
    }
    for name in ("backbone.bin", "a.onnx", "._a.onnx", "._a.json"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    (tmp_path / "a.json").write_text(json.dumps(config), encoding="utf-8")
    assert set(find_tasks(tmp_path)) == {"a"}


def test_a_mark_that_windows_editors_write_is_no_letter(tmp_path):
    path = tmp_path / "texts"
    path.write_bytes(b"\xef\xbb\xbfgood film\r\nbad\r\n")
    assert list(lines_in(path)) == ["good film", "bad"]
    assert calibration_texts(path) == ("good film", "bad")


def test_pipes_and_files_get_utf_8_and_line_feeds(monkeypatch):
    """As Windows makes them, in the code page of western Europe."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors=errors, newline="\r\n")
        for errors in ("strict", "backslashreplace")
    )
    typed = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf\xc3\xa9\n"), encoding="cp1252")
    monkeypatch.setattr(sys, "stdin", typed)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    render.plain_streams()
    render.data("né 日本")
    assert sys.stdin.read() == "é\n"
    render.words("é \udce9")
    out.flush()
    err.flush()
    assert out.buffer.getvalue() == "né 日本\n".encode()
    assert err.buffer.getvalue() == b"\xc3\xa9 \\udce9\n"


def test_a_reader_that_went_away_is_no_bug_however_windows_says_it(monkeypatch):
    def write(_):
        raise OSError(errno.EINVAL, "Invalid argument")

    closed = []
    monkeypatch.setattr(sys, "argv", ["compress", "--version"])
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=write, flush=lambda: None))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(close=lambda: closed.append(1)))
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert (stop.value.code, closed) == (1, [1])


def test_a_word_of_a_command_is_quoted_as_its_shell_reads_it(monkeypatch):
    for platform, word in (("linux", "'my task'"), ("win32", '"my task"')):
        on(monkeypatch, hints, platform)
        assert hints.shell_word("my task") == word
        assert hints.shell_word("task") == "task"


@pytest.mark.parametrize(
    ("platform", "words"), [("darwin", "Ctrl-D ends"), ("win32", "Ctrl-Z and Enter end")]
)
def test_the_end_of_typed_text_is_the_systems(monkeypatch, platform, words):
    said, stdin = [], io.StringIO("bad\n")
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)
    on(monkeypatch, asked, platform)
    monkeypatch.setattr(render, "words", said.append)
    config = TaskConfig("mood", "classification", ("a", "b"), 16, (0, "[PAD]"))
    rows = asked.of_lines(Path("folder"), None, config, pair=False)
    assert list(rows.chunks) == [[("bad", None)]]
    assert words in said[0]


def test_a_claim_is_removed_where_an_open_file_cannot_be(monkeypatch, tmp_path):
    real, closed = Path.unlink, []
    close = os.close

    def unlink(path):
        if not closed:
            raise PermissionError(13, "Permission denied")
        real(path)

    on(monkeypatch, log, "win32")
    monkeypatch.setattr(Path, "unlink", unlink)
    monkeypatch.setattr(log.os, "close", lambda file: (close(file), closed.append(1)))
    with log.claim(tmp_path / "claims" / "key", wait=False) as free:
        assert free
    assert list(tmp_path.iterdir()) == []
