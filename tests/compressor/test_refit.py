"""Tasks are carried onto another backbone: masks and heads are starts, the old tasks teach."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import FitRequest, RefitRequest, fit_task, refit_tasks
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.formats import (
    ArtifactError,
    ConfigError,
    Interrupted,
    ModelError,
    check_artifact,
    open_artifact,
)
from maskpack.tasks import find_task

IDLE = {"margin": 50.0, "head_lr": 1e-12, "dense_lr": 1e-12}  # no score travels so far


@pytest.fixture(scope="module")
def old(tmp_path_factory, tiny_model, sentiment, quick):
    """An 8-bit artifact with a learned task of two labels, and one of a number with a prefix."""
    root = tmp_path_factory.mktemp("old")
    config = quick(bits=8, steps=300, margin=0.5, head_lr=1e-2, train_bias=True)
    fit_task(
        FitRequest(str(tiny_model), find_task("sst2"), root / "a", config, data=sentiment),
    )
    rows = [line.split("\t") for line in (sentiment / "train.tsv").read_text().splitlines()[1:]]
    lines = "".join(f"{text}\t{100 + 20 * int(label)}\n" for text, label in rows)
    (root / "number.tsv").write_text(f"text\tnumber\n{lines}")
    number = find_task(
        "number", text_field="text", label_field="number", kind="regression", prefix="query: "
    )
    fit_task(
        FitRequest(
            str(tiny_model), number, root / "a", config, data=root / "number.tsv", bits_given=False
        )
    )
    return root / "a"


@pytest.fixture
def learn(quick):
    """A function: options of a short run whose teacher is the old task."""
    return lambda **options: quick(**{"teacher": None, "margin": 0.3, **options})


def test_tasks_go_to_fewer_bits_without_labels(
    old, tiny_model, texts, sentiment, learn, tmp_path, snapshot
):
    before = snapshot(old)
    config = learn(bits=4, steps=200, margin=0.5, head_lr=1e-2, train_bias=True)
    result = refit_tasks(
        RefitRequest(
            old,
            str(tiny_model),
            tmp_path / "new",
            config,
            texts=texts,
            eval_data={"sst2": sentiment},
        )
    )
    assert snapshot(old) == before
    assert check_artifact(tmp_path / "new") == []
    number, mood = result.tasks
    assert (number.name, mood.name, result.bits) == ("number", "sst2", 4)
    assert result.backbone_bytes < result.backbone_bytes_before
    assert not mood.labelled
    assert mood.result.original["accuracy"] == open_artifact(old).entry("sst2").scores["accuracy"]
    assert mood.result.score >= mood.result.original["accuracy"] - 0.1
    assert mood.result.same_answers >= 0.7  # six seeds gave .75 to .91
    entry = open_artifact(tmp_path / "new").entry("sst2")
    assert entry.data["labels"] == "of the old task"
    assert entry.data["refitted_from"] == open_artifact(old).manifest.source.model
    assert entry.labels == open_artifact(old).entry("sst2").labels


def test_the_old_mask_is_the_start(old, tiny_model, texts, learn, tmp_path):
    config = learn(bits=4, steps=2, **IDLE)
    refit_tasks(RefitRequest(old, str(tiny_model), tmp_path / "new", config, texts=texts))
    for name in ("sst2", "number"):
        start, end = (open_artifact(path).patch(name) for path in (old, tmp_path / "new"))
        assert start.count.zeros > 0
        for layer, mask in start.masks.items():
            zero = open_artifact(tmp_path / "new").backbone.linears[layer].codes == 0
            np.testing.assert_array_equal(end.masks[layer].to_bool(), mask.to_bool() | zero)
        for layer, value in start.head.items():
            np.testing.assert_allclose(end.head[layer], value, rtol=2e-3, atol=1e-6)
    was, now = (open_artifact(path).entry("number") for path in (old, tmp_path / "new"))
    assert now.config == was.config
    assert now.requires == was.requires == ("prefix", "target-scale")


def test_onto_the_same_weights_answers_stay(old, texts, learn, tmp_path):
    """Everything a task says of inputs and outputs goes along: prefix, unit of the number, order of labels."""
    make = RefitRequest(
        old, str(old), tmp_path / "new", learn(steps=2, bits=8, **IDLE), texts=texts
    )
    result = refit_tasks(make)
    assert open_artifact(tmp_path / "new").manifest.backbone_sha256 == (
        open_artifact(old).manifest.backbone_sha256
    )
    number, mood = result.tasks
    assert mood.result.same_answers == 1.0
    assert number.result.scores["spearman"] > 0.999


def test_an_artifact_takes_the_tasks_of_another_with_labels(
    old, tiny_model, sentiment, learn, tmp_path
):
    target = tmp_path / "target"
    make_backbone(str(tiny_model), target, learn(bits=2, refine=0))
    backbone = open_artifact(target).manifest.backbone_sha256
    request = RefitRequest(
        old, str(target), config=learn(), tasks=("sst2",), data={"sst2": sentiment}
    )
    with pytest.raises(ArtifactError, match="has 2 bits, 4 were asked for"):
        refit_tasks(request)
    request = replace(request, bits_given=False)
    (mood,) = refit_tasks(request).tasks
    assert mood.result.options["bits"] == 2
    assert mood.labelled
    assert open_artifact(target).manifest.backbone_sha256 == backbone
    assert list(open_artifact(target).manifest.tasks) == ["sst2"]
    with pytest.raises(ArtifactError, match="already"):
        refit_tasks(request)
    assert refit_tasks(replace(request, resume=True)).tasks[0].result is None
    assert refit_tasks(replace(request, replace=True)).tasks[0].result is not None


def test_a_table_with_plain_columns_is_taken(old, tiny_model, sentiment, learn, tmp_path):
    rows = [line.split("\t") for line in (sentiment / "train.tsv").read_text().splitlines()[1:]]
    names = ("negative", "positive")
    table = tmp_path / "rows.csv"
    table.write_text(
        "text,label\n" + "".join(f"{text},{names[int(label)]}\n" for text, label in rows)
    )
    config = learn(bits=4)
    request = RefitRequest(
        old, str(tiny_model), tmp_path / "new", config, ("sst2",), data={"sst2": table}
    )
    (mood,) = refit_tasks(request).tasks
    assert mood.labelled
    entry = open_artifact(tmp_path / "new").entry("sst2")
    assert entry.labels == open_artifact(old).entry("sst2").labels


def test_a_stopped_run_goes_on_to_the_same_bytes(
    old, tiny_model, texts, learn, stop_at, snapshot, tmp_path
):
    config = learn(bits=4, steps=20, checkpoint_every=5)
    whole, broken = (
        RefitRequest(old, str(tiny_model), tmp_path / name, config, texts=texts)
        for name in ("whole", "broken")
    )
    refit_tasks(whole)
    with pytest.raises(Interrupted):
        refit_tasks(broken, on_progress=lambda name: stop_at(12) if name == "number" else _pass)
    refit_tasks(replace(broken, resume=True))
    assert snapshot(broken.place) == snapshot(whole.place)


def _pass(_):
    pass


def test_what_cannot_be_carried_over_is_refused_before_the_first_step(
    old, tiny_model, texts, learn, tmp_path, family_models
):
    def request(onto, out="new", **more):
        return RefitRequest(old, str(onto), tmp_path / out, learn(bits=4), texts=texts, **more)

    with pytest.raises(ConfigError, match="is no artifact that could take the tasks"):
        RefitRequest(old, str(tiny_model))
    with pytest.raises(ConfigError, match="each task is its own teacher"):
        RefitRequest(old, str(tiny_model), tmp_path / "new", learn(teacher="twin"))
    with pytest.raises(ConfigError, match="`number` has no rows"):
        refit_tasks(replace(request(tiny_model), texts=None))
    with pytest.raises(ArtifactError, match="nope"):
        refit_tasks(request(tiny_model, tasks=("nope",)))
    with pytest.raises(ArtifactError, match="mask"):
        refit_tasks(request(family_models("electra")))
    other = tmp_path / "other-tokens"
    shutil.copytree(tiny_model, other)
    tree = json.loads((other / "tokenizer.json").read_text())
    words = tree["model"]["vocab"]
    words["[UNK]"], words["film"] = words["film"], words["[UNK]"]
    (other / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ModelError, match="gives other tokens than"):
        refit_tasks(request(other))
    make_backbone(str(tiny_model), tmp_path / "two", learn(bits=2, refine=0))
    with pytest.raises(ConfigError, match="two` has no task to carry over"):
        refit_tasks(replace(request(tiny_model), artifact=tmp_path / "two"))
    with pytest.raises(ArtifactError, match="has the backbone"):
        refit_tasks(replace(request(old), out=tmp_path / "two", bits_given=False))
    assert not (tmp_path / "new").exists()
