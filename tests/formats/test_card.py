"""The card: a head that hubs read, and words for people."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from maskpack.formats import ConfigError, TaskEntry
from maskpack.formats.card import CardFacts, plain_facts, render_card
from maskpack.formats.schema import Manifest, Scheme, Source
from maskpack.hub.transfer import PushRequest
from maskpack.tasks.card import GLUE, GLUE_ROWS, card_facts
from maskpack.tasks.task import TASKS

DIGEST = "0" * 64


def entry(name="sst2", rows=872, **changes):
    made = TaskEntry(
        name,
        f"tasks/{name}.safetensors",
        DIGEST,
        "classification",
        ("negative", "positive"),
        "matthews",
        {"matthews": 0.76543, "accuracy": 0.9},
        zeros=5,
        weights=100,
        max_length=64,
        data={"task": name, "eval_rows": rows},
    )
    return replace(made, **changes)


def card(*entries, model="demo", told=None, describe=card_facts):
    """Head and text of a card: of what is known, and what a push tells."""
    source = Source(model, None, "bert", DIGEST)
    manifest = Manifest(
        source, Scheme(8, None, "minmax", 8), DIGEST, {}, {one.name: one for one in entries}
    )
    sizes = {"backbone.safetensors": 10} | {one.file: 7 for one in entries}
    facts = describe(manifest)
    text = render_card(manifest, sizes, facts if told is None else told.on_top_of(facts))
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1]), text


def test_what_is_known_of_glue_on_the_demo_model():
    head, _ = card(entry())
    assert head["base_model"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert head["license"] == "apache-2.0"
    assert (head["language"], head["datasets"]) == (["en"], [GLUE])
    assert head["metrics"] == ["matthews_correlation"]
    ((result,),) = [index["results"] for index in head["model-index"]]
    told = {"type": GLUE, "name": "sst2", "config": "sst2", "split": "validation"}
    assert result["dataset"] == told
    assert result["metrics"] == [
        {"type": "matthews_correlation", "name": "matthews", "value": 0.7654},
        {"type": "accuracy", "name": "accuracy", "value": 0.9},
    ]


@pytest.mark.parametrize("other", [entry(rows=871), entry("mine"), entry(data={})])
def test_rows_of_your_own_are_not_called_glue(other):
    head, _ = card(entry(rows=1) if other.name == "sst2" else entry(), other)
    own = head["model-index"][0]["results"]
    assert all(
        one["dataset"]["type"] == one["task"]["name"]
        for one in own
        if "split" not in one["dataset"]
    )
    assert "language" not in head, "of one task nobody knows"


def test_what_nobody_knows_is_left_out():
    head, _ = card(entry(data={}), model="my-folder")
    assert not {"base_model", "base_model_relation", "license", "language", "datasets"} & set(head)
    assert "model-index" not in card()[0]


def test_what_is_told_wins():
    told = PushRequest(Path("a"), "me/tickets", license="mit", languages=("no", "en"))
    head, text = card(entry(), told=told)
    assert (head["license"], head["language"]) == ("mit", ["no", "en"])
    assert head["model-index"][0]["name"] == "tickets"
    assert "compress pull me/tickets -o tickets\ncompress export tickets --onnx" in text


def test_the_page_says_how_to_use_it_and_what_limits_it():
    _, text = card(entry(), entry("second", labels=("a", "b")))
    assert "compress export artifact --onnx --task second -o second-onnx" in text
    assert "second (a, b); sst2 (negative, positive)" in text
    assert "64 for second, 64 for sst2" in text
    assert "compress pull" not in text


@pytest.mark.parametrize("word", ["MIT License", "", "a: b", "x\ny"])
def test_a_licence_that_would_break_the_head_is_refused(word):
    with pytest.raises(ConfigError, match="is no identifier"):
        CardFacts(license=word)


def test_an_odd_name_of_a_model_breaks_nothing():
    head, _ = card(entry(), model='a: "b" # c')
    assert head["model-index"][0]["name"] == 'a: "b" # c'


def test_labels_of_any_kind_and_number_stay_words_on_one_line():
    odd = ("<script>x</script>", "a|b", "two\nlines", "`code`", "[a](http://x)", "größe")
    many = tuple(f"class {n}" for n in range(1000))
    _, text = card(entry("odd", labels=odd), entry("many", labels=many), model="a\n# <b>")
    (line,) = [line for line in text.splitlines() if "its labels: " in line]
    assert "many (class 0, " in line
    assert "class 11, and 988 more)" in line
    assert (
        "odd (\\<script\\>x\\</script\\>, a\\|b, two lines, \\`code\\`, \\[a\\](http://x), größe)"
        in line
    )
    assert "\n# a # \\<b\\>: one integer backbone" in text


TAGS = ("O", "B-person", "I-person", "B-place", "I-place")


def tagger(name="names"):
    found = {"entity_f1": 0.5, "entity_precision": 0.4, "entity_recall": 0.6}
    return entry(
        name, kind="token-classification", labels=TAGS, metric="entity_f1", scores=found, data={}
    )


def test_entities_have_the_hubs_type_and_kinds_in_place_of_tags():
    head, text = card(tagger(), tagger("second"))
    assert head["pipeline_tag"] == "token-classification"
    assert head["metrics"] == ["f1"]
    assert head["tags"] == ["maskpack", "quantized", "mask"]
    results = head["model-index"][0]["results"]
    assert [one["task"]["type"] for one in results] == ["token-classification"] * 2
    assert [one["type"] for one in results[0]["metrics"]] == ["f1", "precision", "recall"]
    assert "names (person, place)" in text


def test_masks_and_images_are_told_in_words_of_their_own():
    scores = {"perplexity": 2.0, "masked_accuracy": 0.5}
    fills = entry("words", kind="fill-mask", labels=(), metric="perplexity", scores=scores, data={})
    head, text = card(fills)
    assert head["pipeline_tag"] == "fill-mask"
    assert "words (the token where a mask stands, learned from texts without labels)" in text
    pets = entry("pets", kind="image-classification", labels=("cat", "dog"), data={})
    head, text = card(pets)
    assert head["pipeline_tag"] == "image-classification"
    assert 'pip install "maskpack[export,images]"' in text
    assert "on images like those of its data; its labels: pets (cat, dog)" in text


def test_tasks_of_two_types_have_their_own_and_the_artifact_none():
    head, text = card(tagger(), entry())
    assert "pipeline_tag" not in head
    assert {"text-classification", "token-classification"} <= set(head["tags"])
    types = {one["task"]["name"]: one["task"]["type"] for one in head["model-index"][0]["results"]}
    assert types == {"names": "token-classification", "sst2": "text-classification"}
    assert "sst2 (negative, positive)" in text


def test_the_hubs_own_library_reads_the_results():
    from huggingface_hub import ModelCard

    _, text = card(entry(), entry("mine", data={}), told=PushRequest(Path("a"), "me/tickets"))
    found = ModelCard(text).data
    assert (found.model_name, found.base_model) == (
        "tickets",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    told = {(r.dataset_name, r.metric_type): r.metric_value for r in found.eval_results}
    assert told == {
        **{(name, "matthews_correlation"): 0.7654 for name in ("mine", "sst2")},
        **{(name, "accuracy"): 0.9 for name in ("mine", "sst2")},
    }


def test_without_what_others_know_the_manifest_is_all_that_is_said():
    head, text = card(entry(), describe=plain_facts)
    assert set(head) == {"library_name", "tags", "metrics"}
    assert head["metrics"] == ["matthews"]
    assert "| sst2 | classification | matthews | 0.7654 |" in text


def test_the_tasks_that_count_as_glue_are_glues():
    assert set(GLUE_ROWS) == {name for name, task in TASKS.items() if task.hub is not None}
