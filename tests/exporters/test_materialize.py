"""A task folded once: the same answers, no masks left to apply, standard operators only."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from maskpack.cli.app import app
from maskpack.exporters.session import make_session
from maskpack.formats import ConfigError, ExportError, MaskpackError
from maskpack.runtime import Session, materialize
from maskpack.runtime.task import find_tasks

TEXTS = ["the good film", "bad", "we were very happy and the food was great"]


@pytest.mark.parametrize("kind", ["bert", "grouped", "albert"])
@pytest.mark.parametrize("compute", ["int8", "fp32"])
def test_a_folded_task_answers_as_before(shared, tmp_path, tokens, kind, compute):
    source, _ = shared(kind, compute)
    graph = materialize(source, tmp_path / "x", task="sst2")
    assert graph == tmp_path / "x" / "sst2.onnx"
    before, after = make_session(source / "sst2.onnx"), make_session(graph)
    feeds = tokens([value.name for value in before.get_inputs()], 3, 11, padded=True)
    np.testing.assert_allclose(after.run(None, feeds)[0], before.run(None, feeds)[0], atol=1e-5)
    wanted = Session(source).predict(TEXTS, task="sst2")
    for one, other in zip(Session(tmp_path / "x").predict(TEXTS), wanted, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_nothing_is_left_to_unpack_and_operators_are_standard(shared, tmp_path):
    graph = materialize(shared("grouped", "int8")[0], tmp_path / "x", task="sst2")
    held = onnx.load(str(graph), load_external_data=False).graph
    kinds = {node.op_type for node in held.node}
    assert not kinds & {"ScatterElements", "BitwiseAnd", "CumSum", "Split", "Round"}
    assert {node.domain for node in held.node} <= {"", "ai.onnx"}
    places = {e.value for t in held.initializer for e in t.external_data if e.key == "location"}
    assert places == {"backbone.bin"}


def test_the_folder_is_bound_to_its_own_weights(shared, tmp_path):
    materialize(shared("bert", "int8")[0], tmp_path / "x", task="sst2")
    shutil.copy(shared("bert", "int8")[0] / "backbone.bin", tmp_path / "x" / "backbone.bin")
    with pytest.raises(ExportError, match="is not what `sst2.onnx` was made for"):
        Session(tmp_path / "x").predict(["good"])


def test_folding_twice_changes_nothing_more(shared, tmp_path):
    materialize(shared("bert", "int8")[0], tmp_path / "x", task="sst2")
    materialize(tmp_path / "x", tmp_path / "y")
    sizes = [(tmp_path / name / "backbone.bin").stat().st_size for name in "xy"]
    assert sizes[0] == sizes[1]


def damaged(folder):
    (folder / "backbone.bin").write_bytes(b"x" * 5000)


@pytest.mark.parametrize(
    ("task", "layout", "change", "message"),
    [
        (None, "shared", None, "several tasks are at"),
        ("third", "shared", None, "no task `third` is at"),
        ("sst2", "swap", None, "`sst2` is an adapter"),
        ("sst2", "shared", damaged, "is not what `sst2.onnx` was made for"),
    ],
)
def test_what_cannot_be_folded_is_refused_and_leaves_nothing(
    laid_out, tmp_path, task, layout, change, message
):
    folder = shutil.copytree(laid_out("bert", "int8", layout)[0], tmp_path / "from")
    if change is not None:
        change(folder)
    with pytest.raises(MaskpackError, match=message) as caught:
        materialize(folder, tmp_path / "x", task=task)
    assert isinstance(caught.value, ConfigError | ExportError)
    assert not (tmp_path / "x").exists()


def test_the_command(shared, tmp_path):
    out = tmp_path / "x"
    arguments = [
        "materialize",
        str(shared("bert", "int8")[0]),
        "--task",
        "other",
        "-o",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert str(out / "other.onnx") in result.stdout
    assert list(find_tasks(out)) == ["other"]
