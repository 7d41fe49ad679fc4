"""The whole way, from a model to a verified graph, as a user goes it."""

from __future__ import annotations

import json
import shutil

import pytest

from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx
from maskpack.formats import open_artifact


@pytest.fixture
def model(work, tiny_model, sentiment):
    """Model and data in the current folder, under names without a path."""
    shutil.copytree(tiny_model, work / "model")
    shutil.copytree(sentiment, work / "data")
    return "model"


def test_fit_eval_inspect_check_export_and_verify_speak_json(
    main, shell, work, model, short, snapshot
):
    """The two that write are processes of their own."""
    task, data = ["--task", "sst2"], ["--data", "data"]
    fit = shell("compress", "fit", model, *task, *data, "-o", "art", *short, "--json", cwd=work)
    assert fit.code == 0
    assert "sst2 4/4 loss" in fit.err  # progress is for people
    assert fit.json["steps"] == 4
    assert fit.json["patch_bytes"] == (work / "art" / "tasks" / "sst2.safetensors").stat().st_size
    art = snapshot(work / "art")

    scored = main("eval", "art", *task, *data, "--json")
    assert scored.json["scores"] == fit.json["scores"] == scored.json["recorded"]
    assert scored.json["same_data"] is True

    told = shell("maskpack", "inspect", "art", "--json", cwd=work)
    entry = told.json["tasks"]["sst2"]
    assert (entry["zeros"], entry["weights"]) == (fit.json["zeros"], fit.json["weights"])
    assert sum(entry["layer_zeros"].values()) == entry["zeros"]
    assert told.json["backbone_bytes"] == (work / "art" / "backbone.safetensors").stat().st_size

    sound = main("check", "art", "--json")
    assert sound.json == {"ok": True, "findings": []}

    wide = ["--max-drop", "100", "--rtol", "1", "--json"]
    export = shell("compress", "export", "art", "--onnx", *task, *data, "-o", "g", *wide, cwd=work)
    assert export.json["ok"] is True
    assert export.json["accuracy"]["rows"] == 32
    assert export.err == "wrote g\n"

    verify = main("verify", "g", "-a", "art", *task, *data, *wide)
    assert verify.json == export.json == json.loads((work / "g/maskpack_report.json").read_text())

    for quiet in (scored, told, sound, verify):
        assert (quiet.code, quiet.err) == (0, "")
    assert snapshot(work / "art") == art  # looking changes nothing
    assert {path.name for path in work.iterdir()} == {"model", "data", "art", "g"}

    # another process, another hash seed, the same bytes
    request = ExportRequest(
        work / "art", "sst2", work / "h", Compute.INT8, Tolerance(None, 0), verify=False
    )
    export_onnx(request)
    assert (work / "h/model.onnx").read_bytes() == (work / "g/model.onnx").read_bytes()


def test_without_json_the_same_commands_speak_in_tables(main, work, tiny_artifact, sentiment):
    found = main("eval", tiny_artifact, "-t", "sst2", "--data", sentiment)
    assert "sst2: 32 evaluation rows" in found.out
    assert found.err == ""
    found = main("inspect", tiny_artifact)
    assert "17,408" in found.out
    assert "encoder.layer.1.output.dense.weight" in found.out
    found = main("check", tiny_artifact)
    assert found.out.endswith("is sound: 1 tasks\n")


def test_other_rows_than_when_learned_are_pointed_out(main, work, tiny_artifact, sentiment):
    lines = (sentiment / "dev.tsv").read_text().splitlines()
    (work / "dev.tsv").write_text("\n".join(lines[:9]) + "\n")
    found = main("eval", tiny_artifact, "-t", "sst2", "--data", work / "dev.tsv")
    assert "sst2: 8 evaluation rows" in found.out
    assert "note: these are not the rows" in found.err


def test_a_second_task_leaves_the_backbone_alone(main, work, model, short):
    start = ["fit", model, "--data", "data", "-o", "art", "-q", "--json", "--task", "sst2"]
    assert main(*start, *short).code == 0
    before = (work / "art" / "backbone.safetensors").read_bytes()
    found = main(*start, *short, "--name", "second", "--seed", "3")
    assert (found.code, found.err) == (0, "")
    assert (work / "art" / "backbone.safetensors").read_bytes() == before
    assert open_artifact(work / "art").manifest.tasks.keys() == {"sst2", "second"}


def test_a_run_by_steps_says_so_in_tables(main, work, model, short):
    found = main("fit", model, "--data", "data", "-o", "art", "--task", "sst2", *short)
    assert found.code == 0
    assert "sst2: mask, 4 steps" in found.out
    assert "mask, entropy" in found.out
    assert "sst2 1/4 loss" in found.err


def test_a_dense_baseline_is_trained_and_kept_as_a_model_folder(main, work, model):
    options = [
        "--steps",
        "3",
        "--max-length",
        "16",
        "--batch-size",
        "16",
        "--precision",
        "fp32",
        "--teacher",
        "none",
    ]
    found = main(
        "baseline",
        *[model, "-t", "sst2", "--data", "data", "--method", "head", "-o", "twin", "-q", "--json"],
        *options,
    )
    assert (found.code, found.err) == (0, "")
    assert (found.json["method"], found.json["steps"], found.json["bits"]) == ("head", 3, 32)
    assert (work / "twin" / "config.json").is_file()


def test_a_graph_that_nobody_verified_is_written_with_a_word(main, work, tiny_artifact):
    found = main("export", tiny_artifact, "-t", "sst2", "--onnx", "-o", "g", "--no-verify")
    assert (found.code, found.out, found.err) == (0, "", "wrote g, not verified\n")
    assert (work / "g" / "model.onnx").is_file()


def test_json_is_printed_without_a_verdict_too(main, work, tiny_artifact):
    found = main(
        "export", tiny_artifact, "-t", "sst2", "--onnx", "-o", "g", "--no-verify", "--json"
    )
    assert isinstance(found.json, dict)


def test_outside_its_tolerance_an_export_exits_with_1_and_keeps_the_graph_aside(
    main, work, tiny_artifact, snapshot
):
    before = snapshot(tiny_artifact)
    base = ["export", tiny_artifact, "-t", "sst2", "--onnx"]
    found = main(*base, "-o", "g", "--atol", "1e-12")
    assert found.code == 1
    assert "REFUSED" in found.out
    assert "wrong: values at batch 1, sequence 1 differ by" in found.out
    assert found.err == "wrote g.failed\n"
    assert [path.name for path in work.iterdir()] == ["g.failed"]
    assert snapshot(tiny_artifact) == before
    verify = ["verify", "g.failed", "-a", tiny_artifact, "-t", "sst2", "--atol", "1e-12"]
    verified = main(*verify, "--json")
    assert verified.code == 1
    assert verified.json["ok"] is False
    assert main(*verify[:-2], "--rtol", "1").code == 0


def test_an_accuracy_that_was_not_measured_is_pointed_out(main, work, tiny_artifact):
    main("export", tiny_artifact, "-t", "sst2", "--onnx", "-o", "g", "--no-verify")
    found = main("verify", "g", "-a", tiny_artifact, "-t", "sst2", "--rtol", "1")
    assert found.code == 0
    assert "within tolerance" in found.out
    assert found.err.startswith("note: accuracy of `sst2` was not measured")


def test_a_decoder_says_which_token_pads(main, work, family_models, sentiment):
    """Its checkpoint names no token for padding: the one that ends a text is taken."""
    shutil.copytree(family_models("llama"), work / "llama")
    shutil.copytree(sentiment, work / "data")
    short = ("--steps", "2", "--batch-size", "8", "--max-length", "16", "--bits", "8")
    told = main("fit", "llama", "-t", "sst2", "--data", "data", "-o", "art", *short, "--json")
    assert told.code == 0
    assert main("inspect", "art", "--json").json["padding_token"] == 3
    assert "token 3" in main("inspect", "art").out
