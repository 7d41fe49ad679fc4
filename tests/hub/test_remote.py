"""Which names may travel between a machine and a hub."""

from __future__ import annotations

import pytest

from maskpack.formats import ArtifactError, ConfigError
from maskpack.hub.remote import asking, check_names, check_repo, may_travel

GOOD = ["maskpack.json", "backbone.safetensors", "README.md", "config.json", "vocab.txt"]
GOOD += ["tasks/sst2.safetensors", "tasks/a.b.r2.safetensors", "spiece.model", "merges.txt"]


@pytest.mark.parametrize("name", GOOD)
def test_the_files_of_an_artifact_may_travel(name):
    assert may_travel(name)


@pytest.mark.parametrize(
    "name",
    [
        *("pytorch_model.bin", "a.pkl", "a.pt", "a.npy", "modeling.py", "a.json.py", "a.sh", "x"),
        *("tasks/run.py", "tasks/a.json", "onnx/model.json", "tasks/a/b.safetensors", "a.onnx"),
        *("../evil.json", "/etc/evil.json", "tasks/../../evil.safetensors", "..\\evil.json", ""),
        *("x.safetensors", ".hidden.json", "a\nb.json", "C:evil.json", "tasks/.safetensors"),
    ],
)
def test_nothing_else_may_and_it_is_named(name):
    assert not may_travel(name)
    with pytest.raises(ArtifactError) as caught:
        check_names([*GOOD, ".gitattributes", name], "some/repo")
    assert str(caught.value) == f"`some/repo` holds `{name}`, which is no part of an artifact"


def test_several_odd_files_are_counted():
    with pytest.raises(ArtifactError, match=r"`a\.bin`, which .*, and 2 more such files"):
        check_names(["c.py", "a.bin", "b.bin", *GOOD], "some/repo")


@pytest.mark.parametrize("name", ["tickets", "a/b/c", "../x/y", "a/", "/a", "a b/c", "-a/b"])
def test_a_name_that_is_no_repository_is_refused(name):
    with pytest.raises(ConfigError, match="is no repository of the Hub"):
        check_repo(name)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (None, "about `a/b` failed: errors of the storage: - no room$"),
        (ConnectionError("down"), "^no connection to .* ConnectionError"),
    ],
)
def test_a_plain_value_error_of_the_library_is_told_by_its_cause_or_its_words(cause, message):
    with pytest.raises(ArtifactError, match=message), asking("a/b"):
        raise ValueError("errors of the storage:\n- no room") from cause
