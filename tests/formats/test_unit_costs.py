"""Cost models: what a graph takes, from the numbers of its units; files of them, and what is refused."""

from __future__ import annotations

import doctest
import json
from dataclasses import replace

import pytest

from maskpack.formats import ConfigError, unit_costs
from maskpack.formats.unit_costs import UnitCosts, UnitShape, default_rates
from maskpack.formats.units import UnitCount

SHAPE = UnitShape(2, 1, 8, 4, 2, 16, 64, 16)
COSTS = UnitCosts(SHAPE, "int8", 1, 128, 1, 1.0, 0.5, 0.25, 0.5, 0.125, 9.0, 0.01, "a machine")


def heads(kept, layer=0):
    return UnitCount("heads", layer, 4, kept)


def test_examples_of_the_module_are_true():
    assert doctest.testmod(unit_costs).failed == 0


def test_a_sub_layer_without_units_saves_its_fixed_part_too():
    one, none = (COSTS.whole - COSTS.ms([heads(kept)]) for kept in (1, 0))
    assert one == pytest.approx(3 * 0.25)
    assert none == pytest.approx(4 * 0.25 + 0.5)
    assert COSTS.whole == COSTS.ms([]) == COSTS.ms([heads(4)])
    gone = [heads(0, n) for n in (0, 1)] + [UnitCount("neurons", n, 16, 0) for n in (0, 1)]
    assert COSTS.ms(gone) == pytest.approx(COSTS.outside)
    assert COSTS.speedup(gone) == pytest.approx(COSTS.whole)


def test_a_layer_that_is_used_several_times_costs_each_time():
    twice = replace(COSTS, shape=replace(SHAPE, layers=1, uses=2))
    assert twice.whole == COSTS.whole
    assert twice.ms([heads(0)]) == COSTS.ms([heads(0), heads(0, 1)])


def test_a_graph_with_all_units_has_a_time_of_its_own():
    """One unit less may save nothing, and never costs more."""
    fast = replace(COSTS, whole=8.5)
    assert fast.ms([heads(4)]) == fast.ms([heads(3)]) == 8.5
    assert fast.ms([heads(0)]) == COSTS.ms([heads(0)]) == 7.5
    assert fast.speedup([heads(0)]) == pytest.approx(8.5 / 7.5)


def test_a_whole_graph_is_no_longer_than_all_of_its_parts():
    """Else the graph with all units would be faster than itself."""
    with pytest.raises(
        ConfigError, match=r"a whole graph takes 9\.5 ms, and all of its parts 9\.0"
    ):
        replace(COSTS, whole=9.5)
    slow = replace(default_rates(), whole=1.25).costs(SHAPE)
    assert slow.speedup([]) == 1.0
    assert slow.whole == pytest.approx(slow.sum_of_parts)


@pytest.mark.parametrize("name", ["whole", "outside"])
def test_a_number_that_no_float_holds_is_refused(name):
    tree = {**json.loads(COSTS.to_json()), name: 10**400}
    with pytest.raises(ConfigError, match="is no cost model|is damaged"):
        UnitCosts.from_json(json.dumps(tree), name="x")


def test_parts_without_a_finite_sum_and_shapes_without_end_are_refused():
    with pytest.raises(ConfigError, match="take inf ms"):
        replace(COSTS, outside=1e308, head=1e308, neuron=1e308)
    with pytest.raises(ConfigError, match="`layers` of a shape"):
        replace(SHAPE, layers=10**400)


def test_a_file_gives_back_what_was_written(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(COSTS.to_json())
    assert UnitCosts.read(path) == COSTS
    assert path.read_text() == UnitCosts.read(path).to_json()


def without(tree, name):
    return {key: value for key, value in tree.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: {**tree, "kind": "other"}, "is no cost model"),
        (lambda tree: {**tree, "version": 2}, "of version 2, this release reads 1"),
        (lambda tree: {**tree, "head": -1}, "is damaged: `head` of unit costs is -1, expected 0"),
        (lambda tree: {**tree, "head": float("nan")}, "is damaged: `head` of unit costs is nan"),
        (lambda tree: {**tree, "neuron": "2"}, "is damaged: `neuron` of unit costs is '2'"),
        (lambda tree: {**tree, "head": True}, "is damaged: `head` of unit costs is True"),
        (lambda tree: {**tree, "batch": 0}, "is damaged: `batch` of unit costs is 0"),
        (lambda tree: {**tree, "compute": None}, "is damaged: `compute` of unit costs is no text"),
        (
            lambda tree: {**tree, "shape": {**tree["shape"], "heads": 1.5}},
            "`heads` of a shape is 1.5",
        ),
        (lambda tree: {**tree, "shape": 3}, "is no cost model"),
        (lambda tree: without(tree, "shape"), "is no cost model"),
        (lambda tree: without(tree, "head"), "is no cost model"),
        (lambda tree: {**tree, "more": 1}, "is no cost model"),
        (lambda tree: [tree], "is no cost model"),
        (
            lambda tree: {**tree, **dict.fromkeys(unit_costs.PARTS, 0)},
            "is damaged: the parts of a graph take 0 ms",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, change, message):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(change(json.loads(COSTS.to_json()))))
    with pytest.raises(ConfigError, match=message) as caught:
        UnitCosts.read(path)
    assert "costs.json" in str(caught.value)
    assert "unit_costs_of" in (caught.value.hint or "")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_refused(tmp_path, data):
    path = tmp_path / "costs.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="costs.json"):
        UnitCosts.read(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none.json` cannot be read as a cost model"):
        UnitCosts.read(tmp_path / "none.json")


def test_costs_of_another_shape_are_refused():
    COSTS.check_shape(SHAPE, name="costs.json")
    with pytest.raises(
        ConfigError, match="`costs.json` is a cost model of another shape: 2 layers of 4"
    ):
        COSTS.check_shape(replace(SHAPE, neurons=17), name="costs.json")


def test_the_rates_that_ship_serve_any_shape():
    rates = default_rates()
    assert rates.machine
    small = rates.costs(UnitShape(6, 1, 384, 12, 32, 1536, 4 * 32 * 384, 2 * 384))
    large = rates.costs(UnitShape(12, 1, 768, 12, 64, 3072, 4 * 64 * 768, 2 * 768))
    assert 4 < large.whole / small.whole < 10
    assert large.head > 2 * small.head
    longer = rates.costs(small.shape, length=256)
    assert 2 < longer.whole / small.whole < 4
    assert all(getattr(rates, name) > 0 for name in ("product", "attention", "outside", "whole"))
