"""A speed as the target: units of all kinds compete by importance a millisecond, and sub-layers go as a whole."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest
from side_by_side import placed_side_by_side

from maskpack.compressor import FitConfig, fit, fit_task
from maskpack.compressor.masking import unit_targets
from maskpack.compressor.masking.unit_targets import Importance, KeptShares, PredictedSpeed
from maskpack.formats import ArtifactError, ConfigError, Interrupted, open_artifact
from maskpack.formats.unit_costs import UnitCosts, UnitShape
from maskpack.formats.units import COLUMNS, ROWS, UnitCount, UnitGroup, UnitPart, joined
from maskpack.models.units import HEADS, NEURONS, STRUCTURES

SPEED = {"units": "heads,neurons", "speedup": 2.0}
SHAPE = UnitShape(2, 1, 32, 4, 8, 64, 1024, 64)  # of the tiny BERT
# 23 ms: an attention is 6, a feed-forward layer 5, the rest 1
COSTS = UnitCosts(SHAPE, "int8", 1, 128, 1, 1.0, 2.0, 1.0, 1.0, 0.0625, 23.0, 0.0, "a machine")


def group(kind, layer, count):
    parts = (
        UnitPart(f"{kind}{layer}.up", ROWS, 0, 1),
        UnitPart(f"{kind}{layer}.down", COLUMNS, 0, 1),
    )
    return UnitGroup(kind, layer, count, parts)


GROUPS = tuple(group(k, n, c) for k, c in ((HEADS, 4), (NEURONS, 64)) for n in (0, 1))


def importance(units, sublayers=(1.0,) * 4, layers=(1.0, 1.0)):
    worth = tuple(
        np.broadcast_to(np.asarray(u, float), g.count) for g, u in zip(GROUPS, units, strict=True)
    )
    return Importance(worth, np.array(sublayers), dict(enumerate(layers)))


def all_kept():
    return [np.ones(each.count, dtype=np.bool_) for each in GROUPS]


def counts(kept):
    return [
        UnitCount(g.kind, g.layer, g.count, int(b.sum())) for g, b in zip(GROUPS, kept, strict=True)
    ]


def sizes(kept):
    return [int(bits.sum()) for bits in kept]


def left(target, worth, kept=None, share=1.0):
    return target.left(worth, GROUPS, all_kept() if kept is None else kept, share)


def learned(request, **changes):
    run = replace(fit.prepare(request), **changes)
    return run, fit.learn(run, on_progress=lambda _: None).patch


def test_examples_of_the_module_are_true():
    assert doctest.testmod(unit_targets).failed == 0


# the order


def test_units_go_by_importance_a_millisecond():
    """A head saves as much as 16 neurons: where each is worth as much as a neuron, heads go first."""
    target = PredictedSpeed(COSTS, 1.2, (HEADS, NEURONS))
    ramp = np.linspace(1.0, 2.0, 4)
    kept = left(target, importance([ramp, ramp, 1.0, 1.0]))
    assert sizes(kept) == [2, 2, 64, 64]
    assert kept[0].tolist() == [False, False, True, True]
    dear = left(target, importance([100 * ramp, 100 * ramp, 1.0, 1.0]))
    assert sizes(dear)[:2] == [4, 4]
    assert sum(sizes(dear)[2:]) < 128


def test_a_speed_refers_to_the_time_of_the_graph_with_all_units():
    """The parts sum up to 23 ms, the graph takes 20: to be twice as fast 13 ms must go."""
    target = PredictedSpeed(replace(COSTS, whole=20.0), 2.0, (HEADS, NEURONS))
    kept = left(target, importance([np.linspace(1, 2, g.count) for g in GROUPS]))
    assert 9.5 <= COSTS.ms(counts(kept)) <= 10.0


def test_no_more_goes_than_is_needed():
    target = PredictedSpeed(COSTS, 1.5, (HEADS, NEURONS))
    kept = left(target, importance([3.0, 3.0, np.arange(1, 65) / 9, np.arange(1, 65) / 8]))
    assert 1.5 <= COSTS.speedup(counts(kept)) < 1.55


@pytest.mark.parametrize("share", [0.3, 0.7, 0.9])
def test_a_stage_saves_its_share_of_the_time(share):
    target = PredictedSpeed(COSTS, 2.0, (HEADS, NEURONS))
    rng = np.random.default_rng(0)
    kept = left(target, importance([rng.random(g.count) for g in GROUPS]), share=share)
    saved = (COSTS.whole - COSTS.ms(counts(kept))) / (COSTS.whole / 2)
    assert share <= saved <= share + 6 / 11.5, "at most an attention more"


def test_what_is_gone_stays_gone():
    target = PredictedSpeed(COSTS, 2.0, (HEADS, NEURONS))
    before = all_kept()
    before[0][2] = before[3][5] = False
    worth = [np.full(g.count, 9.0) for g in GROUPS]
    kept = left(target, importance(worth), kept=before)
    assert not kept[0][2]
    assert not kept[3][5]
    assert sizes(before) == [3, 4, 64, 63], "nothing is changed in place"


def test_the_last_units_go_together_where_the_fixed_part_makes_them_cheap():
    """The last head of layer 0 saves 3 ms where the one before it saves 1: both go, before a lesser head of layer 1."""
    target = PredictedSpeed(COSTS, 23 / 18, (HEADS,))
    worth = [np.array([0.0, 0.0, 1.2, 1.3]), np.array([0.9, 5.0, 6.0, 7.0]), 1.0, 1.0]
    assert sizes(left(target, importance(worth)))[:2] == [0, 4]


def test_a_sub_layer_goes_by_one_gate_for_all_of_its_units():
    """Of units that matter one by one nothing goes: together they cancel out, and their sub-layer goes."""
    target = PredictedSpeed(COSTS, 1.3, (HEADS, NEURONS, "layers"))
    worth = importance([1e3] * 4, sublayers=[50.0, 0.1, 50.0, 50.0], layers=(99.0, 99.0))
    assert sizes(left(target, worth)) == [4, 0, 64, 64]
    whole = importance([1e3] * 4, sublayers=[50.0] * 4, layers=(99.0, 0.1))
    assert sizes(left(target, whole)) == [4, 0, 64, 0]
    without = PredictedSpeed(COSTS, 1.3, (HEADS, NEURONS))
    assert 0 < sum(sizes(left(without, worth))[:2]) < 8


def test_layers_alone_go_as_a_whole():
    target = PredictedSpeed(COSTS, 1.3, ("layers",))
    kept = left(target, importance([0.0] * 4, sublayers=[4.0, 3.0, 2.0, 1.0], layers=(9.0, 9.0)))
    assert sizes(kept) == [4, 4, 0, 0]


def test_a_share_of_layers_stays_whole():
    target = KeptShares({"layers": 0.5})
    assert sizes(left(target, importance([1.0] * 4, layers=(0.3, 0.2)))) == [4, 0, 64, 0]
    both = KeptShares({"layers": 0.5, NEURONS: 0.25})
    assert sizes(left(both, importance([1.0] * 4, layers=(0.3, 0.2)))) == [4, 0, 32, 0]
    assert sizes(left(target, importance([1.0] * 4), share=0.2)) == [4, 4, 64, 64]


# options, and what is refused


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({**SPEED, "keep_units": 0.5}, "`keep_units` and `speedup` both say", "one of them"),
        ({"speedup": 2.0}, "`speedup` is reached without some units", "give `units`"),
        ({**SPEED, "speedup": 1.0}, "`speedup` is 1.0, expected a number above 1", ""),
        ({**SPEED, "speedup": float("nan")}, "`speedup` is nan", ""),
        ({"units": "heads"}, "or a speed", "`keep_units` or `speedup`"),
        ({"units": "heads", "keep_units": 0.5, "unit_costs": "x"}, "`unit_costs` predict a speed", "give `speedup`"),
        ({**SPEED, "sparsity": 0.5}, "`sparsity` counts single weights", "leave"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(options, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        FitConfig(**options)
    assert hint in (caught.value.hint or "")


def test_an_old_run_keeps_its_record():
    assert not {"speedup", "unit_costs"} & FitConfig(units="heads", keep_units=0.5).record().keys()
    told = FitConfig(**SPEED, unit_costs="/some/where/costs.json").record()
    assert (told["speedup"], told["unit_costs"]) == (2.0, "costs.json")


@pytest.fixture
def costs_file(tmp_path):
    """A file of `COSTS`."""
    path = tmp_path / "costs.json"
    path.write_text(COSTS.to_json())
    return str(path)


def test_a_speed_out_of_reach_says_the_most_it_can_be(request_for, costs_file):
    """Heads make 12 of 23 ms: without them the graph is 23 / 11 times as fast."""
    request = request_for(units="heads", speedup=2.5, unit_costs=costs_file)
    with pytest.raises(
        ConfigError, match=r"`speedup` 2.5 is out of reach: .* be 2.09 times as fast"
    ) as caught:
        fit_task(request)
    assert "smaller `speedup`" in (caught.value.hint or "")
    assert not request.out.exists()
    run = fit.prepare(request_for(units="heads", speedup=2.09, unit_costs=costs_file))
    assert run.unit_costs == COSTS
    lower = request_for(
        units="heads,neurons,layers", speedup=2.09, unit_costs=costs_file, layers="0"
    )
    with pytest.raises(ConfigError, match="out of reach"):
        fit.prepare(lower)


def test_costs_of_another_shape_and_damaged_ones_are_refused(request_for, costs_file, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(replace(COSTS, shape=replace(SHAPE, heads=12)).to_json())
    with pytest.raises(
        ConfigError, match=r"other.json` is a cost model of another shape: 2 layers of 12 heads"
    ):
        fit.prepare(request_for(**SPEED, unit_costs=str(other)))
    other.write_text("{")
    with pytest.raises(ConfigError, match=r"other.json` is no JSON"):
        fit.prepare(request_for(**SPEED, unit_costs=str(other)))


def test_a_family_whose_units_are_not_known_is_refused(request_for, monkeypatch):
    monkeypatch.delitem(STRUCTURES, "bert")
    with pytest.raises(ConfigError, match="not known where the heads of `bert` lie"):
        fit.prepare(request_for(**SPEED))


def test_layers_want_whole_layers(request_for):
    with pytest.raises(ConfigError, match="leave no layer whose linears are masked as a whole"):
        fit.prepare(request_for(units="layers", speedup=1.2, modules="attention"))


# learning


@pytest.mark.parametrize("units", ["heads,neurons", "neurons", "layers", "heads,neurons,layers"])
def test_a_run_reaches_the_speed_and_records_it(request_for, costs_file, units):
    request = request_for(units=units, speedup=1.5, unit_costs=costs_file, margin=0.5)
    result = fit_task(request)
    entry, patch = (
        getattr(open_artifact(request.out), name)("sst2") for name in ("entry", "patch")
    )
    found = COSTS.speedup(patch.units.counts())
    assert found >= 1.5
    assert (
        result.predicted_speedup
        == entry.training["predicted_speedup"]
        == pytest.approx(found, abs=1e-4)
    )
    assert entry.training["speedup"] == 1.5
    assert entry.training["unit_costs"] == "costs.json"
    patch.check_fits(open_artifact(request.out).backbone)
    if units == "layers":
        assert all(one.kept in {0, one.count} for one in patch.units.counts())
    if units == "neurons":
        assert all(one.kept == one.count for one in patch.units.counts() if one.kind == HEADS)


@pytest.mark.parametrize("kind", ["albert", "llama", "modernbert"])
def test_other_families_reach_a_speed_with_the_costs_that_ship(kind, family_models, request_for):
    run, patch = learned(request_for(model=family_models(kind), **{**SPEED, "speedup": 1.3}))
    assert run.unit_costs.speedup(patch.units.counts()) >= 1.3


def test_without_a_speed_the_prediction_is_told_and_not_stored(request_for):
    request = request_for(units="heads,neurons", keep_units=0.5)
    result = fit_task(request)
    assert result.predicted_speedup > 1.0
    assert "predicted_speedup" not in open_artifact(request.out).entry("sst2").training
    assert fit_task(request_for("plain")).predicted_speedup is None


@pytest.mark.parametrize("step", [5, 11])
def test_a_stopped_run_goes_on_to_the_same_bytes(request_for, stop_at, costs_file, step):
    options = {**SPEED, "units": "heads,neurons,layers", "unit_costs": costs_file}
    options |= {"steps": 24, "checkpoint_every": 1, "margin": 0.5}
    fit_task(request_for("whole", **options))
    request = request_for("stopped", **options)
    with pytest.raises(Interrupted):
        fit_task(request, on_progress=stop_at(step))
    fit_task(replace(request, resume=True))
    whole, other = (open_artifact(request_for(n, **options).out) for n in ("whole", "stopped"))
    assert whole.entry("sst2").sha256 == other.entry("sst2").sha256


def test_a_checkpoint_of_other_costs_is_another_run(request_for, stop_at, costs_file, tmp_path):
    options = {**SPEED, "unit_costs": costs_file, "steps": 24, "checkpoint_every": 1}
    request = request_for("stopped", **options)
    with pytest.raises(Interrupted):
        fit_task(request, on_progress=stop_at(5))
    (tmp_path / "costs.json").write_text(replace(COSTS, head=2.0).to_json())
    with pytest.raises(ArtifactError, match="a run with other options"):
        fit_task(replace(request, resume=True))


def test_two_processes_remove_the_same_units_as_one(request_for, monkeypatch, costs_file):
    run_side_by_side = placed_side_by_side(monkeypatch)
    options = {**SPEED, "units": "heads,neurons,layers", "unit_costs": costs_file, "dropout": 0.0}

    def patches(count, out):
        def work(_):
            request = replace(request_for(out, **options), device="together")
            run = fit.prepare_together(request, on_progress=lambda _: None)
            return fit.learn(run, on_progress=lambda _: None).patch

        return run_side_by_side(count, work)

    (alone,) = patches(1, "one")
    for patch in patches(2, "two"):
        for ours, theirs in zip(alone.units.kept, patch.units.kept, strict=True):
            assert np.array_equal(ours, theirs)


def test_importance_of_a_common_gate_is_the_square_of_summed_gradients(request_for):
    """Of all units of a sub-layer, and of a layer, per row; removed units add nothing."""
    run = fit.prepare(request_for(**SPEED))
    masked = fit.masked_model_of(run, fit.loss_of(run, None))
    bits = {(g.kind, g.layer): np.arange(g.count) != 1 for g in run.units}
    masked.units.start_from(joined(run.units, bits))
    measure, rows = masked.units.ranking, np.arange(4)
    masked.model.eval()
    gradients = measure._gradients(rows)
    found = measure.of([rows])
    summed = [each.sum(axis=1) for each in gradients]
    for place, (own, worth) in enumerate(zip(summed, found.sublayers, strict=True)):
        assert worth == pytest.approx(float(np.square(own).sum()), rel=1e-6)
        assert (gradients[place][:, 1] == 0).all()
    for number, worth in found.layers.items():
        own = sum(s for s, g in zip(summed, run.units, strict=True) if g.layer == number)
        assert worth == pytest.approx(float(np.square(own).sum()), rel=1e-6)
