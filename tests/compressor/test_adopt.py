"""Fine-tuned checkpoints of one base become tasks of one artifact, with labels or without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.compressor.adopt import AdoptRequest, adopt_models, named_models
from maskpack.formats import ConfigError, ModelError, check_artifact, open_artifact
from maskpack.models.base_model import ancestry, find_base
from maskpack.models.load import load_finetuned
from maskpack.tasks import find_task
from maskpack.tasks.options import TaskOptions


def fine_tune(model, data, out, **options):
    settings = {"steps": 200, "batch_size": 16, "max_length": 16, "precision": "fp32"}
    config = BaselineConfig(**{**settings, "lr": 3e-3, "head_lr": 1e-2, **options})
    run_baseline(BaselineRequest(str(model), find_task("sst2"), config, out, data=data))
    return out


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, tiny_model, sentiment):
    """Two fine-tunings of the tiny BERT; the second answers the other way round."""
    root = tmp_path_factory.mktemp("checkpoints")
    first = fine_tune(tiny_model, sentiment, root / "mood")
    turned = root / "turned"
    turned.mkdir()
    for name in ("train", "dev"):
        lines = (sentiment / f"{name}.tsv").read_text().splitlines()
        flipped = [f"{line[:-1]}{1 - int(line[-1])}" for line in lines[1:]]
        (turned / f"{name}.tsv").write_text("\n".join([lines[0], *flipped]) + "\n")
    second = fine_tune(tiny_model, turned, root / "contrary", seed=1)
    return {"mood": str(first), "contrary": str(second)}


@pytest.fixture
def learn(quick):
    """A function: options of a short run whose teacher is the checkpoint."""
    return lambda **options: quick(teacher=None, **options)


def dev_file(sentiment, folder):
    """The evaluation rows with the labels as the checkpoints name them."""
    lines = (sentiment / "dev.tsv").read_text().splitlines()
    named = [f"{line[:-1]}{('negative', 'positive')[int(line[-1])]}" for line in lines[1:]]
    path = folder / "dev.tsv"
    path.write_text("\n".join(["text\tlabel", *named]) + "\n")
    return path


def test_checkpoints_are_adopted_from_texts_without_labels(
    checkpoints, tiny_model, texts, sentiment, learn, tmp_path
):
    config = learn(steps=200, margin=0.5, bits=8)
    dev = dev_file(sentiment, tmp_path)
    request = AdoptRequest(
        checkpoints, tmp_path / "a", str(tiny_model), config, texts=texts, eval_data={"mood": dev}
    )
    result = adopt_models(request)
    assert check_artifact(tmp_path / "a") == []
    mood, contrary = result.tasks
    assert (mood.labelled, contrary.labelled) == (False, False)
    assert mood.result.original["accuracy"] > 0.9, "measured on the labelled rows"
    assert mood.result.score > 0.85
    assert contrary.result.original["accuracy"] == 1.0, "its own answers are the measure"
    # of nine rows; six seeds gave .67 to 1
    assert contrary.result.same_answers == contrary.result.score > 0.6
    artifact = open_artifact(tmp_path / "a")
    entry = artifact.entry("contrary")
    assert entry.data["adopted"] == "contrary"
    assert entry.data["labels"] == "of the fine-tuned model"
    assert entry.training["teacher"] == "contrary"
    assert entry.labels == ("negative", "positive")
    assert result.bytes_after == result.backbone_bytes + mood.packed_bytes + contrary.packed_bytes
    assert result.bytes_after < result.bytes_before / 3
    assert json.loads(json.dumps(result.to_dict()))["bytes_before"] == result.bytes_before


def test_labels_are_used_where_there_are_any_and_texts_beside_them(
    checkpoints, tiny_model, texts, sentiment, learn, tmp_path
):
    dev = dev_file(sentiment, tmp_path)
    request = AdoptRequest(
        {"mood": checkpoints["mood"]},
        tmp_path / "a",
        str(tiny_model),
        learn(steps=20),
        data={"mood": dev},
        texts=texts,
    )
    (mood,) = adopt_models(request).tasks
    assert mood.labelled
    entry = open_artifact(tmp_path / "a").entry("mood")
    assert entry.data["unlabelled_rows"] == 96
    assert mood.result.train_rows == entry.data["train_rows"] + 96


def test_rows_without_a_label_are_left_out_or_answered_by_the_checkpoint(
    checkpoints, tiny_model, sentiment, learn, tmp_path
):
    lines = dev_file(sentiment, tmp_path).read_text().splitlines()
    lines[4] = lines[4].split("\t")[0] + "\t"
    rows = tmp_path / "gaps.tsv"
    rows.write_text("\n".join([*lines, ""]))
    for said, learned in (("skip", 0), ("teach", 1)):
        request = AdoptRequest(
            {"mood": checkpoints["mood"]},
            tmp_path / said,
            str(tiny_model),
            learn(steps=2),
            data={"mood": rows},
            columns=TaskOptions(unlabelled=said),
        )
        (mood,) = adopt_models(request).tasks
        found = mood.result
        assert found.rows_without_label == {"train": 1, "eval": 0, "learned": learned}
        assert found.train_rows + found.eval_rows == 31 + learned


def test_a_finished_task_is_left_and_the_next_goes_on(
    checkpoints, tiny_model, texts, learn, tmp_path
):
    first = AdoptRequest(
        {"mood": checkpoints["mood"]}, tmp_path / "a", str(tiny_model), learn(steps=2), texts=texts
    )
    adopt_models(first)
    before = (tmp_path / "a" / "tasks" / "mood.safetensors").read_bytes()
    again = AdoptRequest(
        checkpoints,
        tmp_path / "a",
        str(tiny_model),
        learn(steps=3),
        texts=texts,
        resume=True,
    )
    mood, contrary = adopt_models(again).tasks
    assert mood.result is None
    assert contrary.result.steps == 3
    assert (tmp_path / "a" / "tasks" / "mood.safetensors").read_bytes() == before


def test_the_base_is_found_by_what_a_checkpoint_says_and_by_its_weights(
    checkpoints, tiny_model, tmp_path
):
    folder = tmp_path / "named"
    shutil.copytree(checkpoints["mood"], folder)
    (folder / "README.md").write_text(f"---\nbase_model: {tiny_model}\n---\n# mood\n")
    name, base = find_base([str(folder)])
    assert name == str(tiny_model)
    found = ancestry(base, load_finetuned(str(folder)), "named")
    assert found.related
    assert set(found.layers) == {"embeddings", "layer 0", "layer 1"}
    assert 0 < found.equal_rows < 1, "rows of tokens that no text holds"
    with pytest.raises(ConfigError, match="the base of .* is not found"):
        find_base([checkpoints["mood"]])  # the tiny model is no alias and in no cache


def test_a_checkpoint_of_another_base_is_refused_with_its_distances(
    checkpoints, tiny_model, texts, learn, tmp_path
):
    other = tmp_path / "other"
    shutil.copytree(checkpoints["mood"], other)
    model = AutoModelForSequenceClassification.from_pretrained(other)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.bert.encoder.layer[1].parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * parameter.std())
    model.save_pretrained(other)
    request = AdoptRequest(
        {"mood": checkpoints["mood"], "other": str(other)},
        tmp_path / "a",
        str(tiny_model),
        learn(steps=1),
        texts=texts,
    )
    with pytest.raises(ModelError, match=r"was not fine-tuned from .*layer 1 1\.[3-5]"):
        adopt_models(request)
    assert not (tmp_path / "a").exists(), "all are checked before the first step"


def test_a_checkpoint_with_other_tokens_is_refused(checkpoints, tiny_model, texts, learn, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkpoints["mood"], other)
    path = other / "tokenizer.json"
    tree = json.loads(path.read_text())
    words = tree["model"]["vocab"]
    plain = [name for name in words if not name.startswith("[")]
    ids = [words[name] for name in plain]
    tree["model"]["vocab"] = {**words, **dict(zip(plain, reversed(ids), strict=True))}
    path.write_text(json.dumps(tree))
    request = AdoptRequest(
        {"other": str(other)}, tmp_path / "a", str(tiny_model), learn(steps=1), texts=texts
    )
    with pytest.raises(ModelError, match="gives other tokens than"):
        adopt_models(request)


def test_names_come_from_paths():
    assert named_models(["runs/Big Mood", "b=x/y"]) == {"big-mood": "runs/Big Mood", "b": "x/y"}
    with pytest.raises(ConfigError, match="both would be the task `a`"):
        named_models(["x/a", "y/a"])


def test_requests_that_cannot_succeed_are_refused(tmp_path, quick):
    with pytest.raises(ConfigError, match="each checkpoint is its own teacher"):
        AdoptRequest({"a": "x"}, tmp_path, config=quick(), texts=Path("t.txt"))
    with pytest.raises(ConfigError, match="no checkpoint to adopt"):
        AdoptRequest({}, tmp_path)
    with pytest.raises(ConfigError, match="`a` has no rows to be learned from"):
        AdoptRequest({"a": "x"}, tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint of `b`"):
        AdoptRequest({"a": "x"}, tmp_path, data={"b": Path("rows.csv")}, texts=Path("t.txt"))
