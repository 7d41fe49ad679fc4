"""The exported folder: whole or not there, and readable by others."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import transformers
from export_kit import ROW_KINDS, exact_options
from onnx_ir.passes import PassError

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import (
    Compute,
    ExportRequest,
    Report,
    Tolerance,
    export_onnx,
    make_session,
    ort_predict,
)
from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.layouts import LAYOUTS
from maskpack.formats import ArtifactError, DataError, MaskpackError
from maskpack.tasks import find_task
from maskpack.tasks.task import Kind

LOOSE = Tolerance(1e6, 100.0)
LABELS = {"0": "negative", "1": "positive"}
TEXTS = ["the film was good", "awful food", "we"]


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_the_folder_holds_graph_configuration_tokenizer_and_report(exported, kind):
    one = exported(kind, "int8")
    names = {path.name for path in one.folder.iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "maskpack_report.json"} <= names
    assert not [name for name in names if name.startswith(".") or name.endswith(".tmp")]
    config = json.loads((one.folder / "config.json").read_text())
    assert config["id2label"] == LABELS
    assert config["label2id"] == {"negative": 0, "positive": 1}
    assert config["architectures"][0].endswith("ForSequenceClassification")


def test_the_report_in_the_folder_is_the_one_that_was_returned(exported):
    one = exported("bert", "int8")
    assert Report.from_json((one.folder / "maskpack_report.json").read_text()) == one.report


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_optimum_loads_the_folder_and_gives_the_same_logits(exported, kind):
    one = exported(kind, "int8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
        from transformers import AutoTokenizer

        model = optimum.ORTModelForSequenceClassification.from_pretrained(
            one.folder, session_options=exact_options()
        )
        tokenizer = AutoTokenizer.from_pretrained(one.folder)
        session = make_session(one.graph)
        names = [value.name for value in session.get_inputs()]
        feeds = {
            name: value
            for name, value in tokenizer(TEXTS, padding=True, return_tensors="pt").items()
            if name in names
        }
        theirs = model(**feeds).logits.numpy()
    ours = ort_predict(session)({name: value.numpy() for name, value in feeds.items()})
    np.testing.assert_array_equal(theirs, ours)
    assert ours.shape == (3, 2)
    assert model.config.id2label == {0: "negative", 1: "positive"}


def test_a_roberta_is_exported_without_token_types(exported):
    one = exported("roberta", "int8")
    names = [value.name for value in make_session(one.graph).get_inputs()]
    assert names == ["input_ids", "attention_mask"]
    assert one.report.ok


def own_task(name, kind=Kind.CLASSIFICATION, **fields):
    return find_task(name, label_field="label", kind=kind, **fields)


def fit_own(model, task, data, out):
    config = FitConfig(steps=4, batch_size=8, max_length=24, precision="fp32", teacher="none")
    fit_task(FitRequest(str(model), task, out, config, data=data))
    request = ExportRequest(out, task.name, out.with_name("onnx"), Compute.FP32, LOOSE, data=data)
    return export_onnx(request), request.out


def test_a_regression_has_one_output_and_is_scored_as_one(tiny_model, sentiment, tmp_path):
    task = own_task("warmth", Kind.REGRESSION, text_field="sentence")
    report, folder = fit_own(tiny_model, task, sentiment, tmp_path / "artifact")
    assert report.ok
    assert report.accuracy.metric == "spearman"
    assert report.accuracy.agreement == 1.0
    (logits,) = make_session(folder / "model.onnx").get_outputs()
    assert logits.shape == ["batch", 1]
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "regression"


def test_a_task_of_pairs_and_three_words_as_labels_keeps_their_names(tiny_model, tmp_path):
    rows = [("good film", "bad food", "no"), ("we", "it", "maybe"), ("fine", "nice", "yes")] * 4
    for name in ("train", "dev"):
        lines = ["left\tright\tlabel", *("\t".join(row) for row in rows)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    task = own_task("pairs", text_field="left", pair_field="right")
    report, folder = fit_own(tiny_model, task, tmp_path, tmp_path / "artifact")
    assert report.accuracy.max_diff < 1e-4  # second texts are of token type 1
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "maybe", "1": "no", "2": "yes"}


def listing(folder):
    return {str(p.relative_to(folder)): p.is_file() and p.read_bytes() for p in folder.rglob("*")}


@pytest.fixture
def request_for(artifacts, tmp_path):
    def make(*, tolerance=LOOSE, **changes):
        values = {"artifact": artifacts["bert"], "task": "sst2", "out": tmp_path / "out"}
        values |= {"compute": Compute.INT8, "tolerance": tolerance, **changes}
        return ExportRequest(**values)

    return make


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(request_for, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    before = listing(tmp_path)
    with pytest.raises(ArtifactError, match="already exists") as error:
        export_onnx(request_for())
    assert error.value.hint == "choose another place"
    assert listing(tmp_path) == before


def test_a_file_in_the_way_is_refused_and_left_alone(request_for, tmp_path):
    (tmp_path / "out").write_text("keep")
    with pytest.raises(ArtifactError, match="already exists"):
        export_onnx(request_for())
    assert listing(tmp_path) == {"out": b"keep"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"task": "nope"}, ArtifactError),
        ({"artifact": "nowhere"}, ArtifactError),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_written(
    request_for, tmp_path, changes, error
):
    if "artifact" in changes:
        changes = {"artifact": tmp_path / changes["artifact"]}
    with pytest.raises(error):
        export_onnx(request_for(**changes))
    assert listing(tmp_path) == {}


def test_outside_its_tolerance_the_graph_is_kept_under_a_name_that_says_so(request_for, tmp_path):
    report = export_onnx(request_for(tolerance=Tolerance(1e-12, 100.0)))
    assert not report.ok
    assert all("differ by" in line for line in report.findings)
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed"]
    kept = Report.from_json((tmp_path / "out.failed" / "maskpack_report.json").read_text())
    assert kept == report
    assert (tmp_path / "out.failed" / "model.onnx").is_file()


def test_an_older_failure_is_replaced(request_for, tmp_path):
    (tmp_path / "out.failed").mkdir()
    (tmp_path / "out.failed" / "old").write_text("")
    export_onnx(request_for(tolerance=Tolerance(1e-12, 100.0)))
    assert not (tmp_path / "out.failed" / "old").exists()
    assert (tmp_path / "out.failed" / "model.onnx").is_file()


def test_an_empty_folder_is_filled(request_for, tmp_path):
    (tmp_path / "out").mkdir()
    assert export_onnx(request_for()).ok
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_without_verification_there_is_no_verdict_and_no_report(request_for, tmp_path):
    assert export_onnx(request_for(verify=False)) is None
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert not (tmp_path / "out" / "maskpack_report.json").exists()


def in_the_arithmetic(monkeypatch, fail):
    monkeypatch.setitem(ARITHMETICS, "int8", replace(ARITHMETICS["int8"], emit=fail))


def in_the_layout(monkeypatch, fail):
    monkeypatch.setitem(LAYOUTS, "folded", replace(LAYOUTS["folded"], write=fail))


def in_the_tokenizer(monkeypatch, fail):
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", fail)


def in_the_runtime(monkeypatch, fail):
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)


@pytest.mark.parametrize("crash", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    "place", [in_the_arithmetic, in_the_layout, in_the_tokenizer, in_the_runtime]
)
def test_a_crash_in_the_middle_leaves_nothing_behind(
    request_for, tmp_path, monkeypatch, place, crash
):
    def fail(*_, **__):
        raise crash("in the middle")

    place(monkeypatch, fail)
    with pytest.raises((crash, MaskpackError, PassError)):
        export_onnx(request_for())
    assert listing(tmp_path) == {}


def test_data_that_cannot_be_read_leaves_nothing_behind(request_for, tmp_path):
    with pytest.raises(DataError):
        export_onnx(request_for(data=tmp_path / "nowhere.tsv"))
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("broken", ["mkdir", "write"])
def test_a_disk_that_refuses_is_our_error_and_leaves_nothing_behind(
    request_for, tmp_path, monkeypatch, broken
):
    if broken == "mkdir":
        (tmp_path / "file").write_text("")
        request = request_for(out=tmp_path / "file" / "out")
    else:
        request = request_for()
        in_the_tokenizer(monkeypatch, raiser(OSError(28, "No space left on device")))
    before = listing(tmp_path)
    with pytest.raises(ArtifactError, match="cannot write"):
        export_onnx(request)
    assert listing(tmp_path) == before


def raiser(error):
    def fail(*_, **__):
        raise error

    return fail
