"""Masks that are filled, beside classes on one backbone: learned, exported in every layout, answered as torch and transformers do."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
import transformers
from onnx.numpy_helper import to_array

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import Compute, SharedRequest
from maskpack.formats import DataError, ExportError, open_artifact
from maskpack.runtime import Session
from maskpack.runtime.fills import Filled
from maskpack.tasks import find_task
from maskpack.tasks.context import restore_task
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.evaluation.exported import assess_exported

KIND = "fill-mask"
EXACT = Tolerance.of(Compute.FP32)
WORDS = ("good", "film", "was", "great", "the", "story", "sad", "food", "very", "awful")


def sentences(rows: int, seed: int) -> list[str]:
    """Texts of one word, said again and again."""
    rng = np.random.default_rng(seed)
    words, lengths = rng.integers(len(WORDS), size=rows), rng.integers(4, 40, size=rows)
    return [" ".join([WORDS[w]] * int(n)) for w, n in zip(words, lengths, strict=True)]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A folder with texts, one in a line."""
    folder = tmp_path_factory.mktemp("lines")
    for name, rows in (("train", 160), ("dev", 40)):
        (folder / f"{name}.txt").write_text("\n".join(sentences(rows, rows)) + "\n")
    return folder


@pytest.fixture(scope="module")
def task():
    return find_task("lines", text_field="text", kind=KIND)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment, lines, quick, task):
    """A classifier, and what fills masks, over blocks of 16 tokens."""
    out = tmp_path_factory.mktemp("both") / "artifact"
    options = quick(steps=150, max_length=16, head_lr=0.03)
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, quick(), data=sentiment))
    fit_task(FitRequest(str(tiny_model), task, out, options, data=lines))
    return out


def test_masks_are_learned(artifact, lines):
    found = assess(open_artifact(artifact), "lines", data=lines)
    assert found.rows == 40
    assert found.scores["perplexity"] < 2
    assert found.scores["masked_accuracy"] > 0.8
    assert 7 < found.majority["perplexity"] < 10, "ten words are about as frequent"
    patch = open_artifact(artifact).patch("lines")
    assert set(patch.head) == {
        "cls.predictions.bias",
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }, "the decoder is the backbone's table"
    assert patch.head["cls.predictions.bias"].nbytes == 2 * 50


@pytest.fixture(scope="module")
def folded(artifact, lines, tmp_path_factory):
    out = tmp_path_factory.mktemp("folded") / "graph"
    report = export_onnx(ExportRequest(artifact, "lines", out, "fp32", EXACT, data=lines))
    assert report.ok, report.findings
    assert report.accuracy.max_diff < 1e-4
    assert report.accuracy.agreement == 1.0
    assert max(check.max_diff for check in report.values) < 1e-4
    return out


def test_a_folded_graph_holds_its_table_once(folded):
    graph = onnx.load(str(folded / "model.onnx")).graph
    tables = [one.name for one in graph.initializer if 50 in one.dims and 32 in one.dims]
    assert tables == ["bert.embeddings.word_embeddings.codes"]
    (table,) = (one for one in graph.initializer if one.name == tables[0])
    assert to_array(table).dtype == np.int8
    (output,) = graph.output
    dims = [dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim]
    assert dims == ["batch", "sequence", 50]


def test_a_graph_is_evaluated_on_the_tokens_that_torch_is(artifact, lines, folded):
    opened = open_artifact(artifact)
    exported, own = (
        assess_exported(opened, folded, "lines", data=lines),
        assess(opened, "lines", data=lines),
    )
    assert exported.scores == pytest.approx(own.scores, rel=1e-5)
    assert exported.majority == own.majority
    assert own.scores == pytest.approx(own.recorded, rel=1e-5)
    config = json.loads((folded / "task.json").read_text())
    assert (config["mask_id"], config["mask_token"]) == (4, "[MASK]")
    assert config["requires"] == ["mask"]


MASKED = ["story story [MASK] story", "[MASK] was was", "the good [MASK] good [MASK] the the"]


def theirs(pipe, texts):
    """What a pipeline of transformers answers: for each text and each mask score and token of the five best."""
    found = []
    for text in texts:
        answers = pipe(text)
        each = answers if isinstance(answers[0], list) else [answers]
        found.append([[(one["score"], one["token_str"]) for one in mask] for mask in each])
    return found


def ours(answers):
    return [[[(one.score, one.token) for one in m.tokens] for m in row.masks] for row in answers]


def compare(left, right):
    """Whether answers are the same; tokens of nearly one probability may change places."""
    for one, other in zip(left, right, strict=True):
        for mask, wanted in zip(one, other, strict=True):
            assert [score for score, _ in mask] == pytest.approx([s for s, _ in wanted], abs=1e-5)
            assert mask[0][1] == wanted[0][1]
            left, right = ({t for score, t in one if score > 1e-3} for one in (mask, wanted))
            assert left == right


def test_a_session_fills_masks_as_a_pipeline_does(artifact, folded, tmp_path):
    folder = tmp_path / "plain"
    write_hf(open_artifact(artifact), "lines", folder)
    answers = Session(folded).predict(MASKED)
    assert {type(one) for one in answers} == {Filled}
    compare(ours(answers), theirs(transformers.pipeline(KIND, str(folder)), MASKED))
    best = answers[0].masks[0]
    assert (best.start, best.end) == (12, 18)
    assert best.tokens[0].text == "story story story story"
    assert [len(one.masks) for one in answers] == [1, 1, 2]
    assert answers[2].cell == "|".join(mask.tokens[0].token for mask in answers[2].masks)
    assert answers[0].to_dict()["masks"][0]["tokens"][0] == {
        "token": best.tokens[0].token,
        "score": best.tokens[0].score,
        "text": best.tokens[0].text,
    }


def test_a_part_of_a_word_stands_beside_the_word(folded):
    parts = [
        guess
        for one in Session(folded).predict([f"{word} [MASK] ." for word in WORDS])
        for guess in one.masks[0].tokens
        if guess.token == "##s"
    ]
    for guess in parts:
        assert guess.text.split(" ")[0] in {f"{word}s" for word in WORDS}


def test_masks_of_long_texts_are_filled_in_their_block(folded):
    text = " ".join(["the story sad food very awful good film was great"] * 4) + " sad [MASK] sad"
    (answer,) = Session(folded).predict([text])
    (mask,) = answer.masks
    assert text[mask.start : mask.end] == "[MASK]"
    assert mask.tokens[0].text == text.replace("[MASK]", mask.tokens[0].token)


def test_a_text_without_a_mask_is_refused_and_stops_no_other(folded):
    good, bad = Session(folded).predict_each(["the [MASK]", "the story"])
    assert isinstance(good, Filled)
    assert isinstance(bad, DataError)
    with pytest.raises(DataError, match=r"row 2: `the story` has no mask to fill") as caught:
        Session(folded).predict(["the [MASK]", "the story"])
    assert caught.value.hint == "write `[MASK]` where a word is to be found"


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_masks_and_classes_share_a_backbone(artifact, lines, sentiment, folded, tmp_path, layout):
    data, out = {"lines": lines, "sst2": sentiment}, tmp_path / layout
    reports = export_shared(
        SharedRequest(artifact, (), out, "fp32", EXACT, data=data, layout=layout)
    )
    assert all(report.ok for report in reports.values()), reports
    assert all(report.accuracy.max_diff < 1e-4 for report in reports.values())
    session = Session(out)
    compare(ours(session.predict(MASKED, task="lines")), ours(Session(folded).predict(MASKED)))
    assert session.predict(["good"], task="sst2")[0].label in {"negative", "positive"}
    graph = out / ("base-fill-mask.onnx" if layout == "swap" else "lines.onnx")
    held = onnx.load(str(graph), load_external_data=False).graph.initializer
    (table,) = (one for one in held if one.name == "bert.embeddings.word_embeddings.codes")
    assert table.data_location == onnx.TensorProto.EXTERNAL, "it lies in backbone.bin alone"


def test_a_trunk_is_refused(artifact, tmp_path):
    request = SharedRequest(artifact, ("lines",), tmp_path / "t", "fp32", EXACT, layout="trunk")
    with pytest.raises(ExportError, match="the decoder of `lines` is the table of tokens"):
        export_shared(request)


@pytest.mark.parametrize("compute", ["int8", "nbits", "fp16"])
def test_other_arithmetic(artifact, lines, tmp_path, compute):
    out = tmp_path / "g"
    tolerance = Tolerance.of(Compute(compute), max_drop=100.0)
    report = export_onnx(ExportRequest(artifact, "lines", out, compute, tolerance, data=lines))
    assert report.ok, report.findings
    opened = open_artifact(artifact)
    exact = assess(opened, "lines", data=lines).scores["perplexity"]
    found = assess_exported(opened, out, "lines", data=lines).scores["perplexity"]
    assert found == pytest.approx(exact, rel=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_optimum_loads_the_folder(folded):
    loaded = pytest.importorskip("optimum.onnxruntime").ORTModelForMaskedLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(folded)
    pipe = transformers.pipeline(KIND, model=loaded.from_pretrained(folded), tokenizer=tokenizer)
    compare(theirs(pipe, MASKED), ours(Session(folded).predict(MASKED)))


def test_the_plain_model_has_the_masked_weights(artifact, tmp_path):
    folder = tmp_path / "plain"
    write_hf(open_artifact(artifact), "lines", folder)
    plain = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    own = restore_task(open_artifact(artifact), "lines")
    ids = torch.tensor([[2, 5, 4, 7, 3]])
    with torch.inference_mode():
        assert torch.equal(plain(ids).logits, own(ids).logits)
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight


def test_a_run_starts_from_a_pretrained_head(artifact, lines, tmp_path, quick, task):
    folder = tmp_path / "plain"
    write_hf(open_artifact(artifact), "lines", folder)
    options = quick(steps=1, max_length=16)
    result = fit_task(FitRequest(str(folder), task, tmp_path / "a", options, data=lines))
    scores = assess(open_artifact(artifact), "lines", data=lines).scores
    assert result.original == pytest.approx(scores, rel=1e-4)
    assert result.scores["perplexity"] < 2 * scores["perplexity"]


@pytest.mark.parametrize(
    "kind",
    [
        "albert",
        *(
            pytest.param(k, marks=pytest.mark.slow)
            for k in ("deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")
        ),
    ],
)
def test_other_families(kind, family_models, lines, tmp_path, quick, task):
    place = tmp_path / "a"
    options = quick(steps=3, max_length=16)
    fit_task(FitRequest(str(family_models(kind)), task, place, options, data=lines))
    for layout in ("folded", "shared", "swap"):
        out = tmp_path / layout
        if layout == "folded":
            report = export_onnx(ExportRequest(place, "lines", out, "fp32", EXACT, data=lines))
        else:
            request = SharedRequest(
                place, (), out, "fp32", EXACT, data={"lines": lines}, layout=layout
            )
            (report,) = export_shared(request).values()
        assert report.ok, report.findings
        assert report.accuracy.max_diff < 1e-4
        assert Session(out).predict(["the [MASK]"])[0].masks[0].tokens
