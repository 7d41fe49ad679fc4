"""`compress families`, typed as a user types it."""

from __future__ import annotations

import pytest


def test_one_architecture_is_a_row(main):
    found = main("families", "qwen3")
    assert found.code == 0
    assert found.err == ""
    (row,) = [line.split() for line in found.out.splitlines() if "qwen3" in line]
    assert row == ["qwen3", "rule", "tested", "yes", "last"]


def test_one_that_is_not_supported_is_listed_with_the_reason(main):
    (found,) = main("families", "t5", "--json").json
    assert found == {
        "model_type": "t5",
        "support": "none",
        "graphs": "none",
        "units": False,
        "pooling": None,
        "reason": "it is an encoder with a decoder, and its head reads the decoder",
    }


@pytest.mark.slow  # it loads the code of every architecture
def test_all_are_listed_entries_first(main):
    found = main("families", "--json")
    assert all("reading the code" in line for line in found.err.splitlines())
    support = [each["support"] for each in found.json]
    assert support == sorted(support, key=["entry", "rule", "none"].index)
    assert {"bert", "mpnet", "gemma2", "t5"} <= {each["model_type"] for each in found.json}
