"""`compress predict`: lines in, lines of JSON out."""

from __future__ import annotations

import io
import json
import sys

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("predict") / "sst2"
    tolerance = Tolerance.of(Compute.FP32)
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, Compute.FP32, tolerance, verify=False))
    return out


def lines(outcome):
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_a_line_of_json_for_each_line_of_text(main, folder, tmp_path):
    (tmp_path / "texts").write_text("the good film\r\n\nbad\n")
    found = lines(main("predict", folder, "--texts", tmp_path / "texts"))
    assert len(found) == 3
    for answer in found:
        assert answer["score"] == max(answer["scores"].values())
        assert sum(answer["scores"].values()) == pytest.approx(1.0)
    alone = lines(main("predict", folder, "--texts", tmp_path / "texts", "--batch-size", 1))
    assert [answer["label"] for answer in alone] == [answer["label"] for answer in found]


def test_texts_come_from_standard_input(main, folder, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdin", io.StringIO("bad\n"))
    found = lines(main("predict", folder))
    (tmp_path / "texts").write_text("bad")
    assert found == lines(main("predict", folder, "--texts", tmp_path / "texts"))


def test_a_tab_parts_a_pair(main, folder, tmp_path):
    (tmp_path / "texts").write_text("good\tbad film\n")
    assert len(lines(main("predict", folder, "--texts", tmp_path / "texts", "--pair"))) == 1
    (tmp_path / "texts").write_text("good bad film\n")
    outcome = main("predict", folder, "--texts", tmp_path / "texts", "--pair")
    assert (outcome.code, outcome.out) == (1, "")
    assert "no tab in the line `good bad film`" in outcome.err


def test_what_is_missing_is_named(main, folder, tmp_path):
    assert "no exported task at" in main("predict", tmp_path).err
    assert "cannot read" in main("predict", folder, "--texts", tmp_path / "absent").err
    (tmp_path / "texts").write_bytes(b"\xff\xfe\n")
    assert "is not UTF-8" in main("predict", folder, "--texts", tmp_path / "texts").err
