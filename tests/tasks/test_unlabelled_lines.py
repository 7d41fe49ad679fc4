"""Lines of texts without labels: what parts them, and what makes pairs of them."""

from __future__ import annotations

import pytest

from maskpack.compressor.quantization.calibration import calibration_texts
from maskpack.formats import DataError
from maskpack.tasks.data.unlabelled import is_lines, read_unlabelled

ONE, TWO = ("text",), ("first", "second")


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "texts.txt"
        path.write_bytes(text.encode())
        return path

    return make


def test_one_text_of_a_pair_may_be_empty(write):
    path = write("a1\tb1\n\n a2 \t b2\na3\t\n\tb4\n")
    assert read_unlabelled(path, TWO) == (("a1", "b1"), ("a2", "b2"), ("a3", ""), ("", "b4"))
    assert is_lines(path, pairs=True)


@pytest.mark.parametrize(("line", "tabs"), [("a3", 0), ("a3\tb3\tc3", 2)])
def test_a_line_that_is_no_pair_among_pairs_is_refused(write, line, tabs):
    path = write(f"a1\tb1\n\n{line}\na4\tb4\n")
    with pytest.raises(DataError, match=f"line 3 of `.*` has {tabs} tabs"):
        read_unlabelled(path, TWO)
    assert not is_lines(path, pairs=True)


def test_a_text_and_the_next_are_a_pair_where_no_line_has_a_tab(write):
    assert read_unlabelled(write("a\nb\n c\n"), TWO) == (("a", "b"), ("b", "c"), ("c", "a"))


@pytest.mark.parametrize("letter", ["\u2028", "\x85", "\x0b", "\x0c", "\x1d"])
def test_only_ends_of_lines_part_texts(write, letter):
    path = write(f"one{letter}still one\r\ntwo\r\n")
    assert read_unlabelled(path, ONE) == ((f"one{letter}still one",), ("two",))
    assert calibration_texts(path) == (f"one{letter}still one", "two")
    assert read_unlabelled(write(f"a{letter}a\tb\nc\td\n"), TWO)[0] == (f"a{letter}a", "b")
