"""What docs/troubleshooting.md quotes is what the code says: each line has its place in the source."""

from __future__ import annotations

import ast
import doctest
import re
import sys
from functools import cache

import pytest
from sources import MODULES, ROOT, tree_of

PAGE = ROOT / "docs/troubleshooting.md"
KINDS = ("error", "hint", "warning", "note", "wrong")
LEAST = 10  # letters that a pattern must bring itself, or it would match anything


def quoted(text: str) -> list[str]:
    """Lines in the fenced blocks of a page that quote the tool."""
    found = re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def constants(tree: ast.Module) -> dict[str, str]:
    """Texts that a module gives a name, such as a hint that several errors share."""
    return {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def fixed_parts(node: ast.expr, named: dict[str, str]) -> list[str | None]:
    """A text's parts in order; None where it is filled in.

    >>> tree = ast.parse("f'no {what}; {HINT}'", mode="eval")
    >>> fixed_parts(tree.body, {"HINT": "try again"})
    ['no ', None, '; ', 'try again']
    """
    if isinstance(node, ast.Constant):
        return [node.value if isinstance(node.value, str) else ""]
    if isinstance(node, ast.JoinedStr):
        return [part for value in node.values for part in fixed_parts(value, named)]
    inner = node.value if isinstance(node, ast.FormattedValue) else None
    return [named.get(inner.id) if isinstance(inner, ast.Name) else None]


def escaped(text: str) -> str:
    """A text as an expression; a field of a hint, or what a log fills in, may be anything.

    >>> escaped("give `{name}`.")
    'give\\\\ `.*`\\\\.'
    """
    return re.sub(r"\\\{\w+\\\}|%s", ".*", re.escape(text))


@cache
def patterns() -> tuple[re.Pattern[str], ...]:
    """Every text of the source as an expression: what it fills in may be anything."""
    found = set()
    for path in MODULES:
        tree = tree_of(path)
        named = constants(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant | ast.JoinedStr):
                continue
            parts = fixed_parts(node, named)
            if sum(len(re.findall(r"\w", text)) for text in parts if text is not None) >= LEAST:
                found.add("".join(".*" if text is None else escaped(text) for text in parts))
    return tuple(re.compile(one) for one in sorted(found))


def said_by_the_code(message: str) -> bool:
    return any(pattern.fullmatch(message) for pattern in patterns())


def warned_by_the_code(message: str) -> bool:
    """A fact, and what to do about it: two texts that the log joins."""
    fact, _, hint = message.partition("; ")
    return said_by_the_code(fact) and said_by_the_code(hint)


LINES = quoted(PAGE.read_text(encoding="utf-8"))


def test_the_helpers_do_what_they_say():
    found = doctest.testmod(sys.modules[__name__])
    assert (found.failed, found.attempted) == (0, 3)


def test_the_page_quotes_many_messages():
    assert len(LINES) > 50


@pytest.mark.parametrize("line", LINES)
def test_a_quoted_line_is_one_of_the_codes_messages(line):
    kind, _, message = line.partition(": ")
    assert kind in KINDS, "a line starts with what the tool calls it"
    assert any(map(said_by_the_code, (message, line))) or warned_by_the_code(message), line


@pytest.mark.parametrize(
    "message",
    ["`x` has no column named `y`", "the disk is full", "cannot", "`a` `b` `c`"],
)
def test_a_message_that_nobody_says_is_noticed(message):
    assert not said_by_the_code(message)
