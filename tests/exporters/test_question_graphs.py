"""Questions beside classes on one backbone: learned, exported in every layout, and answered as torch and transformers do."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import Compute, SharedRequest
from maskpack.formats import ModelError, open_artifact
from maskpack.models.sketch import class_for_task
from maskpack.runtime import Answer, Session
from maskpack.tasks import find_task
from maskpack.tasks.context import restore_task
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.evaluation.exported import assess_exported

KIND = "question-answering"
FILLER = ["the", "film", "was", "story", "very", "we", "it"]
GOOD = ["good", "great", "fine", "nice", "happy"]
EXACT = Tolerance.of(Compute.FP32)


def questions(rows, seed):
    """Contexts in which one thing is good, or none: what is asked for."""
    rng = np.random.default_rng(seed)
    for number in range(rows):
        words = [str(rng.choice(FILLER)) for _ in range(rng.integers(5, 40))]
        place, answers = int(rng.integers(len(words))), {"text": [], "answer_start": []}
        if number % 5:
            answer = f"{rng.choice(GOOD)} food"
            words.insert(place, answer)
            start = len(" ".join(words[:place])) + (place > 0)
            answers = {"text": [answer], "answer_start": [start]}
        yield {
            "id": number,
            "question": "quite good and" if number % 2 else "and good",
            "context": " ".join(words),
            "answers": answers,
        }


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with questions, one in a line."""
    folder = tmp_path_factory.mktemp("asked")
    for name, rows in (("train", 160), ("dev", 40)):
        lines = (json.dumps(row) for row in questions(rows, rows))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def task():
    return find_task(
        "asked",
        text_field="question",
        pair_field="context",
        label_field="answers",
        kind=KIND,
        stride=8,
    )


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, tiny_model, sentiment, asked, quick, task):
    """A classifier, and what answers questions, over windows of 32 tokens."""
    out = tmp_path_factory.mktemp("both") / "artifact"
    options = quick(steps=150, max_length=32, head_lr=0.3)
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, quick(), data=sentiment))
    fit_task(FitRequest(str(tiny_model), task, out, options, data=asked))
    return out


@pytest.fixture(scope="module")
def pairs(asked):
    """Questions and contexts of the evaluation rows, and one without a context."""
    rows = [json.loads(line) for line in (asked / "dev.jsonl").read_text().splitlines()]
    return [(row["question"], row["context"]) for row in rows] + [("good", "")]


def test_answers_are_learned(artifact, asked):
    found = assess(open_artifact(artifact), "asked", data=asked)
    assert found.rows == 40
    assert found.scores["answer_f1"] > 0.7
    assert found.majority == {"answer_f1": 0.2, "exact_match": 0.2}


@pytest.fixture(scope="module")
def folded(artifact, asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("folded") / "graph"
    report = export_onnx(ExportRequest(artifact, "asked", out, "fp32", EXACT, data=asked))
    assert report.ok, report.findings
    assert report.accuracy.rows == 40
    assert report.accuracy.max_diff < 1e-4
    assert report.accuracy.agreement == 1.0
    return out


def test_a_folded_graph_answers_with_places(artifact, asked, folded, pairs):
    answers = Session(folded).predict(pairs)
    assert {type(one) for one in answers} == {Answer}
    for (_, context), one in zip(pairs, answers, strict=True):
        assert one.text == context[one.start : one.end]
        assert 0 < one.score <= 1
    assert answers[-1] == Answer("", 0, 0, answers[-1].score)
    assert answers[1].to_dict() == {
        "text": answers[1].cell, "start": answers[1].start, "end": answers[1].end, "score": answers[1].score,
    }  # fmt: skip
    exported = assess_exported(open_artifact(artifact), folded, data=asked)
    assert exported.scores == assess(open_artifact(artifact), "asked", data=asked).scores
    config = json.loads((folded / "task.json").read_text())
    assert (config["stride"], config["no_answer"]) == (8, True)
    assert config["requires"] == ["no-answer", "stride"]
    assert (config["format_version"], config["texts"]) == (2, 2)


def asked_of(pipe, pairs):
    """What a pipeline of transformers answers."""
    how = {"max_seq_len": 32, "doc_stride": 8, "max_answer_len": 30, "align_to_words": False}
    return [
        pipe(question=question, context=context, handle_impossible_answer=True, **how)
        for question, context in pairs
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_transformers_gives_the_same_answers(artifact, folded, pairs, tmp_path):
    folder = tmp_path / "plain"
    write_hf(open_artifact(artifact), "asked", folder)
    theirs = asked_of(transformers.pipeline(KIND, str(folder)), pairs[:-1])
    ours = Session(folded).predict(pairs[:-1])
    assert sum(len(pair[1].split()) > 24 for pair in pairs) > 5  # of several windows
    same = [
        (one["start"], one["end"]) == (own.start, own.end)
        for one, own in zip(theirs, ours, strict=True)
    ]
    assert all(same)
    short = [place for place, pair in enumerate(pairs[:-1]) if len(pair[1].split()) < 20]
    assert [theirs[place]["score"] for place in short] == pytest.approx(
        [ours[place].score for place in short], abs=1e-4
    )


@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_questions_and_classes_share_a_backbone(
    artifact, asked, sentiment, folded, pairs, tmp_path, layout
):
    data = {"asked": asked, "sst2": sentiment}
    out = tmp_path / layout
    request = SharedRequest(artifact, (), out, "fp32", EXACT, data=data, layout=layout)
    reports = export_shared(request)
    assert all(report.ok and report.accuracy.max_diff < 1e-4 for report in reports.values())
    session = Session(out)
    answers = session.predict(pairs, task="asked")
    assert [one.text for one in answers] == [one.text for one in Session(folded).predict(pairs)]
    assert session.predict(["good"], task="sst2")[0].label in {"negative", "positive"}
    if layout == "swap":
        assert (out / "base-question-answering.onnx").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_optimum_loads_the_folder(folded, pairs):
    loaded = pytest.importorskip("optimum.onnxruntime").ORTModelForQuestionAnswering
    tokenizer = transformers.AutoTokenizer.from_pretrained(folded)
    pipe = transformers.pipeline(KIND, model=loaded.from_pretrained(folded), tokenizer=tokenizer)
    theirs = asked_of(pipe, pairs[:6])
    ours = Session(folded).predict(pairs[:6])
    assert [one["answer"] for one in theirs] == [one.text for one in ours]


def test_int8(artifact, asked, tmp_path):
    out = tmp_path / "g"
    tolerance = Tolerance.of(Compute.INT8, max_drop=100.0)
    report = export_onnx(ExportRequest(artifact, "asked", out, "int8", tolerance, data=asked))
    assert report.ok
    scores = assess_exported(open_artifact(artifact), out, data=asked).scores
    assert scores["answer_f1"] > 0.7


def test_a_prefix_and_a_trunk(tmp_path, tiny_model, asked, sentiment, quick, task, pairs):
    own = replace(task, prefixes=("film : ", "story : "))
    place, out = tmp_path / "a", tmp_path / "t"
    for one, rows in ((own, asked), (find_task("sst2"), sentiment)):
        options = quick(layers="1", max_length=32, head_lr=0.3)
        fit_task(FitRequest(str(tiny_model), one, place, options, data=rows))
    data = {"asked": asked, "sst2": sentiment}
    reports = export_shared(SharedRequest(place, (), out, "fp32", EXACT, data=data, layout="trunk"))
    assert all(report.ok for report in reports.values())
    assert reports["asked"].texts.same
    opened = open_artifact(place)
    scores = assess(opened, "asked", data=asked).scores
    assert assess_exported(opened, out, "asked", data=asked).scores == scores
    found = Session(out).predict(pairs, task="asked")
    for (_, context), one in zip(pairs, found, strict=True):
        assert one.text == context[one.start : one.end]


def test_a_run_starts_from_a_head_that_answers_questions(artifact, asked, tmp_path, quick, task):
    folder = tmp_path / "plain"
    write_hf(open_artifact(artifact), "asked", folder)
    options = quick(steps=1, max_length=32)
    result = fit_task(FitRequest(str(folder), task, tmp_path / "a", options, data=asked))
    assert result.original == {"answer_f1": 1.0, "exact_match": 1.0}


@pytest.mark.parametrize(
    "kind",
    [
        "xlnet",
        *(
            pytest.param(k, marks=pytest.mark.slow)
            for k in ("albert", "deberta-v2", "distilbert", "electra", "gpt2", "llama", "modernbert", "roberta")
        ),
    ],
)  # fmt: skip
def test_other_families(kind, family_models, asked, tmp_path, quick, task):
    place, out = tmp_path / "a", tmp_path / "g"
    options = quick(steps=3, max_length=32)
    fit_task(FitRequest(str(family_models(kind)), task, place, options, data=asked))
    report = export_onnx(ExportRequest(place, "asked", out, "fp32", EXACT, data=asked))
    assert report.ok, report.findings
    assert report.accuracy.agreement == 1.0
    assert not json.loads((out / "task.json").read_text()).get("pad_side")


def test_a_plain_llama_has_the_names_of_its_class(family_models, asked, tmp_path, quick, task):
    """transformers calls the encoder of this class otherwise than that of all others."""
    place, folder = tmp_path / "a", tmp_path / "plain"
    fit_task(
        FitRequest(
            str(family_models("llama")), task, place, quick(steps=2, max_length=32), data=asked
        )
    )
    write_hf(open_artifact(place), "asked", folder)
    plain, info = transformers.LlamaForQuestionAnswering.from_pretrained(
        folder, output_loading_info=True
    )
    assert not [*info["missing_keys"], *info["unexpected_keys"]]
    ours = restore_task(open_artifact(place), "asked")
    ids = torch.arange(5, 15)[None]
    with torch.inference_mode():
        found, wanted = ours(ids), plain(ids)
    assert torch.equal(found.start_logits, wanted.start_logits)
    assert torch.equal(found.end_logits, wanted.end_logits)
    again = FitRequest(str(folder), task, tmp_path / "b", quick(steps=1, max_length=32), data=asked)
    assert fit_task(again).original is not None


def test_a_family_without_a_class_is_refused_by_name():
    with pytest.raises(ModelError, match="has no `ForQuestionAnswering` of `vit`"):
        class_for_task(transformers.ViTConfig(), "AutoModelForQuestionAnswering")
