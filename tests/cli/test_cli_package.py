"""`compress package`: what it prints, and what it refuses."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("package") / "sst2"
    tolerance = Tolerance.of(Compute.INT8)
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, Compute.INT8, tolerance, verify=False))
    return out


def test_files_are_listed_and_the_verdict_is_told(main, folder, work):
    found = main("package", folder, "-o", "p", "--target", "ort")
    assert found.code == 0, found.err
    names = {path.name for path in (work / "p").iterdir()}
    assert {"model.onnx", "predict.py", "SHA256SUMS"} <= names
    for name in names:
        assert f"{name} " in found.out
    assert "sst2: logits as before, largest difference" in found.err
    assert "wrote p" in found.err


def test_files_for_the_web_are_packed_if_asked_for(main, folder, work):
    found = main("package", folder, "-o", "p", "--target", "web", "--gzip", "--json").json
    assert "model.onnx.gz" in found["files"]
    assert "model.onnx" not in found["files"]


def test_json_of_an_archive_names_its_digest(main, folder, work):
    import hashlib

    found = main("package", folder, "-o", "p.zip", "--target", "web", "--json").json
    assert found["sha256"] == hashlib.sha256((work / "p.zip").read_bytes()).hexdigest()
    assert found["target"] == "web"
    assert found["tasks"] == {"sst2": 0.0}
    assert found["files"]["predict.mjs"] > 1000


@pytest.mark.parametrize(
    ("args", "code", "fact"),
    [
        (["-o", "p"], 2, "Missing option '--target'"),
        (["-o", "p", "--target", "tpu"], 2, "'tpu' is not one of"),
        (["-o", "p", "--target", "ort", "--gzip"], 1, "are not compressed one by one"),
        (["-o", "p.tgz", "--target", "ort"], 1, "`p.tgz` is of no known kind"),
        (["-o", "p", "--target", "ort", "--task", "x"], 1, "no task `x` at"),
        (["-o", "p", "--target", "ort", "-t", "sst2", "-t", "sst2"], 1, "a task is named twice"),
    ],
)
def test_wrong_usage_is_named_and_leaves_nothing(main, folder, work, args, code, fact):
    found = main("package", folder, *args)
    assert (found.code, found.out) == (code, "")
    assert fact in found.err
    assert list(work.iterdir()) == []


def test_a_folder_that_holds_no_export_is_named(main, work):
    found = main("package", work, "-o", "p", "--target", "ort")
    assert found.code == 1
    assert "no exported task at" in found.err
