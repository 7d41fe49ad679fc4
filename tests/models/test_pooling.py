"""What a head reads of a text: the arithmetic, what a model says itself, and classes that pool in another way."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from maskpack.formats import ArtifactError, ConfigError, ModelError, TaskEntry
from maskpack.formats.pooling import Pooling, pooling_fields, pooling_of, uses_pooler
from maskpack.models.linears import plain_state
from maskpack.models.load import load_classifier, load_finetuned, load_pretrained
from maskpack.models.locate import resolve
from maskpack.models.pooling import (
    KEY,
    actual_pooling,
    find_pooling,
    habit_of,
    other_than_habit,
    pool,
    pooling_in,
    set_pooling,
)

STATES = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
RIGHT, LEFT = torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([[0, 1, 1], [1, 1, 1]])


def pooled(mask, pooling, *, pad_left=False):
    return pool(STATES, mask, Pooling(pooling), pad_left=pad_left).tolist()


def of(*places):
    return [STATES[row, place].tolist() for row, place in enumerate(places)]


def test_each_pooling_reads_the_states_that_it_names_and_no_padding():
    assert pooled(RIGHT, "mean") == [
        STATES[0, :2].mean(dim=0).tolist(),
        STATES[1].mean(dim=0).tolist(),
    ]
    assert pooled(RIGHT, "cls") == of(0, 0)
    assert pooled(RIGHT, "last") == of(1, 2)
    assert pooled(LEFT, "cls", pad_left=True) == of(1, 0)
    assert pooled(LEFT, "last", pad_left=True) == of(2, 2)
    assert pooled(LEFT, "mean", pad_left=True)[0] == STATES[0, 1:].mean(dim=0).tolist()


def test_a_text_of_padding_alone_gives_numbers():
    nothing = torch.zeros(2, 3, dtype=torch.int64)
    for pooling in ("mean", "cls", "last"):
        assert np.isfinite(pooled(nothing, pooling)).all()


# what a model says


def with_parts(folder, tmp_path, mode, *, path="1_Pooling"):
    """A copy of a model as sentence-transformers saves it, pooling in a way."""
    place = tmp_path / "sentence"
    shutil.copytree(folder, place)
    parts = [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": path},
    ]
    (place / "modules.json").write_text(json.dumps(parts))
    (place / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False} | dict.fromkeys(
        mode, True
    )
    (place / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **modes})
    )
    return place


def found(place):
    return find_pooling(str(place), AutoConfig.from_pretrained(place))


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [
        (["pooling_mode_mean_tokens"], Pooling.MEAN),
        (["pooling_mode_cls_token"], Pooling.CLS),
        (["pooling_mode_lasttoken"], Pooling.LAST),
        (["pooling_mode_max_tokens"], Pooling.MEAN),  # not one of ours
        (["pooling_mode_cls_token", "pooling_mode_mean_tokens"], Pooling.MEAN),  # side by side
    ],
)
def test_a_sentence_model_without_a_pooler_says_its_pooling(
    without_pooler, tmp_path, mode, pooling
):
    assert found(with_parts(without_pooler, tmp_path, mode)) is pooling


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [("mean_tokens", Pooling.MEAN), ("cls_token", Pooling.CLS), ("max_tokens", None)],
)
def test_a_pooler_that_sentence_transformers_never_trained_is_not_read(
    tiny_model, tmp_path, mode, pooling
):
    assert found(with_parts(tiny_model, tmp_path, [f"pooling_mode_{mode}"])) is pooling


def test_the_demo_model_reads_the_mean_of_its_states():
    folder = resolve("demo")
    assert find_pooling("demo", AutoConfig.from_pretrained(folder)) is Pooling.MEAN


@pytest.mark.parametrize("path", ["../elsewhere", "", None, "/etc"])
def test_a_part_does_not_lead_out_of_the_folder(without_pooler, tmp_path, path):
    place = with_parts(without_pooler, tmp_path, ["pooling_mode_lasttoken"], path=path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    assert found(place) is Pooling.LAST


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", '"mean"'])
def test_damaged_files_say_nothing(without_pooler, tmp_path, text):
    place = with_parts(without_pooler, tmp_path, ["pooling_mode_lasttoken"])
    (place / "1_Pooling" / "config.json").write_text(text)
    assert found(place) is Pooling.MEAN
    (place / "modules.json").write_text(text)
    assert found(place) is Pooling.MEAN


def test_a_checkpoint_without_a_pooler_takes_the_mean(tiny_model, without_pooler):
    assert found(tiny_model) is None
    assert found(without_pooler) is Pooling.MEAN


def test_a_pooler_that_is_not_there_is_not_made_up(tiny_model, without_pooler):
    named = [
        {name for name, _ in load_pretrained(str(place)).model.named_parameters()}
        for place in (tiny_model, without_pooler)
    ]
    assert named[0] - named[1] == {"pooler.dense.weight", "pooler.dense.bias"}
    assert named[1] < named[0]


@pytest.mark.parametrize(
    ("kind", "habit"),
    [
        *(("bert", "pooler"), ("albert", "pooler"), ("roberta", "cls"), ("distilbert", "cls")),
        *(("electra", "cls"), ("gpt2", "last"), ("llama", "last"), ("xlnet", "last")),
        *(("modernbert", "cls"), ("deberta-v2", "cls")),
    ],
)
def test_a_family_has_the_habit_of_its_class_in_transformers(family_models, kind, habit):
    """The class reads nothing else: other states change, and its logits do not."""
    model = load_classifier(str(family_models(kind)), outputs=3).eval()
    model.config.pad_token_id = 0
    assert habit_of(model.config) == habit
    base, read = getattr(model, model.base_model_prefix), {}

    def note(_, __, outputs):
        read["states"] = outputs[0].detach().requires_grad_()
        if habit != "pooler":
            outputs = type(outputs)({**outputs, "last_hidden_state": read["states"]})
        return outputs

    handle = base.register_forward_hook(note)
    ids = torch.tensor([[5, 6, 7, 8]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    handle.remove()
    if habit == "pooler":
        return  # the pooler lies inside the base, and reads the first state there
    (gradient,) = torch.autograd.grad(logits.sum(), read["states"])
    touched = (gradient[0].abs().sum(dim=1) > 0).tolist()
    assert touched == ([True, False, False, False] if habit == "cls" else [False] * 3 + [True])


def test_what_a_family_cannot_is_refused(family_models):
    def config(kind):
        return AutoConfig.from_pretrained(family_models(kind))

    with pytest.raises(ConfigError, match="`roberta` has no pooler"):
        other_than_habit(Pooling.POOLER, config("roberta"))
    with pytest.raises(ConfigError, match="the first token of a `gpt2` has read no other token"):
        other_than_habit(Pooling.CLS, config("gpt2"))
    assert other_than_habit(Pooling.POOLER, config("bert")) is None
    assert other_than_habit(Pooling.CLS, config("bert")) is Pooling.CLS


# classes


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2", "xlnet"])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_pooled_class_reads_what_it_says_and_is_read_back(family_models, tmp_path, kind, pooling):
    wanted = Pooling(pooling)
    place = str(family_models(kind))
    if kind == "gpt2" and wanted is Pooling.CLS:
        pytest.skip("a decoder's first token has read no other")
    torch.manual_seed(3)
    model = load_classifier(place, outputs=3, pooling=wanted).eval()
    if habit_of(model.config) is wanted:
        assert pooling_in(model.config) is None
        return
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    left = kind == "xlnet"
    ids, mask = (ids.flip(1), mask.flip(1)) if left else (ids, mask)
    feeds = {"input_ids": ids, "attention_mask": mask.float() if left else mask}
    base = getattr(model, model.base_model_prefix)
    vector = pool(base(**feeds)[0], mask, wanted, pad_left=left)
    logits = model(**feeds).logits
    assert torch.allclose(logits, model.pooled_classifier(vector), atol=1e-6)
    assert not hasattr(base, "pooler") or base.pooler is None

    model.save_pretrained(tmp_path / "saved", state_dict=plain_state(model))
    back = load_finetuned(str(tmp_path / "saved"))
    assert actual_pooling(back.config) is wanted
    assert torch.equal(back(**feeds).logits, logits)


def test_transformers_own_class_finds_no_head_in_a_pooled_one(tiny_model, tmp_path):
    """Nobody gets wrong answers from a head that reads something else: it has other names."""
    load_classifier(str(tiny_model), outputs=3, pooling=Pooling.MEAN).save_pretrained(tmp_path)
    _, info = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, output_loading_info=True
    )
    assert {"classifier.weight", "classifier.bias"} <= set(info["missing_keys"])


def test_modernbert_pools_in_its_own_two_ways(family_models):
    model = load_classifier(str(family_models("modernbert")), outputs=2, pooling=Pooling.MEAN)
    assert model.config.classifier_pooling == "mean"
    assert pooling_in(model.config) is None
    assert type(model).__name__ == "ModernBertForSequenceClassification"


def test_eurobert_has_words_of_its_own_for_ways_of_pooling():
    """`late` is its usual one: the mean of the logits of all tokens."""
    config = SimpleNamespace(model_type="eurobert", classifier_pooling="late")
    assert habit_of(config) is Pooling.MEAN
    set_pooling(config, Pooling.CLS)
    assert config.classifier_pooling == "bos"
    assert habit_of(config) is Pooling.CLS
    set_pooling(config, Pooling.MEAN)
    assert config.classifier_pooling == "mean"


def test_an_unknown_pooling_is_refused_by_name(tiny_model, tmp_path):
    load_classifier(str(tiny_model), outputs=3, pooling=Pooling.MEAN).save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**tree, KEY: "attentive"}))
    with pytest.raises(ModelError, match="`maskpack_pooling` in `config.json` is 'attentive'"):
        load_finetuned(str(tmp_path))


# entries


def entry(**features):
    return TaskEntry(
        name="t",
        file="tasks/t.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("a", "b"),
        metric="accuracy",
        scores={"accuracy": 0.5},
        zeros=0,
        weights=4,
        max_length=8,
        **features,
    )


def test_an_entry_names_the_pooling_only_where_it_is_another():
    assert pooling_of(entry()) is None
    assert pooling_fields(None) == {}
    for pooling in Pooling:
        assert pooling_of(entry(**pooling_fields(pooling))) is pooling


@pytest.mark.parametrize(
    "config", [{}, {"pooling": "max"}, {"pooling": None}, {"pooling": ["cls"]}]
)
def test_an_entry_with_an_unknown_pooling_is_refused(config):
    with pytest.raises(ArtifactError, match="task `t` has the unknown pooling"):
        pooling_of(entry(requires=("pooling",), config=config))


def test_a_task_that_names_the_pooler_uses_it_as_one_that_names_nothing_may():
    assert uses_pooler(entry())
    used = [each for each in Pooling if uses_pooler(entry(**pooling_fields(each)))]
    assert used == [Pooling.POOLER]
