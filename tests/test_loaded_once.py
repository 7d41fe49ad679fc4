"""What several steps of a command need is loaded once and passed on."""

from __future__ import annotations

import logging
import shutil
from contextlib import contextmanager

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
from maskpack.formats import add_task, open_artifact
from maskpack.tasks import find_task

READER = "maskpack.formats.reader"
SHORT = {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"}


@pytest.fixture
def counts(monkeypatch):
    """Calls of what is slow, by name."""
    found = {"tokenizers": 0, "models": 0}

    def counted(name, real):
        def call(*args, **kwargs):
            found[name] += 1
            return real(*args, **kwargs)

        return call

    tokenizer, model = transformers.PreTrainedTokenizerBase, transformers.PreTrainedModel
    monkeypatch.setattr(tokenizer, "__init__", counted("tokenizers", tokenizer.__init__))
    real = model.from_pretrained.__func__
    monkeypatch.setattr(model, "from_pretrained", classmethod(counted("models", real)))
    return found


@contextmanager
def patches_read(caplog):
    """Files of tasks that were read inside, as the reader's log names them."""
    files: list[str] = []
    caplog.clear()
    with caplog.at_level(logging.DEBUG, READER):
        yield files
    files += [
        said.message for said in caplog.records if said.name == READER and "/tasks/" in said.message
    ]


def test_a_verified_export_builds_one_tokenizer_and_decodes_a_patch_once(
    counts, caplog, tiny_artifact, sentiment, tmp_path
):
    tolerance = Tolerance.of("int8", max_drop=100.0)
    request = ExportRequest(
        tiny_artifact, "sst2", tmp_path / "out", "int8", tolerance, data=sentiment
    )
    with patches_read(caplog) as files:
        assert export_onnx(request).accuracy is not None, "the graph was verified on rows"
    assert counts == {"tokenizers": 1, "models": 0}
    assert len(files) == 1


def test_a_shared_export_decodes_each_patch_once(
    counts, caplog, tiny_artifact, sentiment, tmp_path
):
    tolerance = Tolerance.of("int8", max_drop=100.0)
    data = {"sst2": sentiment}
    request = SharedRequest(tiny_artifact, (), tmp_path / "o", "int8", tolerance, data=data)
    with patches_read(caplog) as files:
        export_shared(request)
    assert counts == {"tokenizers": 1, "models": 0}
    assert len(files) == 1


def test_a_fine_tuned_model_is_loaded_once(counts, tiny_model, sentiment, tmp_path):
    dense, task = tmp_path / "dense", find_task("sst2")
    config = BaselineConfig(method="full", **SHORT)
    run_baseline(BaselineRequest(str(tiny_model), task, config, out=dense, data=sentiment))
    counts.update(dict.fromkeys(counts, 0))
    result = fit_task(
        FitRequest(str(dense), task, tmp_path / "a", FitConfig(**SHORT), data=sentiment)
    )
    assert result.original is not None, "its own head was found and measured"
    assert counts == {"tokenizers": 1, "models": 1}


def test_an_artifact_keeps_no_more_than_a_few_patches(caplog, tiny_artifact, tmp_path):
    """Each may hold a file open."""
    artifact = open_artifact(shutil.copytree(tiny_artifact, tmp_path / "a"))
    entry, patch = artifact.entry("sst2"), artifact.patch("sst2")
    names = [f"task{number}" for number in range(9)]
    for name in names:
        artifact = add_task(artifact.path, entry.renamed(name), patch)
    with patches_read(caplog) as files:
        first = artifact.patch(names[0])
        assert artifact.patch(names[0]) is first
        for name in names[1:]:
            last = artifact.patch(name)
    assert len(files) == len(names)
    with patches_read(caplog) as files:
        assert artifact.patch(names[-1]) is last
        assert artifact.patch(names[0]) is not first
    assert len(files) == 1
