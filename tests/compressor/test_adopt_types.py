"""Fine-tuned taggers and models that answer questions: as the start of a run, adopted, and carried over, without labels too."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.compressor.adopt import AdoptRequest, adopt_models
from maskpack.compressor.refit import RefitRequest, refit_tasks
from maskpack.formats import ModelError, open_artifact
from maskpack.models.build import reorder_outputs
from maskpack.tasks import find_task
from maskpack.tasks.context import restore_task
from maskpack.tasks.preprocess import load_splits
from maskpack.tasks.types import TASK_TYPES

TAGGED = [
    (["good", "film", "in", "happy"], ["B-person", "I-person", "O", "O"]),
    (["awful", "food", "film", "very"], ["B-place", "I-place", "B-person", "O"]),
    (["it", "was", "very", "awful"], ["O", "O", "O", "B-place"]),
    (["good", "story", "was", "film"], ["B-person", "O", "O", "B-person"]),
]
"""`good` and `film` are persons, `awful` and `food` are places."""


def fine_tune(model, task, data, out):
    settings = {"steps": 120, "batch_size": 16, "max_length": 32, "precision": "fp32"}
    config = BaselineConfig(**settings, lr=3e-3, head_lr=1e-2)
    run_baseline(BaselineRequest(str(model), task, config, out, data=data))
    return out


def tagging():
    return find_task("names", text_field="text", label_field="label", kind="token-classification")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder with words and tags, and their texts without tags."""
    root = tmp_path_factory.mktemp("words")
    for split in ("train", "dev"):
        rows = ["\n".join(map("\t".join, zip(*row, strict=True))) for row in TAGGED * 10]
        (root / f"{split}.conll").write_text("\n\n".join(rows) + "\n")
    lines = [" ".join(row) for row, _ in TAGGED * 10]
    (root / "texts.txt").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module")
def tagger(tmp_path_factory, tiny_model, words):
    """A fine-tuned tagger whose tags have another order than ours."""
    place = fine_tune(tiny_model, tagging(), words, tmp_path_factory.mktemp("tagger") / "names")
    model = AutoModelForTokenClassification.from_pretrained(place)
    assert list(model.config.id2label.values()) == [
        "O",
        "B-person",
        "I-person",
        "B-place",
        "I-place",
    ]
    order = [4, 2, 0, 3, 1]
    reorder_outputs(model, order, [model.config.id2label[number] for number in order])
    model.save_pretrained(place)
    return place


def test_a_tagger_in_another_order_is_the_start_with_the_same_answers(tagger, tiny_model, words):
    data, finding = load_splits(
        str(tagger), tagging(), data=words, eval_data=None, train_rows=None, revision=None
    )
    ours = ("O", "B-person", "I-person", "B-place", "I-place")
    assert data.labels == finding.head.labels == ours
    assert "5 labels match" in finding.note or "O = O" in finding.note
    theirs = AutoModelForTokenClassification.from_pretrained(tagger).eval()
    places = [theirs.config.label2id[label] for label in ours]
    assert places != list(range(5))
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits[..., places]
        torch.testing.assert_close(finding.classifier(input_ids=ids).logits, expected)


def test_a_tagger_as_the_model_reports_its_own_metric(tagger, words, quick, tmp_path):
    config = quick(teacher=None, max_length=32)
    result = fit_task(FitRequest(str(tagger), tagging(), tmp_path / "a", config, data=words))
    assert result.original["entity_f1"] > 0.9
    assert result.scores["entity_f1"] > 0.9  # the head starts as the tagger's, over 4 bits


def test_tags_of_another_scheme_get_a_fresh_head(tagger, words, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(tagger)
    model.config.id2label = {number: f"LABEL_{number}" for number in range(5)}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "unnamed")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "unnamed" / name).write_bytes((tagger / name).read_bytes())
    _, finding = load_splits(
        str(tmp_path / "unnamed"),
        tagging(),
        data=words,
        eval_data=None,
        train_rows=None,
        revision=None,
    )
    assert finding.head is None
    assert "does not name its outputs" in finding.note


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["I-b", "O", "B-b", "B-a", "I-a"], ("O", "B-a", "I-a", "B-b", "I-b")),
        (["O", "I-a", "I-b"], None),
        (["LABEL_0", "LABEL_1"], None),
    ],
)
def test_tags_of_a_model_in_our_order(names, labels):
    assert TASK_TYPES["token-classification"].of_model(names) == labels


def test_a_tagger_is_adopted_from_texts_without_tags(tagger, tiny_model, words, quick, tmp_path):
    config = quick(teacher=None, max_length=32, bits=8, steps=150)
    request = AdoptRequest(
        {"names": str(tagger)}, tmp_path / "a", str(tiny_model), config, texts=words / "texts.txt"
    )
    (task,) = adopt_models(request).tasks
    assert not task.labelled
    assert task.result.scores["entity_f1"] > 0.8  # four rows, of the entities that the tagger finds
    assert open_artifact(tmp_path / "a").entry("names").kind == "token-classification"
    spans = {span for row in task.rows.labels for span in row}
    assert {(0, 9, 0), (0, 10, 1)} & spans  # `good film` a person, `awful food` a place

    # with tagged rows to be evaluated on
    beside = AdoptRequest(
        {"names": str(tagger)},
        tmp_path / "b",
        str(tiny_model),
        config,
        texts=words / "texts.txt",
        eval_data={"names": words / "dev.conll"},
    )
    (task,) = adopt_models(beside).tasks
    assert task.result.scores["entity_f1"] > 0.9


def test_outputs_that_are_no_tags_are_refused(tagger, tiny_model, words, quick, tmp_path):
    model = AutoModelForTokenClassification.from_pretrained(tagger)
    model.config.id2label = {number: f"POS{number}" for number in range(5)}
    model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    model.save_pretrained(tmp_path / "nouns")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "nouns" / name).write_bytes((tagger / name).read_bytes())
    request = AdoptRequest(
        {"nouns": str(tmp_path / "nouns")},
        tmp_path / "a",
        str(tiny_model),
        quick(teacher=None, max_length=32),
        texts=words / "texts.txt",
    )
    with pytest.raises(ModelError, match="has the outputs POS0, POS1, POS2, POS3, POS4, which are"):
        adopt_models(request)


def test_entities_go_to_another_backbone_without_tags(tagger, tiny_model, words, quick, tmp_path):
    config = quick(teacher=None, max_length=32)
    old = tmp_path / "old"
    fit_task(FitRequest(str(tagger), tagging(), old, config, data=words, name="names"))
    result = refit_tasks(
        RefitRequest(
            old,
            str(tiny_model),
            tmp_path / "new",
            quick(bits=8, teacher=None),
            texts=words / "texts.txt",
        )
    )
    (task,) = result.tasks
    assert not task.labelled
    assert task.result.scores["entity_f1"] > 0.9


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Rows of questions, half of which have an answer; contexts of several windows."""
    rows = []
    for number in range(40):
        context = f"it was {'very ' * (number % 7)}good film and {'story ' * (number % 5)}food"
        start = context.index("good film")
        answers = {"text": ["good film"], "answer_start": [start]}
        rows.append({"question": "film", "context": context, "answers": answers})
    root = tmp_path_factory.mktemp("asked")
    for split in ("train", "dev"):
        (root / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    lines = [f"{row['question']}\t{row['context']}" for row in rows]
    (root / "texts.txt").write_text("\n".join(lines) + "\n")
    return root


def test_a_model_that_answers_questions_is_adopted_without_answers(
    asked, tiny_model, quick, tmp_path
):
    task = find_task(
        "asked",
        text_field="question",
        pair_field="context",
        label_field="answers",
        kind="question-answering",
    )
    place = fine_tune(tiny_model, task, asked, tmp_path / "asked")
    assert isinstance(AutoModelForQuestionAnswering.from_pretrained(place), torch.nn.Module)
    config = quick(teacher=None, max_length=16)
    request = AdoptRequest(
        {"asked": str(place)}, tmp_path / "a", str(tiny_model), config, texts=asked / "texts.txt"
    )
    (adopted,) = adopt_models(request).tasks
    assert not adopted.labelled
    artifact = open_artifact(tmp_path / "a")
    assert artifact.entry("asked").kind == "question-answering"
    found = [
        row[1][start:end]
        for row, ((start, end),) in zip(adopted.rows.texts, adopted.rows.labels, strict=True)
    ]
    assert np.mean([text == "good film" for text in found]) > 0.8  # what the model answers
    assert adopted.result.scores["answer_f1"] > 0.8
    assert restore_task(artifact, "asked").config.num_labels == 2
