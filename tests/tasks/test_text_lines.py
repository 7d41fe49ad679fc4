"""Lines of a file that is read in pieces are those of its whole text."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskpack.formats import DataError
from maskpack.tasks.data import text_lines
from maskpack.tasks.data.text_lines import ended_lines, lines_in, lines_of, read_bytes, read_text

TEXTS = st.text(alphabet='ab\n\r"\u00e9\u4e2d\U0001f600\ufeff\x85\u2028', max_size=30)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXTS, piece=st.integers(1, 9), zipped=st.booleans())
def test_lines_do_not_depend_on_the_pieces(tmp_path, monkeypatch, text, piece, zipped):
    monkeypatch.setattr(text_lines, "_CHUNK", piece)
    path = tmp_path / ("a.txt.gz" if zipped else "a.txt")
    data = text.encode()
    path.write_bytes(gzip.compress(data) if zipped else data)
    whole = text.removeprefix("\ufeff")
    end = "\n" if "\n" in text else "\r"
    assert read_bytes(path) == data
    assert read_text(path) == whole
    assert list(lines_in(path)) == lines_of(whole)
    parts = whole.removesuffix(end).split(end) if whole else []
    assert list(ended_lines(path)) == [part + end for part in parts]


@pytest.mark.parametrize("piece", [1, 3, 64, 1 << 20])
def test_a_byte_that_is_no_utf_8_is_named_by_line_and_offset(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(text_lines, "_CHUNK", piece)
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntw\u00f6\r\nthree ".encode() + b"\xe9 and\nfour\n")
    for read in (read_text, lambda it: list(lines_in(it))):
        with pytest.raises(
            DataError, match="line 3 of `.*` is not UTF-8: byte 0xe9 at offset 16"
        ) as error:
            read(path)
        assert "iconv -f latin1" in str(error.value.hint)


def test_lines_of_a_text_in_utf_16_are_refused_with_its_name(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\ntwo\n".encode("utf-16"))
    with pytest.raises(DataError, match="line 1 .* byte 0xff at offset 0") as error:
        list(lines_in(path))
    assert "iconv -f utf-16" in str(error.value.hint)


def test_a_zipped_file_that_is_cut_short_cannot_be_read(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\n" * 5000)[:-30])
    with pytest.raises(DataError, match="cannot read"):
        list(lines_in(path))
