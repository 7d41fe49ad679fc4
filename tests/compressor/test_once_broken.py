"""Each of these was wrong once; named after the module it belongs to."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    run_baseline,
)
from maskpack.formats import (
    ArtifactError,
    ConfigError,
    DataError,
    Interrupted,
    ModelError,
    open_artifact,
)
from maskpack.models.load import load_pretrained, load_tokenizer
from maskpack.tasks import find_task
from maskpack.tasks.data.tables import read_rows
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.evaluation.metrics import pearson


# test_hub.py
def test_weights_that_do_not_fit_the_configuration_are_refused(tiny_models, tmp_path):
    shutil.copytree(tiny_models["bert"], tmp_path / "m")
    shutil.copy(tiny_models["distilbert"] / "model.safetensors", tmp_path / "m")
    with pytest.raises(ModelError, match="lack"):
        load_pretrained(str(tmp_path / "m"))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 3}, {"hidden_size": 16}])
def test_a_configuration_of_another_size_is_refused(change, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    tree = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**tree, **change}))
    with pytest.raises(ModelError):
        load_pretrained(str(tmp_path / "m"))


def test_weights_that_are_cut_short_are_our_error(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot load a model from"):
        load_pretrained(str(tmp_path / "m"))


def test_a_broken_tokenizer_json_is_our_error(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        load_tokenizer(str(tmp_path / "m"))


# test_resume.py
def test_going_on_over_another_model_is_refused(request_for, stop_at, tiny_model, shared, tmp_path):
    broken = request_for(checkpoint_every=10)
    with pytest.raises(Interrupted):
        fit_task(broken, on_progress=stop_at(15))
    shutil.copytree(tiny_model, tmp_path / "other")
    torch.manual_seed(5)
    shared.MODELS["bert"]().save_pretrained(tmp_path / "other")
    with pytest.raises(ArtifactError, match="belongs to a run with other options"):
        fit_task(replace(broken, model=str(tmp_path / "other"), resume=True))


# test_size.py
@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("bits", "group"), [(8, 0), (4, 16)])
def test_a_fit_with_a_large_target_stores_that_share_of_zeros(bits, group, sparsity, request_for):
    if bits == 4 and sparsity > 0.88:
        pytest.skip("more zeros than weights that are not zero anyway")
    result = fit_task(request_for(bits=bits, group=group, sparsity=sparsity))
    assert result.count.sparsity == pytest.approx(sparsity, abs=0.001)


# test_refusals.py
def test_a_place_that_is_taken_is_refused_before_training(request_for, tmp_path, snapshot):
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "precious.txt").write_text("keep me")
    steps, before = [], snapshot(tmp_path)
    with pytest.raises(ArtifactError, match="already exists"):
        fit_task(request_for(checkpoint_every=5), on_progress=lambda news: steps.append(news.step))
    assert (steps, snapshot(tmp_path)) == ([], before)


def test_a_fit_that_diverges_leaves_no_checkpoint(request_for, tmp_path):
    with pytest.raises(ModelError, match="diverged"):
        fit_task(request_for(head_lr=1e38, checkpoint_every=10))
    assert list(tmp_path.iterdir()) == []


# test_baseline.py
def baseline(tiny_model, data, out=None, **options):
    settings = {
        "steps": 3,
        "batch_size": 8,
        "max_length": 16,
        "precision": "fp32",
        "teacher": "none",
        **options,
    }
    config = BaselineConfig(**settings)
    return BaselineRequest(str(tiny_model), find_task("sst2"), config, out, data)


def test_a_baseline_refuses_more_tokens_than_positions(tiny_model, sentiment):
    with pytest.raises(ConfigError, match="the encoder has 64 positions"):
        run_baseline(baseline(tiny_model, sentiment, max_length=65))


def test_a_baseline_refuses_a_taken_place_before_training(tiny_model, sentiment, tmp_path):
    (tmp_path / "x").write_text("keep me")
    steps = []
    with pytest.raises(ArtifactError, match="already exists"):
        run_baseline(baseline(tiny_model, sentiment, tmp_path), on_progress=steps.append)
    assert steps == []


def test_a_baseline_that_diverges_is_refused(tiny_model, sentiment, tmp_path):
    with pytest.raises(ModelError, match="training diverged"):
        run_baseline(baseline(tiny_model, sentiment, tmp_path / "m", lr=1e38))
    assert list(tmp_path.iterdir()) == []


# test_tables.py, test_data.py
def test_gzip_with_damaged_contents_is_our_error(write):
    data = bytearray(gzip.compress(b"text\tlabel\n" + bytes(range(32, 127)) * 20))
    for place in range(40, 60):
        data[place] ^= 0xFF
    with pytest.raises(DataError, match="cannot read"):
        read_rows(write("a.tsv.gz", bytes(data)), ("text",))


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\u2029"])
def test_json_lines_end_at_line_feeds_only(write, mark):
    path = write("a.jsonl", json.dumps({"text": f"a{mark}b"}, ensure_ascii=False) + "\n")
    assert read_rows(path, ("text",)) == [(f"a{mark}b",)]


@pytest.mark.parametrize("label", ["\u00b2", "--5"])
def test_a_label_that_only_looks_like_a_number_is_a_word(write, label):
    from maskpack.tasks import load_data

    path = write("a.tsv", f"text\tlabel\na\t1\nb\t{label}\n")
    task = find_task("mine", text_field="text", label_field="label")
    assert set(load_data(task, data=path, eval_data=path).labels) == {"1", label}


# test_metrics.py
@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3])
@pytest.mark.parametrize("count", [3, 6, 10, 1000])
def test_two_constants_do_not_correlate(value, count):
    assert pearson(np.full(count, value), np.full(count, value)) == 0.0


# test_config.py
@pytest.mark.parametrize(
    "options",
    [
        {"steps": 2.5},
        {"batch_size": 2.5},
        {"train_rows": 2.5},
        {"seed": 1.5},
        {"max_length": 12.5},
        {"group": 1.5},
        {"checkpoint_every": 2.5},
        {"bits": 8.0},
        {"epochs": float("inf")},
        {"lr": float("inf")},
        {"floor": float("nan")},
    ],
)
def test_a_number_of_the_wrong_kind_is_refused(options):
    with pytest.raises(ConfigError):
        FitConfig.from_dict(options)


# test_assess.py
@pytest.fixture
def namesake(tiny_model, quick, tmp_path):
    """An own task under the name of a sample task, with the same columns and other labels."""
    for split in ("train", "dev"):
        rows = "good film\tup\nbad film\tdown\n" * 8
        (tmp_path / f"{split}.tsv").write_text(f"text\tlabel\n{rows}")
    task = find_task("reviews", text_field="text", label_field="label")
    fit_task(FitRequest(str(tiny_model), task, tmp_path / "a", quick(steps=3), data=tmp_path))
    return open_artifact(tmp_path / "a")


def test_an_own_task_is_not_taken_for_its_known_namesake(namesake, tmp_path):
    found = assess(namesake, "reviews", data=tmp_path)
    assert found.same_data
    assert found.scores == found.recorded
    with pytest.raises(DataError, match="not at hand"):
        assess(namesake, "reviews")
