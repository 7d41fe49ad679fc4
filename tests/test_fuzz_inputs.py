"""Some cases of the fuzz of inputs: `benchmarks/fuzz_inputs.py` runs 20,000, docs/RESULTS.md has what they gave."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing

ROOT = Path(__file__).parents[1]
BAD = {"bug", "difference"}


@pytest.fixture(scope="module")
def fuzz():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("fuzz_inputs")


@pytest.fixture(scope="module")
def kit(fuzz, tmp_path_factory):
    """Tiny models of every architecture."""
    return fuzz.prepared(tmp_path_factory.mktemp("kit"))


def found_in(fuzz, kit, work, kinds, count):
    """What the first cases of these kinds became, of a seed that the committed run has not."""
    numbers = (number for number in range(10**6) if fuzz.kind_of(1, number)[0] in kinds)
    return [fuzz.run_case(1, next(numbers), kit, work) for _ in range(count)]


def test_inputs_are_read_alike_or_refused(fuzz, kit, tmp_path):
    found = found_in(fuzz, kit, tmp_path, {"table", "tokenizer", "model"}, 150)
    assert [one for one in found if one["outcome"] in BAD] == []
    for outcome in ("worked", "refused"):
        assert sum(one["outcome"] == outcome for one in found) > 20


@pytest.mark.slow
def test_four_hundred_inputs_go_the_whole_way_or_are_refused(fuzz, kit, tmp_path):
    found = found_in(fuzz, kit, tmp_path, set(fuzz.KINDS), 400)
    assert [one for one in found if one["outcome"] in BAD] == []
    worked = {one["kind"] for one in found if one["outcome"].startswith("worked")}
    assert worked >= set(fuzz.KINDS) - {"command"}  # of which there are three or four


def test_a_bug_and_a_difference_are_told_apart_from_a_refusal(fuzz, kit, tmp_path, monkeypatch):
    from maskpack.formats import DataError

    for error, outcome in (
        (fuzz.DifferenceError("apart"), "difference"),
        (DataError("no rows"), "refused"),
        (TypeError("ours"), "bug"),
        (fuzz.SlowError("slow"), "bug"),
    ):

        def fail(*_, error=error):
            raise error

        monkeypatch.setitem(fuzz.KINDS, "table", (fail, 1))
        (found,) = found_in(fuzz, kit, tmp_path, {"table"}, 1)
        assert found["outcome"] == outcome


def test_a_case_follows_from_its_number(fuzz, kit, tmp_path):
    first, again = (found_in(fuzz, kit, tmp_path, {"tokenizer"}, 5) for _ in range(2))
    assert [one.get("said") for one in first] == [one.get("said") for one in again]
    assert [one["outcome"] for one in first] == [one["outcome"] for one in again]


def test_a_device_that_reads_texts_otherwise_is_found_out(fuzz, kit, tmp_path, monkeypatch):
    whole = importlib.import_module("fuzz_whole")
    from maskpack.runtime.tokens import load_tokenizer

    def other(path):
        tokenizer = load_tokenizer(path)
        tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
        return tokenizer

    monkeypatch.setattr(whole, "load_tokenizer", other)
    found = found_in(fuzz, kit, tmp_path, {"tokenizer"}, 12)
    apart = [one for one in found if one["outcome"] == "difference"]
    assert len(apart) > 3
    assert all("a device reads texts otherwise than training" in one["said"] for one in apart)
