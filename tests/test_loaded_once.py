"""What several steps of a command need is loaded once and passed on."""

from __future__ import annotations

import pytest
import transformers

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    run_baseline,
)
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.formats import open_artifact, reader
from maskpack.tasks import find_task

SHORT = {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"}


@pytest.fixture
def counts(monkeypatch):
    """Calls of what is slow, by name."""
    found = {"tokenizers": 0, "patches": 0, "models": 0}

    def counted(name, real):
        def call(*args, **kwargs):
            found[name] += 1
            return real(*args, **kwargs)

        return call

    tokenizer, model = transformers.PreTrainedTokenizerBase, transformers.PreTrainedModel
    monkeypatch.setattr(tokenizer, "__init__", counted("tokenizers", tokenizer.__init__))
    real = model.from_pretrained.__func__
    monkeypatch.setattr(model, "from_pretrained", classmethod(counted("models", real)))
    monkeypatch.setattr(reader, "decode_patch", counted("patches", reader.decode_patch))
    return found


def test_a_verified_export_builds_one_tokenizer_and_decodes_a_patch_once(
    counts, tiny_artifact, sentiment, tmp_path
):
    tolerance = Tolerance.of("int8", max_drop=100.0)
    request = ExportRequest(
        tiny_artifact, "sst2", tmp_path / "out", "int8", tolerance, data=sentiment
    )
    assert export_onnx(request).accuracy is not None, "the graph was verified on rows"
    assert counts == {"tokenizers": 1, "patches": 1, "models": 0}


def test_a_shared_export_decodes_each_patch_once(counts, tiny_artifact, sentiment, tmp_path):
    tolerance = Tolerance.of("int8", max_drop=100.0)
    data = {"sst2": sentiment}
    export_shared(SharedRequest(tiny_artifact, (), tmp_path / "o", "int8", tolerance, data=data))
    assert counts == {"tokenizers": 1, "patches": 1, "models": 0}


def test_a_fine_tuned_model_is_loaded_once(counts, tiny_model, sentiment, tmp_path):
    dense, task = tmp_path / "dense", find_task("sst2")
    config = BaselineConfig(method="full", **SHORT)
    run_baseline(BaselineRequest(str(tiny_model), task, config, out=dense, data=sentiment))
    counts.update(dict.fromkeys(counts, 0))
    result = fit_task(
        FitRequest(str(dense), task, tmp_path / "a", FitConfig(**SHORT), data=sentiment)
    )
    assert result.original is not None, "its own head was found and measured"
    assert counts == {"tokenizers": 1, "patches": 0, "models": 1}


def test_an_artifact_keeps_no_more_than_a_few_patches(monkeypatch, counts, tiny_artifact):
    monkeypatch.setattr(reader, "_KEPT", 1)
    artifact = open_artifact(tiny_artifact)
    first = artifact.patch("sst2")
    assert artifact.patch("sst2") is first
    artifact._kept["other"] = artifact._kept.pop("sst2")  # as if another task had come last
    assert artifact.patch("sst2") is not first
    assert list(artifact._kept) == ["sst2"]
    assert counts["patches"] == 2
