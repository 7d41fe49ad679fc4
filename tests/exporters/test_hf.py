"""The plain transformers model of a task: the same bits, and nothing half written."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from maskpack.exporters.hf import check_same, write_hf
from maskpack.formats import ArtifactError, VerifyError, open_artifact
from maskpack.tasks.context import restore_task


def test_transformers_reads_the_masked_model_bit_for_bit(tiny_artifact, tmp_path):
    artifact = open_artifact(tiny_artifact)
    found = write_hf(artifact, "sst2", tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain").eval()
    masked = restore_task(artifact, "sst2")
    assert plain.dtype == torch.float32
    for (name, own), (other, read) in zip(
        masked.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert name == other
        assert own.detach().numpy().tobytes() == read.detach().numpy().tobytes()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "plain")
    feeds = tokenizer(["the good one", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(plain(**feeds).logits, masked(**feeds).logits)
    assert plain.config.id2label == dict(enumerate(artifact.entry("sst2").labels))
    assert found.zeros >= artifact.entry("sst2").zeros
    assert found.parameters == sum(p.numel() for p in plain.parameters())


def test_every_removed_weight_is_an_exact_zero(tiny_artifact, tmp_path):
    artifact = open_artifact(tiny_artifact)
    write_hf(artifact, "sst2", tmp_path / "plain")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "plain")
    parameters = dict(plain.bert.named_parameters())
    for name, mask in artifact.patch("sst2").masks.items():
        assert not parameters[name].detach().numpy()[~mask.to_bool()].any()


def test_a_place_that_is_taken_is_refused(tiny_artifact, tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "mine").write_text("x")
    with pytest.raises(ArtifactError, match="already exists"):
        write_hf(open_artifact(tiny_artifact), "sst2", tmp_path / "plain")


def test_a_difference_of_one_bit_is_noticed(tiny_artifact):
    first, second = (restore_task(open_artifact(tiny_artifact), "sst2") for _ in range(2))
    check_same(first, second)
    with torch.no_grad():
        value = next(second.parameters()).view(-1)
        value[0] = float(np.nextafter(np.float32(value[0]), np.float32(9)))
    with pytest.raises(VerifyError, match="was not read back"):
        check_same(first, second)


def test_a_tokenizer_that_was_changed_is_not_used(tiny_artifact, tmp_path):
    folder = shutil.copytree(tiny_artifact, tmp_path / "a")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"good"', '"GOOD"'))
    with pytest.raises(ArtifactError, match="is damaged"):
        write_hf(open_artifact(folder), "sst2", tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
