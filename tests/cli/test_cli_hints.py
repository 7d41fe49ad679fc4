"""Hints in words of commands: each belongs to one of a floor below, which names no command; and what lies at a path."""

from __future__ import annotations

import ast
import doctest
import io
import re
import string
import tarfile
import zipfile
from pathlib import Path

import pytest

from maskpack.cli.hints import HINTS, INSTEAD, PathKind, in_commands, path_kind
from maskpack.formats import MaskpackError, open_artifact, pack_task
from maskpack.formats.errors import Hint
from maskpack.runtime.task import find_tasks

ROOT = Path(__file__).parents[2]
FLOORS = ("formats", "models", "hub", "runtime", "tasks", "compressor", "exporters", "report")
TEXTS = {
    node.value
    for floor in FLOORS
    for path in (ROOT / floor).rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}
"""Every text in the code of the floors below the command line; a document of a module too."""


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text)} - {None}


@pytest.mark.parametrize("text", [*HINTS, *INSTEAD])
def test_each_hint_is_one_that_a_floor_below_gives(text):
    assert text in TEXTS


@pytest.mark.parametrize("text", HINTS)
def test_a_hint_keeps_its_fields(text):
    assert fields(text) == fields(HINTS[text])


def test_no_floor_below_names_an_option_in_what_it_says():
    """Documents of code may say what a command does; texts for users may not."""
    named = re.compile(r"(^|[\s`])--[a-z]|`-[a-z]`|`compress [a-z]")
    odd = {text for text in TEXTS if named.search(text) and "\n" not in text}
    assert not odd, odd


def test_words_of_commands_come_with_fields_and_others_stay():
    assert in_commands(None) is None
    assert (
        in_commands(Hint("give a `max_length` of {longest}", longest=8)) == "give `--max-length 8`"
    )
    assert in_commands(Hint("label {more} rows {}")) == "label {more} rows {}"
    error = MaskpackError("a fact", "label more rows")
    assert (str(error), error.hint, in_commands(error.advice)) == (
        "a fact",
        "label more rows",
        "label more rows",
    )


def test_the_documents_of_hints_are_true():
    import maskpack.cli.hints
    import maskpack.formats.errors

    for module in (maskpack.cli.hints, maskpack.formats.errors):
        assert doctest.testmod(module) == (0, 1)


@pytest.fixture
def things(tmp_path, tiny_artifact, tiny_model):
    """PathKind -> a path where it lies."""
    for folder, file in (("export", "model.onnx"), ("shared", "a.onnx"), ("phone", "model.ort")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_bytes(b"")
    (tmp_path / "several").mkdir()
    (tmp_path / "export").rename(tmp_path / "several" / "a")
    (tmp_path / "x.patch").write_bytes(pack_task(open_artifact(tiny_artifact), "sst2"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", "b")
    (tmp_path / "rows.csv.gz").write_bytes(b"")
    (tmp_path / "rows.JSON").write_bytes(b"")
    (tmp_path / "note").write_text("packed-patch? no, a note")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "void").mkdir()
    return [
        (PathKind.NOTHING, tmp_path / "none"),
        (PathKind.ARTIFACT, tiny_artifact),
        (PathKind.EXPORT, tmp_path / "several" / "a"),
        (PathKind.EXPORT, tmp_path / "several"),
        (PathKind.EXPORT, tmp_path / "shared"),
        (PathKind.MOBILE, tmp_path / "phone"),
        (PathKind.MODEL, tiny_model),
        (PathKind.ARCHIVE, tmp_path / "x.zip"),
        (PathKind.PATCH, tmp_path / "x.patch"),
        (PathKind.GRAPH, tmp_path / "shared" / "a.onnx"),
        (PathKind.TABLE, tmp_path / "rows.csv.gz"),
        (PathKind.TABLE, tmp_path / "rows.JSON"),
        (PathKind.OTHER, tmp_path / "empty"),
        (PathKind.OTHER, tmp_path / "void"),
        (PathKind.OTHER, tmp_path / ("x" * 300)),
    ]


def test_each_thing_is_recognised(things):
    assert [path_kind(path) for _, path in things] == [thing for thing, _ in things]
    assert {thing for thing, _ in things} == set(PathKind)


def test_an_archive_is_known_by_its_first_bytes(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    (tmp_path / "package").write_bytes(data.getvalue())
    assert path_kind(tmp_path / "package") is PathKind.ARCHIVE


def test_an_artifact_that_lost_its_manifest_is_no_plain_model(tmp_path, tiny_artifact):
    (tmp_path / "config.json").write_bytes((tiny_artifact / "config.json").read_bytes())
    (tmp_path / "backbone.safetensors").write_bytes(b"")
    assert path_kind(tmp_path) is PathKind.OTHER


def test_every_wrong_path_has_a_next_step_that_names_it(things):
    for kind, path in things:
        for look, right in ((open_artifact, PathKind.ARTIFACT), (find_tasks, PathKind.EXPORT)):
            if kind is right:
                continue
            with pytest.raises(MaskpackError) as caught:
                look(path)
            said = in_commands(caught.value.advice)
            if said is None and len(path.name) > 255:
                assert "cannot read" in str(caught.value)
                continue
            assert said is not None
            assert "{" not in said
            if kind is PathKind.OTHER:
                assert said in {usual for _, usual in INSTEAD.values()}
                continue
            first, _, step = said.partition("; ")
            assert first == kind
            assert "`" in step or "unpack it" in step or "predict.py" in step


@pytest.mark.parametrize("size", [0, 7, 2**63])
def test_a_file_that_promises_much_is_read_little(tmp_path, size):
    (tmp_path / "x").write_bytes(size.to_bytes(8, "little") + b"packed")
    assert path_kind(tmp_path / "x") is PathKind.OTHER
