"""Texts with what is found in them beside what is there."""

from __future__ import annotations

import doctest

import pytest

import maskpack.tasks.evaluation.marked as module
from maskpack.tasks.evaluation.marked import Part, Verdict, mark, telling

TEXT = "New York is big"


def test_the_documents_are_true():
    assert doctest.testmod(module) == (0, 1)


@pytest.mark.parametrize(
    ("true", "given", "parts"),
    [
        ([], [], [Part(TEXT)]),
        (
            [(0, 8, "place")],
            [(0, 8, "place")],
            [Part("New York", "place", "place", Verdict.RIGHT), Part(" is big")],
        ),
        (
            [(0, 8, "place")],
            [(4, 8, "place")],
            [
                Part("New ", "place", "", Verdict.MISSED),
                Part("York", "place", "place", Verdict.WRONG),
                Part(" is big"),
            ],
        ),
        (
            [(0, 8, "place")],
            [(0, 8, "person"), (12, 15, "place")],
            [
                Part("New York", "place", "person", Verdict.WRONG),
                Part(" is "),
                Part("big", "", "place", Verdict.WRONG),
            ],
        ),
    ],
)
def test_parts_are_right_missed_or_wrong(true, given, parts):
    assert mark(TEXT, true, given) == tuple(parts)
    assert "".join(part.text for part in mark(TEXT, true, given)) == TEXT


def test_mistakes_come_first_and_leave_room():
    right = mark("a b", [(0, 1, "x")], [(0, 1, "x")])
    wrong, plain = mark("c d", [(0, 1, "x")], []), mark("e", [], [])
    assert telling([plain, right, right, wrong, wrong, wrong], 3) == (wrong, wrong, right)
    assert telling([plain, wrong, wrong, wrong], 3) == (wrong, wrong, wrong)
    assert telling([plain, right], 3) == (right,)
    assert telling([plain], 3) == ()
