"""`compress bench`: tables for people, JSON for programs, words on stderr."""

from __future__ import annotations

import pytest

GRID = ["--batch", "1,2", "--length", "8", "--threads", "1", "--runs", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("bench") / "tickets"
    tolerance = Tolerance.of(Compute.INT8)
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, Compute.INT8, tolerance, verify=False))
    return out


def test_tables_put_ratios_before_milliseconds(main, folder):
    outcome = main("bench", folder, *GRID)
    assert outcome.code == 0, outcome.err
    places = [
        outcome.out.index(words)
        for words in ("times as fast", "logits on", "load and memory", "milliseconds, p50 / p90")
    ]
    assert places == sorted(places)
    for words in ("quantize_dynamic per channel", "tickets", "1: 2 x 8", "onnxruntime"):
        assert words in outcome.out, words
    assert "latency, 1 thread" in outcome.err


def test_json_is_all_of_stdout_and_quiet_is_quiet(main, folder, tiny_artifact):
    outcome = main("bench", folder, *GRID, "--artifact", tiny_artifact, "--json", "--quiet")
    assert outcome.code == 0, outcome.err
    tree = outcome.json
    assert [variant["name"] for variant in tree["variants"]][::3] == ["dense fp32", "tickets"]
    assert tree["variants"][3]["error"]["relative"] > 0
    assert "latency" not in outcome.err


def test_another_model_is_remarked_on(main, folder, tiny_models, tmp_path):
    from maskpack.models.load import load_classifier, load_tokenizer

    load_classifier(str(tiny_models["bert"]), outputs=2).save_pretrained(tmp_path)
    load_tokenizer(str(tiny_models["bert"])).save_pretrained(tmp_path)
    outcome = main("bench", folder, *GRID, "--against", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "logits of `tickets` are" in outcome.err
    assert "is the dense model the same one?" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--batch", "1,x"], "`--batch 1,x` is not numbers with commas"),
        (["--length", "0"], "`lengths` are 0, expected different numbers"),
        (["--task", "no"], "no task `no` is at"),
        (["--against", "no.onnx"], "no graph at `no.onnx`"),
        (["--artifact", "a", "--against", "b"], "expected one dense model"),
    ],
)
def test_bad_input_is_an_error_with_a_hint(main, work, folder, arguments, words):
    outcome = main("bench", folder, *arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert words in outcome.err
    assert "hint: " in outcome.err


def test_a_folder_without_an_export_is_an_error(main, tmp_path):
    outcome = main("bench", tmp_path)
    assert outcome.code == 1
    assert "no exported task at" in outcome.err
    assert "compress export --onnx" in outcome.err
