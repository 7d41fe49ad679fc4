"""docs/api.md is what the code says; its examples run, and so do those of README.md."""

from __future__ import annotations

import csv
import importlib
import re
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/api.md").read_text(encoding="utf-8")
PACKAGES = (
    *("maskpack.compressor", "maskpack.tasks", "maskpack.formats"),
    *("maskpack.exporters", "maskpack.runtime"),
)
QUICK = 'steps=4, batch_size=16, max_length=16, group=16, precision="fp32", teacher="none"'


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_has_its_heading(name):
    section = PAGE.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
    headings = re.findall(r"^### (.*)$", section, flags=re.MULTILINE)
    assert headings == list(importlib.import_module(name).__all__)


def test_the_page_names_no_place_in_memory():
    assert not re.search(r"0x[0-9a-f]{6}|<function|<factory|<class", PAGE)


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def test_the_ten_lines_of_the_readme_run(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = python_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(example.splitlines()) == 10
    quick = example.replace('"demo"', repr(str(tiny_model))).replace("bits=4", f"bits=4, {QUICK}")
    exec(compile(quick, "README.md", "exec"), {})
    verdict, label = capsys.readouterr().out.split()
    assert verdict == "True"
    assert label in {"account", "billing", "bug", "delivery", "question"}


def test_the_examples_run_in_order(tiny_model, tmp_path, monkeypatch, capsys):
    """On a tiny model and for four steps; what they assert themselves must hold."""
    monkeypatch.chdir(tmp_path)
    sample = files("maskpack.tasks") / "samples" / "tickets" / "train.tsv"
    rows = [line.split("\t") for line in sample.read_text(encoding="utf-8").splitlines()[1:]]
    with (tmp_path / "support.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("body", "queue"), *rows])
    examples = python_blocks(PAGE)
    assert len(examples) == len(PACKAGES)
    for example in examples:
        code = example.replace('"demo"', repr(str(tiny_model))).replace("steps=400", QUICK)
        exec(compile(code, "docs/api.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "no task `nope` - tasks in it: support" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {
        "support.zip",
        "ready",
        "support.patch",
        "all",
    }
