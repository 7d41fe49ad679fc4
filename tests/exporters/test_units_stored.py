"""A task whose units an artifact stores is the same task in torch and in graphs: its zeros need no code of their own."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from export_kit import shared_request

from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.export import export_shared
from maskpack.formats import add_task, open_artifact
from maskpack.formats.unit_bits import cut_units
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, UnitPart, joined
from maskpack.runtime import Session

TEXTS = ["a good film", "dull, and far too long", "fine"]


def neurons_of(artifact):
    """The neurons of each layer of a BERT."""
    groups, shapes = [], {name: one.shape for name, one in artifact.backbone.linears.items()}
    for layer in range(sum("intermediate" in name for name in shapes)):
        base = f"encoder.layer.{layer}."
        up, down = f"{base}intermediate.dense.weight", f"{base}output.dense.weight"
        parts = UnitPart(up, ROWS, 0, 1), UnitPart(down, COLUMNS, 0, 1)
        groups.append(UnitGroup("neurons", layer, shapes[up][0], parts))
    return groups


@pytest.fixture(scope="module")
def artifact(tiny_artifact, tmp_path_factory):
    """An artifact with a task, the same with half of its neurons, and that again with all masks spelled out."""
    folder = shutil.copytree(tiny_artifact, tmp_path_factory.mktemp("units") / "artifact")
    opened = open_artifact(folder)
    rng, groups = np.random.default_rng(0), neurons_of(opened)
    units = joined(groups, {(g.kind, g.layer): rng.random(g.count) < 0.5 for g in groups})
    patch = opened.patch("sst2")
    masks = cut_units(patch.masks, units)
    for name, own in (("spelled", None), ("units", units)):
        own_patch = replace(patch, masks=masks, units=own)
        entry = replace(opened.entry("sst2").renamed(name), zeros=own_patch.count.zeros)
        add_task(folder, entry, own_patch)
    return folder


def test_an_exported_graph_is_that_of_the_masks(artifact, tmp_path):
    answers = {}
    for task in ("units", "spelled"):
        request = ExportRequest(artifact, task, tmp_path / task, "fp32", Tolerance.of("fp32"))
        assert export_onnx(request).ok
        answers[task] = Session(tmp_path / task).logits(TEXTS)
    np.testing.assert_allclose(answers["units"], answers["spelled"], atol=1e-5)


def test_units_are_exported_beside_tasks_without(artifact, tmp_path):
    tasks = ("sst2", "units")
    reports = export_shared(shared_request(artifact, tmp_path / "all", "fp32", tasks))
    assert {task: report.ok for task, report in reports.items()} == dict.fromkeys(tasks, True)


def test_the_file_is_smaller_than_that_of_the_masks(artifact):
    opened = open_artifact(artifact)
    sizes = {task: opened.size(opened.entry(task).file) for task in ("units", "spelled")}
    assert sizes["units"] < sizes["spelled"]
