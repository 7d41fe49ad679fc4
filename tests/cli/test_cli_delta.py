"""`compress delta` and `compress apply-delta`: what they print, and what they refuse."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def releases(work, tiny_artifact):
    """An artifact, and one whose card and configuration differ."""
    old = shutil.copytree(tiny_artifact, work / "old")
    new = shutil.copytree(tiny_artifact, work / "new")
    (new / "README.md").write_text((old / "README.md").read_text() + "\nmore\n")
    return old, new


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_release_is_made_of_an_older_one_and_a_delta(main, releases, work):
    old, new = releases
    made = main("delta", "old", "new", "-o", "x.delta")
    assert made.code == 0, made.err
    assert "backbone.safetensors" in made.out
    assert "as it is" in made.out
    assert "next: compress apply-delta old x.delta -o new" in made.err
    applied = main("apply-delta", "old", "x.delta", "-o", "again")
    assert applied.code == 0, applied.err
    assert files(work / "again") == files(new)
    assert files(old) != files(new), "the old one stays as it is"


def test_json_has_a_line_for_each_file(main, releases, work):
    found = main("delta", "old", "new", "-o", "x.delta", "--json").json
    assert found["bytes"] == (work / "x.delta").stat().st_size
    ways = {file["name"]: file["way"] for file in found["files"]}
    assert ways["backbone.safetensors"] == "same"
    assert ways["README.md"] != "same"
    again = main("apply-delta", "old", "x.delta", "-o", "again", "--json").json
    assert again["files"] == found["files"]
    assert again["new_bytes"] == found["new_bytes"] == sum(map(len, files(work / "new").values()))


def test_a_delta_that_is_larger_than_the_release_says_so(main, work):
    (work / "a").write_bytes(b"x")
    (work / "b").write_bytes(b"y")
    found = main("delta", "a", "b", "-o", "c")
    assert "note: `b` itself is smaller than the delta" in found.err


def test_another_release_is_refused_and_nothing_is_written(main, releases, work):
    main("delta", "old", "new", "-o", "x.delta")
    (work / "new" / "config.json").write_text("{}")
    found = main("apply-delta", "new", "x.delta", "-o", "again")
    assert found.code == 1
    assert "`config.json` has the SHA-256" in found.err
    assert "the release that it was made from" in found.err
    assert not (work / "again").exists()
    found = main("apply-delta", "old", "old/README.md", "-o", "again")
    assert found.code == 1
    assert "not a delta of this format" in found.err
    found = main("delta", "old", "new", "-o", "x.delta")
    assert found.code == 1
    assert "`x.delta` already exists" in found.err
