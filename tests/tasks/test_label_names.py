"""`id2label` and `label2id` as people write them; and a number with an activation behind it."""

from __future__ import annotations

import json

import pytest
from transformers import BertConfig, BertModel

from maskpack.compressor import FitRequest, fit_task
from maskpack.compressor.adopt import AdoptRequest, adopt_models
from maskpack.formats import ModelError, open_artifact
from maskpack.models.load import load_classifier, load_tokenizer
from maskpack.tasks import find_task
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.pretrained_head import find_head
from maskpack.tasks.task import Task

UNNAMED = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}


@pytest.fixture
def classifier(tiny_model, tmp_path):
    """A function: a classifier whose `config.json` has further entries."""

    def make(outputs=2, **entries):
        folder = tmp_path / "classifier"
        load_classifier(str(tiny_model), outputs=outputs).save_pretrained(folder)
        load_tokenizer(str(tiny_model)).save_pretrained(folder)
        path = folder / "config.json"
        tree = json.loads(path.read_text())
        for name in ("id2label", "label2id"):
            tree.pop(name, None)
        path.write_text(json.dumps(tree | entries))
        return folder

    return make


def test_names_in_label2id_alone_say_which_output_is_which(classifier, sentiment):
    data = load_data(find_task("sst2"), data=sentiment)
    assert data.labels == ("negative", "positive")
    own = UNNAMED | {"label2id": {"POSITIVE": 0, "NEGATIVE": 1}}
    assert find_head(str(classifier(**own)), data).head.labels == ("positive", "negative")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"1": "negative", "2": "positive"}, "names the outputs 1 to 2, and they are 0 to 1"),
        ({"0": "negative", "1": "negative"}, "has `negative` more than once"),
    ],
)
def test_labels_that_nobody_can_tell_apart_give_no_head(
    classifier, sentiment, tiny_model, tmp_path, quick, write, names, words
):
    model = classifier(id2label=names)
    data = load_data(find_task("sst2"), data=sentiment)
    finding = find_head(str(model), data)
    assert finding.head is None
    assert words in finding.note
    texts = write("texts.txt", "the film was great\n" * 20)
    config = quick(steps=2, teacher=None)
    request = AdoptRequest(
        {"x": str(model)}, tmp_path / "out", base=str(tiny_model), config=config, texts=texts
    )
    with pytest.raises(ModelError, match=words) as caught:
        adopt_models(request)
    assert "fresh head" not in str(caught.value)


def test_two_orders_that_contradict_each_other_give_no_head(classifier, sentiment):
    names = {"id2label": {"0": "negative", "1": "positive"}}
    data = load_data(find_task("sst2"), data=sentiment)
    agreed = classifier(**names, label2id={"negative": 0, "positive": 1})
    assert find_head(str(agreed), data).head is not None
    odd = classifier(**names, label2id={"negative": 1, "positive": 0})
    note = find_head(str(odd), data).note
    assert "says negative, positive and its `label2id` positive, negative" in note


@pytest.mark.parametrize("names", [["negative", "positive"], {"negative": 0, "positive": 1}])
def test_id2label_that_transformers_cannot_read_is_named(classifier, sentiment, names):
    model = classifier(id2label=names)
    with pytest.raises(
        ModelError, match=r"`id2label` of .* is \['negative', 'positive'\]"
    ) as caught:
        find_head(str(model), load_data(find_task("sst2"), data=sentiment))
    assert '{"0": "LABEL", "1": "LABEL"}' in str(caught.value.hint)


@pytest.mark.parametrize(("activation", "told"), [("Sigmoid", True), ("linear.Identity", False)])
def test_an_activation_behind_a_number_is_told(classifier, write, activation, told):
    rows = write("rows.csv", "text,label\n" + "the film,0.1\na story,0.9\n" * 10)
    own = {"activation_fn": f"torch.nn.modules.{activation}", "version": "5.0"}
    model = classifier(outputs=1, id2label={"0": "LABEL_0"}, sentence_transformers=own)
    task = Task("x", "regression", texts=("text",), label="label", metrics=("spearman",))
    note = find_head(str(model), load_data(task, data=rows)).note
    assert ("puts a Sigmoid behind it, which is left out" in note) is told


def test_a_model_of_one_token_type_learns_pairs(tmp_path, tiny_model, quick, write):
    folder = tmp_path / "model"
    tree = json.loads((tiny_model / "config.json").read_text()) | {"type_vocab_size": 1}
    BertModel(BertConfig(**tree)).save_pretrained(folder)
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    rows = write("rows.csv", "a,b,label\n" + "the film,good,yes\nthe film,bad,no\n" * 20)
    task = Task("x", texts=("a", "b"), label="label", metrics=("accuracy",))
    out = tmp_path / "out"
    fit_task(FitRequest(str(folder), task, out, quick(steps=2), data=rows))
    assert open_artifact(out).entry("x").labels == ("no", "yes")
