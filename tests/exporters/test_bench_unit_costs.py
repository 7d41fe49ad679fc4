"""What units cost is measured on graphs that lost some, and a linear model is fitted to it."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import onnx
import pytest

from maskpack.exporters import CostRequest, unit_costs_of
from maskpack.exporters.bench import unit_costs as module
from maskpack.exporters.bench.unit_costs import GraphSource, TimedUnits, fitted, uniform
from maskpack.formats import ConfigError
from maskpack.formats.unit_costs import PARTS, UnitCosts
from maskpack.models.units import STRUCTURES


def test_examples_of_the_module_are_true():
    assert doctest.testmod(module).failed == 0


def test_a_tiny_model_is_measured_and_the_file_reads_back(tiny_model, tmp_path):
    said = []
    found = unit_costs_of(CostRequest(model=str(tiny_model), length=16, runs=3), say=said.append)
    assert found.costs.shape.heads == 4
    assert (found.costs.batch, found.costs.length, found.costs.threads) == (1, 16, 1)
    assert len(found.timed) == len(said) - 3 == 11
    assert all(each.ms > 0 for each in found.timed)
    assert found.timed[0].heads == (4, 4)
    assert found.timed[-1].heads == (0, 0)
    path = tmp_path / "costs.json"
    path.write_text(found.costs.to_json())
    assert UnitCosts.read(path) == found.costs


def test_a_fit_finds_the_numbers_that_times_were_made_of(tiny_model):
    source = GraphSource.of(str(tiny_model), "int8")
    shape, numbers = source.shape("tiny"), (0.5, 0.25, 0.125, 0.75, 0.01)
    kept = [[c.kept for c in units.counts()] for units in uniform(source.groups)]
    blank = [TimedUnits(tuple(each[:2]), tuple(each[2:]), 1.0) for each in kept]
    timed = [
        TimedUnits(each.heads, each.neurons, float(np.dot(each.amounts(1), numbers)))
        for each in blank
    ]
    found, residual = fitted(shape, timed)
    assert [found[name] for name in PARTS] == pytest.approx(numbers)
    assert found["whole"] == timed[0].ms
    assert residual == pytest.approx(0, abs=1e-9)
    costs = UnitCosts(shape, "int8", 1, 16, 1, residual=residual, machine="", **found)
    for each in timed:
        assert costs.ms(each.counts(shape)) == pytest.approx(each.ms)


def test_parts_are_scaled_where_the_whole_graph_takes_longer(tiny_model):
    source = GraphSource.of(str(tiny_model), "int8")
    shape, numbers = source.shape("tiny"), (0.5, 0.25, 0.125, 0.75, 0.01)
    kept = [[c.kept for c in units.counts()] for units in uniform(source.groups)]
    blank = [TimedUnits(tuple(each[:2]), tuple(each[2:]), 1.0) for each in kept]
    timed = [replace(each, ms=float(np.dot(each.amounts(1), numbers))) for each in blank]
    found, _ = fitted(shape, [replace(timed[0], ms=2 * timed[0].ms), *timed[1:]])
    assert [found[name] for name in PARTS] == pytest.approx([2 * each for each in numbers])


def test_a_text_that_is_longer_than_the_model_reads_is_refused(monkeypatch, tiny_model):
    monkeypatch.setattr(module, "time_units", None)
    with pytest.raises(ConfigError, match=r"`length` is 4096, .* reads \d+ tokens"):
        unit_costs_of(CostRequest(model=str(tiny_model), length=4096))


def test_what_would_be_less_than_nothing_is_nothing():
    features = np.array([[1.0, 4.0], [1.0, 2.0], [1.0, 1.0]])
    found, residual = module.least_squares(features, np.array([1.0, 2.0, 3.0]))
    assert found[1] == 0.0
    assert found[0] > 0
    assert residual > 0.1


@pytest.mark.parametrize("kind", ["albert", "gpt2"])
def test_graphs_have_the_numbers_of_units_that_are_timed(family_models, kind):
    source = GraphSource.of(str(family_models(kind)), "int8")
    choices = uniform(source.groups)
    nodes = [len(onnx.load_from_string(source.graph(choices[n])).graph.node) for n in (0, 4, -1)]
    assert nodes[0] == nodes[1] > nodes[2]


def test_an_artifact_gives_its_own_weights_and_divisors(artifacts):
    source = GraphSource.of(str(artifacts["bert"]), "int8")
    assert set(source.backbone.linears)
    assert source.groups


def test_a_model_without_units_is_refused(tiny_model, monkeypatch):
    monkeypatch.delitem(STRUCTURES, "bert")
    with pytest.raises(ConfigError, match="not known where the units of `bert` lie"):
        unit_costs_of(CostRequest(model=str(tiny_model), runs=1))


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"length": 1}, {"threads": 0}, {"runs": 0}, {"compute": "int3"}]
)
def test_odd_requests_are_refused(options):
    with pytest.raises(ConfigError):
        CostRequest(model="demo", **options)
