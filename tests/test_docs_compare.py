"""The page that compares tools: its tables are what the script prints, its commands what it types."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/compare.md").read_text(encoding="utf-8")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("compare")


def test_the_tables_are_what_the_script_prints(script, capsys):
    script.summarise(json.loads((ROOT / "docs/results/compare.json").read_text()))
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(printed) > 30
    assert [line for line in printed if line not in PAGE.splitlines()] == []


def test_the_commands_are_those_that_were_typed(script):
    places = {"here": "benchmarks", "olive": "olive", "model": "all-MiniLM-L6-v2"}
    routes = importlib.import_module("compare_routes")
    lines = PAGE.replace("\\\n    ", "").splitlines()
    for training in routes.TRAINING:
        assert routes.typed(training.command, "sst2-0", **places) in lines
    for name, route in routes.ROUTES.items():
        for command in route.commands:
            assert routes.typed(command, "sst2-0", out=f"graphs/{name}", **places) in lines
