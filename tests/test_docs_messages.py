"""What docs/troubleshooting.md quotes is what the code says: each line has its place in the source."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/troubleshooting.md"
FLOORS = ("formats", "compressor", "exporters", "runtime", "cli")
KINDS = ("error", "hint", "warning", "note", "wrong")
LEAST = 10  # letters that a pattern must bring itself, or it would match anything


def quoted(text: str) -> list[str]:
    """Lines in the fenced blocks of a page that quote the tool."""
    found = re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines()]


@cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """Every text of the source as an expression: what it fills in may be anything."""
    found = set()
    for path in (path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = [node] if isinstance(node, ast.Constant) else getattr(node, "values", [])
            if not isinstance(node, ast.Constant | ast.JoinedStr):
                continue
            fixed = [str(p.value) if isinstance(p, ast.Constant) else None for p in parts]
            if sum(len(re.findall(r"\w", text)) for text in fixed if text is not None) >= LEAST:
                found.add("".join(".*" if text is None else re.escape(text) for text in fixed))
    return tuple(re.compile(one) for one in sorted(found))


def said_by_the_code(message: str) -> bool:
    return any(pattern.fullmatch(message) for pattern in patterns())


LINES = quoted(PAGE.read_text(encoding="utf-8"))


def test_the_page_quotes_many_messages():
    assert len(LINES) > 50


@pytest.mark.parametrize("line", LINES)
def test_a_quoted_line_is_one_of_the_codes_messages(line):
    kind, _, message = line.partition(": ")
    assert kind in KINDS, "a line starts with what the tool calls it"
    assert said_by_the_code(message) or said_by_the_code(line), line


@pytest.mark.parametrize(
    "message",
    ["`x` has no column named `y`", "the disk is full", "cannot", "`a` `b` `c`"],
)
def test_a_message_that_nobody_says_is_noticed(message):
    assert not said_by_the_code(message)


def test_every_quoted_message_is_followed_by_what_to_do():
    """A hint in the frame, or a sentence below it."""
    text = PAGE.read_text(encoding="utf-8")
    for block in re.finditer(r"^```text\n(.*?)^```\n", text, flags=re.MULTILINE | re.DOTALL):
        below = text[block.end() :].lstrip()
        assert "hint: " in block[1] or not below.startswith(("#", "```")), block[1]
