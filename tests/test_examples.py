"""The examples run as they stand, on the tiny model."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_tasks_reports_both_tasks_and_the_backbone(tiny_model, capsys):
    load("two_tasks").main(str(tiny_model), 4)
    printed = capsys.readouterr().out
    assert "reviews: accuracy" in printed
    assert "tickets: accuracy" in printed
    assert "backbone, shared:" in printed


def test_export_and_verify_prints_a_verdict_for_each_arithmetic(tiny_artifact, capsys):
    load("export_and_verify").main(str(tiny_artifact), "sst2")
    printed = capsys.readouterr().out
    assert "int8: within tolerance" in printed
    assert "fp32: within tolerance" in printed


def test_read_with_numpy_lists_every_masked_layer(tiny_artifact, capsys):
    from maskpack.formats import open_artifact

    load("read_with_numpy").main(str(tiny_artifact), "sst2")
    printed = capsys.readouterr().out
    for name in open_artifact(tiny_artifact).backbone.linears:
        assert f"{name}: 4 bits" in printed


def test_edge_predict_answers_with_every_task(tiny_artifact, tmp_path, capsys):
    from maskpack.exporters.export import export_shared
    from maskpack.exporters.options import Compute, SharedRequest, Tolerance

    tolerance = Tolerance.of(Compute.INT8)
    out = tmp_path / "all"
    export_shared(SharedRequest(tiny_artifact, (), out, Compute.INT8, tolerance, verify=False))
    load("edge_predict").main(str(out), ["the good film", "bad"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("sst2: ") for line in lines)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_tested_here(path):
    assert len(path.read_text().splitlines()) < 60
    assert f'load("{path.stem}")' in Path(__file__).read_text()
    assert path.stem not in sys.modules
