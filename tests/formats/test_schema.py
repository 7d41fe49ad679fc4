"""The manifest, names and versions."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
from formats_kit import SCHEME, SOURCE, ZERO_SHA, make_entry, make_patch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.formats import ArtifactError, Manifest, TaskEntry
from maskpack.formats.schema import check_task_name, patch_file
from maskpack.tasks.types import TASK_TYPES, type_of

ENTRY = make_entry("mood", make_patch())
MANIFEST = Manifest(SOURCE, SCHEME, "34" * 32, {"config.json": "56" * 32}, {"mood": ENTRY})

GOLDEN = """\
{
  "backbone": {
    "file": "backbone.safetensors",
    "sha256": "3434343434343434343434343434343434343434343434343434343434343434"
  },
  "files": {
    "config.json": "5656565656565656565656565656565656565656565656565656565656565656"
  },
  "format": "maskpack",
  "format_version": 1,
  "scheme": {
    "bits": 4,
    "embedding_bits": 8,
    "group": 3,
    "quantizer": "minmax"
  },
  "source": {
    "model": "some/model",
    "model_type": "bert",
    "revision": null,
    "weights_sha256": "1212121212121212121212121212121212121212121212121212121212121212"
  },
  "tasks": {
    "mood": {
      "data": {
        "task": "mood"
      },
      "file": "tasks/mood.safetensors",
      "kind": "classification",
      "labels": [
        "no",
        "yes"
      ],
      "max_length": 16,
      "metric": "accuracy",
      "scores": {
        "accuracy": 0.5
      },
      "sha256": "0000000000000000000000000000000000000000000000000000000000000000",
      "training": {
        "seed": 0
      },
      "weights": 102,
      "zeros": 16
    }
  }
}
"""


def tree_with(path, value):
    """The golden manifest as JSON text with one field replaced."""
    tree = json.loads(GOLDEN)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return json.dumps(tree)


def tree_without(path):
    tree = json.loads(GOLDEN)
    node = tree
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return json.dumps(tree)


def test_the_manifest_has_the_text_of_version_1():
    manifest = replace(MANIFEST, tasks={"mood": replace(ENTRY, zeros=16)})
    assert manifest.to_json() == GOLDEN


def test_the_manifest_survives_a_round_trip():
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert Manifest.from_json(GOLDEN).to_json() == GOLDEN


def test_the_order_of_keys_does_not_change_the_text():
    backwards = dict.fromkeys(("z.json", "a.json"), "56" * 32)
    forwards = dict(sorted(backwards.items()))
    one, two = (replace(MANIFEST, files=files).to_json() for files in (backwards, forwards))
    assert one == two


def test_labels_keep_their_letters_and_their_order():
    labels = ("schön", "", "日本語", '"quoted"\n', "a")
    entry = replace(ENTRY, labels=labels)
    text = replace(MANIFEST, tasks={"mood": entry}).to_json()
    assert "日本語" in text
    assert Manifest.from_json(text).tasks["mood"].labels == labels


def test_data_and_training_may_be_absent():
    tree = json.loads(GOLDEN)
    del tree["tasks"]["mood"]["data"], tree["tasks"]["mood"]["training"]
    entry = Manifest.from_json(json.dumps(tree)).tasks["mood"]
    assert (entry.data, entry.training) == ({}, {})


def test_a_manifest_may_hold_no_task():
    assert Manifest.from_json(tree_with(["tasks"], {})).tasks == {}


FIELDS = [
    *(["source", name] for name in ("model", "revision", "model_type", "weights_sha256")),
    *(["scheme", name] for name in ("bits", "group", "quantizer", "embedding_bits")),
    ["backbone", "sha256"],
    *([part] for part in ("source", "scheme", "backbone", "files", "tasks")),
    *(
        ["tasks", "mood", name]
        for name in (
            "file sha256 kind labels metric scores zeros weights max_length".split()  # noqa: SIM905
        )
    ),
]


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_manifest_that_lacks_a_field_is_refused_by_the_name_of_the_field(path):
    with pytest.raises(ArtifactError, match=f"lacks a field or has a wrong one.*{path[-1]}") as got:
        Manifest.from_json(tree_without(path))
    assert "restore" in got.value.hint


@pytest.mark.parametrize("value", [0, 2, -1, "1", True, False, None, 1.5, [1], {"major": 1}])
def test_another_version_is_refused_with_the_way_out(value):
    with pytest.raises(ArtifactError, match=r"format version .* is not readable") as got:
        Manifest.from_json(tree_with(["format_version"], value))
    assert repr(value) in str(got.value)
    assert "upgrade" in got.value.hint


def test_a_missing_version_is_refused():
    with pytest.raises(ArtifactError, match="format version None is not readable"):
        Manifest.from_json(tree_without(["format_version"]))


@pytest.mark.parametrize("text", ["{}", "[]", "null", "1", '"maskpack"', '{"format": "gguf"}'])
def test_json_of_something_else_is_refused(text):
    with pytest.raises(ArtifactError, match="does not describe an artifact"):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "text", ["", " ", "{", GOLDEN[:-3], GOLDEN + "x", "PK\x03\x04", "[" * 10**5]
)
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(ArtifactError, match="is not valid JSON") as got:
        Manifest.from_json(text)
    assert "restore" in got.value.hint


@pytest.mark.parametrize("line", ['"format_version": 1', '"model": "some/model"', '"zeros": 16'])
def test_a_key_twice_is_refused_at_any_depth(line):
    assert line in GOLDEN
    with pytest.raises(ArtifactError, match="has a key twice"):
        Manifest.from_json(GOLDEN.replace(line, f"{line},\n{line}"))


def test_a_task_twice_is_refused():
    entry = json.dumps(json.loads(GOLDEN)["tasks"]["mood"])
    text = tree_with(["tasks"], "HERE").replace('"HERE"', f'{{"mood": {entry}, "mood": {entry}}}')
    with pytest.raises(ArtifactError, match="has a key twice"):
        Manifest.from_json(text)


WRONG_TYPES = [
    (["source"], []),
    (["source"], "bert"),
    (["scheme"], None),
    (["backbone"], "backbone.safetensors"),
    (["files"], 3),
    (["tasks"], []),
    (["tasks", "mood"], []),
    (["tasks", "mood"], None),
    (["tasks", "mood", "labels"], 2),
    (["tasks", "mood", "labels"], None),
    (["tasks", "mood", "kind"], ["classification"]),
    (["tasks", "mood", "zeros"], "16"),
    (["tasks", "mood", "weights"], None),
    (["tasks", "mood", "file"], 7),
    (["tasks", "mood", "file"], None),
]


@pytest.mark.parametrize(("path", "value"), WRONG_TYPES)
def test_a_field_of_the_wrong_type_is_refused(path, value):
    with pytest.raises(ArtifactError, match=r"`maskpack\.json` lacks|task `mood`|`tasks\.mood\."):
        Manifest.from_json(tree_with(path, value))


@pytest.mark.parametrize("part", [["source"], ["scheme"], ["tasks", "mood"]])
def test_an_unknown_field_is_refused(part):
    with pytest.raises(ArtifactError, match=r"wrong one.*surprise"):
        Manifest.from_json(tree_with([*part, "surprise"], 1))


DIGESTS = [
    (["source", "weights_sha256"], "source.weights_sha256"),
    (["backbone", "sha256"], "backbone.sha256"),
    (["files", "config.json"], "files.config.json"),
    (["tasks", "mood", "sha256"], "tasks.mood.sha256"),
]


@pytest.mark.parametrize(
    "value", ["", "12", "AB" * 32, "g" * 64, "ab" * 32 + "\n", None, 5, ["ab"]]
)
@pytest.mark.parametrize(("path", "name"), DIGESTS)
def test_a_digest_that_is_no_sha256_is_refused_by_name(path, name, value):
    with pytest.raises(ArtifactError, match=f"`{re.escape(name)}` is not a SHA-256"):
        Manifest.from_json(tree_with(path, value))


ENTRY_RULES = [
    ({"kind": "two words"}, "the kind `two words`, which names none"),
    ({"labels": ("one",)}, "has 1 label, expected none or at least 2"),
    ({"metric": "mcc"}, "no score for its metric `mcc`"),
    ({"scores": {}}, "no score for its metric `accuracy`"),
    ({"scores": {"accuracy": "0.5"}}, "not a finite number"),
    ({"max_length": "16"}, "not a whole number"),
    ({"weights": None}, "not a whole number"),
    ({"zeros": -1}, "not a whole number from 0"),
    ({"zeros": 103}, "counts 103 zeros of 102"),
    ({"weights": 3}, "zeros of 3"),
]


@pytest.mark.parametrize(("fields", "message"), ENTRY_RULES)
def test_an_entry_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ArtifactError, match=message):
        replace(ENTRY, **fields)


def test_a_regression_has_one_output_and_a_classification_one_a_label():
    assert replace(ENTRY, kind="regression", labels=()).outputs == 1
    assert replace(ENTRY, kind="multi-label", labels=("a", "b", "c")).outputs == 3
    assert replace(ENTRY, labels=("a", "b", "c")).outputs == 3


GOOD_NAMES = ["a", "0", "sst2", "mnli-mm", "a.b", "a_b", "x" * 64, "a..b", "r1", "a.safetensors"]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_plain_task_name_is_accepted_and_its_file_belongs_to_it(name):
    assert check_task_name(name) == name
    file = patch_file(name)
    assert file == f"tasks/{name}.safetensors"
    assert replace(ENTRY, name=name, file=file).name == name
    for revision in (1, 2, 3):
        file = patch_file(name, file)
        assert file == f"tasks/{name}.r{revision}.safetensors"
        assert replace(ENTRY, name=name, file=file).file == file


BAD_NAMES = [
    *("", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:", "~", ".hidden", "-dash", "_x"),
    *("A", "Sst2", "é", "a b", " a", "a ", "a\n", "a\0", "x" * 65, "a:b", "a%2fb", "²"),
    *(None, 3, True, ["a"], b"a"),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_that_is_no_task_name_is_refused_with_the_rule(name):
    with pytest.raises(ArtifactError, match="cannot name a task") as got:
        check_task_name(name)
    assert "a-z" in got.value.hint
    with pytest.raises(ArtifactError, match="cannot name a task"):
        patch_file(name)


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if isinstance(name, str)], ids=repr)
def test_a_manifest_with_such_a_task_is_refused(name):
    tree = json.loads(GOLDEN)
    entry = tree["tasks"]["mood"]
    tree["tasks"] = {name: {**entry, "file": f"tasks/{name}.safetensors"}}
    with pytest.raises(ArtifactError, match="cannot name a task"):
        Manifest.from_json(json.dumps(tree))


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("aZ09._-/\\ \n\0~:é"), max_size=8))
def test_no_accepted_task_name_leaves_its_folder(name):
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789")
    plain = name != "" and name[0] in letters and set(name) <= letters | set("._-")
    try:
        file = patch_file(name)
    except ArtifactError:
        assert not plain
    else:
        assert plain
        assert file == f"tasks/{name}.safetensors"


BAD_FILES = [
    "../mood.safetensors",
    "tasks/../mood.safetensors",
    "tasks/../../mood.safetensors",
    "/tasks/mood.safetensors",
    "tasks//mood.safetensors",
    "tasks\\mood.safetensors",
    "tasks/sub/mood.safetensors",
    "tasks/mood.safetensors/",
    "tasks/mood.safetensors\n",
    "tasks/mood.safetensors\0",
    "tasks/mood.bin",
    "tasks/mood",
    "tasks/.mood.safetensors",
    "tasks/mood.r0.safetensors",
    "tasks/mood.r01.safetensors",
    "tasks/mood.r-1.safetensors",
    "tasks/mood.r.safetensors",
    "tasks/moods.safetensors",
    "tasks/other.safetensors",
    "tasks/other.r1.safetensors",
    "mood.safetensors",
    "backbone.safetensors",
    "",
]


@pytest.mark.parametrize("file", BAD_FILES, ids=repr)
def test_a_patch_file_outside_its_place_is_refused(file):
    with pytest.raises(
        ArtifactError,
        match=r"task `mood` names the file|`tasks\.mood\.file` is not a text",
    ):
        Manifest.from_json(tree_with(["tasks", "mood", "file"], file))


BAD_COPIES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc/passwd",
    "a\\b",
    ".netrc",
    "-x",
    "a b",
    "é",
    "a\n",
]


@pytest.mark.parametrize(
    "name", [*BAD_COPIES, "a\0", "x" * 129, "tasks/mood.safetensors"], ids=repr
)
def test_a_copied_file_outside_the_folder_is_refused(name):
    with pytest.raises(ArtifactError, match=r"(?s)names the file .* which is not allowed"):
        Manifest.from_json(tree_with(["files"], {name: ZERO_SHA}))


def test_a_replacement_never_reuses_the_file_it_replaces():
    files = ["tasks/mood.safetensors"]
    for _ in range(12):
        files.append(patch_file("mood", files[-1]))
    assert len(set(files)) == 13
    assert files[-1] == "tasks/mood.r12.safetensors"


def test_an_entry_is_built_from_what_it_says_alone():
    fields = copy.deepcopy(json.loads(GOLDEN)["tasks"]["mood"])
    fields["labels"] = tuple(fields["labels"])
    assert Manifest.from_json(GOLDEN).tasks["mood"] == TaskEntry(name="mood", **fields)


@pytest.mark.parametrize("number", [1, 2, 10])
def test_a_task_that_owns_the_file_of_a_replacement_of_another_is_refused(number):
    tree = json.loads(GOLDEN)
    name = f"mood.r{number}"
    tree["tasks"][name] = {**tree["tasks"]["mood"], "file": f"tasks/{name}.safetensors"}
    with pytest.raises(ArtifactError, match=rf"`mood\.r{number}`"):
        Manifest.from_json(json.dumps(tree))


def test_a_kind_of_a_later_release_is_refused_with_those_that_are_read():
    """The format reads its entry; who computes with the task must know the kind."""
    with pytest.raises(ArtifactError, match="unknown kind `ranking`") as caught:
        type_of(replace(ENTRY, kind="ranking"))
    assert caught.value.hint == f"this release reads: {', '.join(TASK_TYPES)}"


@pytest.mark.parametrize("kind", ["", "Ranking", "2d", "-x", "a b", "a\n", "x" * 65, "é"], ids=repr)
def test_a_kind_that_is_no_name_is_refused(kind):
    with pytest.raises(ArtifactError, match="which names none"):
        replace(ENTRY, kind=kind)


@pytest.mark.parametrize("kind", ["classification", "multi-label"])
def test_a_task_of_labels_needs_two_or_more(kind):
    with pytest.raises(ArtifactError, match="has 1 label, expected none or at least 2"):
        replace(ENTRY, kind=kind, labels=("only",))
    with pytest.raises(ArtifactError, match="has 0 labels, expected at least 2"):
        type_of(replace(ENTRY, kind=kind, labels=()))
