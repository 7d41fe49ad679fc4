"""A fine-tuned checkpoint with a pooler, adopted on a pretrained model that has none: the pooler is a part of the task's head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from maskpack.compressor import AdoptRequest, RefitRequest, adopt_models, refit_tasks
from maskpack.compressor.repeat import recorded_run
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import SharedRequest
from maskpack.formats import ArtifactError, ModelError, check_artifact, open_artifact
from maskpack.formats.pooling import FEATURE, OWN_POOLER, Pooling, pooling_of
from maskpack.models.pooling import own_pooler
from maskpack.runtime import Session
from maskpack.tasks.context import restore_task

WORDS = [
    "the",
    "film",
    "was",
    "food",
    "very",
    "quite",
    "and",
    "this",
    "story",
    "we",
    "it",
    "good",
    "bad",
]
HEAD = {f"pooled_{part}.{kind}" for part in ("pooler", "classifier") for kind in ("weight", "bias")}


@pytest.fixture
def checkpoint(without_pooler, tmp_path):
    """A classifier over the encoder, whose pooler and head are larger than random ones."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(without_pooler, num_labels=2)
    model.config.id2label = {0: "down", 1: "up"}
    model.config.label2id = {"down": 0, "up": 1}
    with torch.no_grad():
        model.bert.pooler.dense.bias.uniform_(-1, 1)
        model.classifier.weight.mul_(4)
    model.save_pretrained(tmp_path / "mood")
    AutoTokenizer.from_pretrained(without_pooler).save_pretrained(tmp_path / "mood")
    return tmp_path / "mood"


@pytest.fixture
def texts(tmp_path):
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(WORDS, rng.integers(3, 9))) for _ in range(160)]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "texts.txt"


@pytest.fixture
def request_for(checkpoint, without_pooler, texts, quick, tmp_path):
    config = quick(teacher=None, bits=8, steps=60, max_length=16)
    out = tmp_path / "a"
    return AdoptRequest({"mood": str(checkpoint)}, out, str(without_pooler), config, texts=texts)


def test_a_pooler_of_the_checkpoint_is_adopted_exported_and_carried_over(
    request_for, without_pooler, texts, quick, tmp_path
):
    (task,) = adopt_models(request_for).tasks
    assert task.result.same_answers > 0.8
    assert check_artifact(request_for.out) == []
    artifact = open_artifact(request_for.out)
    entry = artifact.entry("mood")
    assert entry.requires == (OWN_POOLER,)
    assert FEATURE not in entry.config
    assert pooling_of(entry) is Pooling.OWN
    with pytest.raises(ArtifactError, match="requires `own-pooler` and `pooling`"):
        pooling_of(replace(entry, requires=(OWN_POOLER, FEATURE), config={FEATURE: "mean"}))
    assert "pooling" not in recorded_run(artifact, "mood").tree, "it comes with the checkpoint"
    patch = artifact.patch("mood")
    assert set(patch.head) == HEAD
    assert not any("pooler" in name for name in (*patch.masks, *artifact.backbone.linears))

    request = ExportRequest(request_for.out, "mood", tmp_path / "g", "fp32", Tolerance.of("fp32"))
    assert export_onnx(request).ok
    lines = texts.read_text().splitlines()[:20]
    tokens = AutoTokenizer.from_pretrained(without_pooler)(lines, padding=True, return_tensors="pt")
    with torch.inference_mode():
        wanted = restore_task(artifact, "mood")(**tokens).logits.numpy()
    np.testing.assert_allclose(Session(tmp_path / "g").logits(lines), wanted, atol=1e-4)
    for layout in ("shared", "swap"):
        every = SharedRequest(
            request_for.out, (), tmp_path / layout, "fp32", Tolerance.of("fp32"), layout=layout
        )
        assert export_shared(every)["mood"].ok
    with pytest.raises(ModelError, match="the head of `mood` has a pooler of its own"):
        write_hf(artifact, "mood", tmp_path / "hf")

    again = RefitRequest(
        request_for.out,
        str(without_pooler),
        tmp_path / "b",
        quick(teacher=None, bits=4, steps=20, max_length=16),
        texts=texts,
    )
    refit_tasks(again)
    carried = open_artifact(tmp_path / "b")
    assert carried.entry("mood").requires == (OWN_POOLER,)
    assert set(carried.patch("mood").head) == HEAD


def test_the_head_with_a_pooler_of_its_own_says_what_the_checkpoint_says(checkpoint, request_for):
    """Pooler and head as they are, over the float encoder."""
    from maskpack.models.load import load_finetuned
    from maskpack.models.pooling import with_pooling

    model = load_finetuned(str(checkpoint)).eval()
    parameters = own_pooler(model)
    assert set(parameters) == HEAD
    tokens = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4)}
    with torch.inference_mode():
        wanted = model(**tokens).logits
        other = with_pooling(model, Pooling.OWN).eval()
        other.load_state_dict(parameters, strict=False)
        torch.testing.assert_close(other(**tokens).logits, wanted)


def test_a_pooler_of_another_form_is_refused(checkpoint, request_for, monkeypatch):
    from maskpack.compressor import pooling
    from maskpack.models.load import load_finetuned

    with monkeypatch.context() as patched:
        patched.setattr(pooling, "own_pooler", lambda _: None)
        with pytest.raises(ModelError, match="has no pooler, and that of `.*mood`") as caught:
            adopt_models(request_for)
    assert caught.value.hint == "name one with a pooler as `base`"
    assert not request_for.out.exists()
    model = load_finetuned(str(checkpoint))
    model.bert.pooler.activation = torch.nn.ReLU()
    assert own_pooler(model) is None
    model.bert.pooler.activation = torch.nn.Tanh()
    model.classifier = torch.nn.Sequential(model.classifier, torch.nn.Linear(2, 2))
    assert own_pooler(model) is None


def test_a_base_with_a_pooler_keeps_the_familys_head(request_for, tiny_model, texts):
    adopt_models(replace(request_for, base=str(tiny_model)))
    assert open_artifact(request_for.out).entry("mood").requires == ()
