"""Whole units are removed in stages, the least important ones first, and never come back."""

from __future__ import annotations

import doctest
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from side_by_side import placed_side_by_side, side_by_side

from maskpack.compressor import FitConfig, fit, fit_task, unit_config
from maskpack.compressor.estimate import Cost, rehearse
from maskpack.compressor.masking import unit_rankings
from maskpack.compressor.masking import units as unit_module
from maskpack.compressor.masking.linear import MaskedLinear
from maskpack.compressor.masking.model import masked_names
from maskpack.compressor.masking.unit_choice import chosen_groups
from maskpack.compressor.masking.unit_targets import KeptShares, kept_of, without_weakest
from maskpack.compressor.masking.units import (
    STAGES,
    UnitImportance,
    UnitRemoval,
    measured_rows,
    stages_of,
)
from maskpack.compressor.start_checks import check_start, check_start_units
from maskpack.compressor.training.train import FlooredAdam, Group, Plan
from maskpack.formats import ConfigError, Interrupted, ModelError, open_artifact
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, UnitPart, Units, joined
from maskpack.models.placement import CpuPlacement, to_tensors
from maskpack.models.units import HEADS, NEURONS, STRUCTURES, unit_groups

BOTH = {"units": "heads,neurons", "keep_units": 0.5}
OUT = {HEADS: "attention.output.dense", NEURONS: "output.dense"}


def learned(request, **changes):
    """A run, and the patch that it learned in memory."""
    run = replace(fit.prepare(request), **changes)
    return run, fit.learn(run, on_progress=lambda _: None).patch


def gone(units, kind):
    """`(layer, unit)` of each unit that is removed."""
    pairs = zip(units.groups, units.kept, strict=True)
    return {(g.layer, int(u)) for g, kept in pairs if g.kind == kind for u in np.flatnonzero(~kept)}


# options


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"unit_order": "random"}, "`unit_order` ranks units, and none are removed", "units"),
        ({**BOTH, "unit_order": "size"}, "no unit order `size`", ""),
        ({"units": "heads"}, "`units` needs the share of them that stays", "keep_units"),
        ({"keep_units": 0.5}, "`keep_units` is a share of units, and none are removed", "units"),
        (
            {**BOTH, "units": "tails"},
            "`units` is 'tails', expected heads, neurons, layers, or several",
            "",
        ),
        ({**BOTH, "units": "heads,heads"}, "`units` is 'heads,heads'", ""),
        ({**BOTH, "units": ""}, "`units` is ''", ""),
        ({**BOTH, "keep_units": 1.0}, "`keep_units` is 1.0", ""),
        ({**BOTH, "sparsity": 0.5}, "`sparsity` counts single weights, and `units`", "leave"),
        ({**BOTH, "target_bytes": 900}, "`target_bytes` counts single weights", "leave"),
        ({**BOTH, "target_bpp": 0.1}, "`target_bpp` counts single weights", "leave"),
        ({**BOTH, "patience": 2}, "`patience` ends a run early, `units` needs its last", "leave"),
        ({**BOTH, "estimator": "topk"}, "estimator topk needs a share of zeros", "fixed"),
        ({**BOTH, "estimator": "fixed", "init": "snip"}, "init snip needs a share", "fixed"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, hint):
    with pytest.raises(ConfigError, match=message) as caught:
        FitConfig(**options)
    assert hint in (caught.value.hint or "")


def test_an_old_run_keeps_its_record():
    assert not {"units", "keep_units"} & FitConfig().record().keys()
    assert FitConfig(**BOTH).record()["units"] == "heads,neurons"


def test_examples_of_the_documents_are_true():
    for module in (unit_module, unit_config, unit_rankings):
        assert doctest.testmod(module).failed == 0


# which groups


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {(HEADS, 0), (HEADS, 1), (NEURONS, 0), (NEURONS, 1)}),
        ({"layers": "1"}, {(HEADS, 1), (NEURONS, 1)}),
        ({"units": "neurons"}, {(NEURONS, 0), (NEURONS, 1)}),
        ({"units": "heads", "modules": "attention"}, {(HEADS, 0), (HEADS, 1)}),
    ],
)
def test_only_units_of_linears_that_are_all_masked_may_go(request_for, options, expected):
    run = fit.prepare(request_for(**{**BOTH, **options}))
    assert {(group.kind, group.layer) for group in run.units} == expected


def test_units_without_a_mask_on_all_their_linears_are_refused(request_for):
    request = request_for(**BOTH, modules="query,intermediate,output", layers="0")
    with pytest.raises(
        ConfigError, match="`layers` and `modules` leave no layer whose heads are masked as a whole"
    ):
        fit_task(request)
    assert not request.out.exists()


def test_a_family_whose_units_are_not_known_is_refused_before_training(request_for, monkeypatch):
    monkeypatch.delitem(STRUCTURES, "bert")
    with pytest.raises(ConfigError, match="not known where the heads of `bert` lie"):
        fit_task(request_for(**BOTH))


# the schedule and the order


@pytest.mark.parametrize("steps", [1, 3, 10, 30, 400, 5000])
def test_stages_rise_and_are_done_by_60_percent_of_the_steps(steps):
    stages = stages_of(steps)
    assert len(stages) <= STAGES
    assert list(stages) == sorted(stages)
    assert list(stages.values()) == sorted(stages.values())
    assert list(stages.values())[-1] == 1.0
    assert 1 <= max(stages) <= max(1, round(0.6 * steps))
    assert len(stages) == STAGES or steps < 30


def test_importance_is_measured_on_hundreds_of_rows_and_a_quarter_of_the_runs_own():
    assert measured_rows(Plan(400, 32, 0.1, 0), 10**6) == 400
    assert measured_rows(Plan(10, 32, 0.1, 0), 10**6) == 256
    assert measured_rows(Plan(10**5, 32, 0.1, 0), 10**6) == 2048
    assert measured_rows(Plan(400, 32, 0.1, 0), 96) == 96


def test_the_weakest_of_all_groups_go_and_none_returns():
    rng = np.random.default_rng(0)
    worth = [rng.random(7), 10 * rng.random(5)]
    kept = [np.ones(7, dtype=np.bool_), np.ones(5, dtype=np.bool_)]
    first = without_weakest(worth, kept, 4)
    border = np.sort(np.concatenate(worth))[4]
    for values, bits in zip(worth, first, strict=True):
        assert np.array_equal(bits, values >= border)
    second = without_weakest([-each for each in worth], first, 9)
    assert sum(int((~bits).sum()) for bits in second) == 9
    assert not any((now & ~before).any() for now, before in zip(second, first, strict=True))
    assert all(
        np.array_equal(a, b) for a, b in zip(second, without_weakest(worth, second, 3), strict=True)
    )
    assert all(bits.all() for bits in kept), "the bits that were given stay as they are"


# how important a unit is


@pytest.mark.parametrize("kind", ["bert", "albert", "xlnet", "modernbert", "llama"])
def test_importance_is_the_sum_over_rows_of_the_squared_slope_of_the_loss(
    kind, family_models, request_for
):
    """Slopes are measured by scaling the columns that read a unit, row by row."""
    request = request_for(model=family_models(kind), **BOTH, batch_size=5)
    run = fit.prepare(request)
    task_loss = fit.loss_of(run, None)
    masked = fit.masked_model_of(run, task_loss)
    importance, rows = masked.units.ranking, np.arange(6)
    worth = importance.of([rows[:5], rows[5:]]).units
    masked.model.eval()

    def loss_of(row):
        one = np.array([row])
        with torch.no_grad():
            return float(
                task_loss(
                    masked.model(**to_tensors(run.train.feeds(one), masked.model)).logits, one
                )
            )

    for group, found in zip(run.units, worth, strict=True):
        part = group.parts[-1]
        weight, unit = masked.layers[part.name].weight, int(np.argmax(found))
        own = slice(unit * part.width, (unit + 1) * part.width)
        kept, slopes = weight[:, own].clone(), []
        for row in rows:
            losses = []
            for gate in (1.01, 0.99):
                weight[:, own] = gate * kept
                losses.append(loss_of(row))
            slopes.append((losses[0] - losses[1]) / 0.02)
        weight[:, own] = kept
        assert found[unit] == pytest.approx(np.square(slopes).sum(), rel=0.05)
        assert found[unit] > 0


def test_a_unit_that_is_gone_has_no_importance_and_measuring_changes_nothing(request_for):
    run = fit.prepare(request_for(**BOTH))
    masked = fit.masked_model_of(run, fit.loss_of(run, None))
    chosen = {(g.kind, g.layer): np.arange(g.count) != 1 for g in run.units}
    masked.units.start_from(joined(run.units, chosen))
    before = {name: value.clone() for name, value in masked.model.state_dict().items()}
    masked.model.train()
    state = torch.get_rng_state()
    worth = masked.units.ranking.of(masked.units.ranking.batches(3)).units
    assert masked.model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in masked.model.parameters())
    assert all(
        torch.equal(before[name], value) for name, value in masked.model.state_dict().items()
    )
    for values in worth:
        assert values[1] == 0.0
        assert (np.delete(values, 1) > 0).any()


def test_rows_differ_from_stage_to_stage_and_follow_from_seed_and_step(request_for):
    run = fit.prepare(request_for(**BOTH))
    run = replace(run, plan=replace(run.plan, steps=4))
    masked = fit.masked_model_of(run, fit.loss_of(run, None))
    encoded = run.train.take(np.arange(96).repeat(5))
    importance = replace(masked.units.ranking, encoded=encoded)
    first, again, other = (importance.batches(step) for step in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    flat = np.concatenate(first)
    assert len(np.unique(flat)) == len(flat) == 256
    assert max(map(len, first)) == 16


def test_where_memory_is_scarce_fewer_rows_are_measured_at_once(request_for):
    """The order of rows in batches changes no unit: the sums differ by rounding only."""
    found = []
    for options in ({}, {"accumulate": 4}, {"gradient_checkpointing": True}):
        run = fit.prepare(request_for(**BOTH, **options))
        importance = fit.masked_model_of(run, fit.loss_of(run, None)).units.ranking
        batches = importance.batches(3)
        found.append((max(map(len, batches)), importance.of(batches).units))
    assert [size for size, _ in found] == [16, 4, 2]
    for _, worth in found[1:]:
        for ours, theirs in zip(found[0][1], worth, strict=True):
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-12)


def test_layers_that_are_computed_twice_in_training_are_measured_as_others(request_for):
    plain = learned(request_for(**BOTH, dropout=0.0))[1]
    twice = learned(request_for(**BOTH, dropout=0.0, gradient_checkpointing=True, accumulate=2))[1]
    for ours, theirs in zip(plain.units.kept, twice.units.kept, strict=True):
        assert (ours != theirs).sum() <= 0.1 * len(ours)


# learning


@pytest.mark.parametrize("kind", ["bert", "albert", "llama", "modernbert", "gpt2"])
def test_half_of_the_units_of_each_kind_are_gone_with_all_their_weights(
    kind, family_models, request_for
):
    run, patch = learned(request_for(model=family_models(kind), **BOTH, margin=0.5))
    for name in (HEADS, NEURONS):
        total = sum(group.count for group in patch.units.groups if group.kind == name)
        assert len(gone(patch.units, name)) == total - kept_of(total, 0.5) == total // 2
    shapes = {name: tensor.shape for name, tensor in run.prepared.backbone.linears.items()}
    whole = patch.units.masks(shapes)
    singles = 0
    for name, mask in patch.masks.items():
        bits = mask.to_bool()
        stays = whole.get(name, np.ones(shapes[name], dtype=np.bool_))
        assert not bits[~stays].any()
        singles += int((~bits[stays]).sum())
    assert singles > 0, "single weights are removed besides"
    patch.check_fits(run.prepared.backbone)


def test_units_alone_with_the_fixed_estimator(request_for):
    run, patch = learned(request_for(**BOTH, estimator="fixed"))
    shapes = {name: tensor.shape for name, tensor in run.prepared.backbone.linears.items()}
    whole = patch.units.masks(shapes)
    for name, mask in patch.masks.items():
        assert np.array_equal(mask.to_bool(), whole.get(name, True) & np.ones(shapes[name], bool))


def test_an_odd_number_is_rounded_as_the_document_says(request_for):
    _, patch = learned(request_for(units="heads", keep_units=0.3))
    assert len(gone(patch.units, HEADS)) == 8 - kept_of(8, 0.3) == 6
    assert {group.kind for group in patch.units.groups} == {HEADS}


def planted(model, folder, units):
    """A copy of a BERT in which what reads some units is nearly 0."""
    shutil.copytree(model, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    for kind, layer, unit in units:
        width = 8 if kind == HEADS else 1
        weight = weights[f"encoder.layer.{layer}.{OUT[kind]}.weight"]
        weight[:, unit * width : (unit + 1) * width] *= 0.03
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def test_units_that_matter_less_go_first(tiny_model, tmp_path, request_for):
    weak = {HEADS: {(0, 1), (1, 2)}, NEURONS: {(0, n) for n in range(0, 24, 2)} | {(1, 5)}}
    units = [(kind, *place) for kind, places in weak.items() for place in places]
    model = planted(tiny_model, tmp_path / "planted", units)
    options = {"bits": 8, "group": 0, "model": model, "steps": 20}
    _, patch = learned(request_for(units="heads", keep_units=0.75, **options))
    assert gone(patch.units, HEADS) == weak[HEADS]
    # neurons that are hardly ever active go too, so that more are removed than were planted
    _, patch = learned(request_for(units="neurons", keep_units=0.7, **options))
    assert len(gone(patch.units, NEURONS)) == 38
    assert gone(patch.units, NEURONS) >= weak[NEURONS]


def test_the_mask_grows_in_stages_and_the_artifact_says_how_many_units_stay(request_for):
    request = request_for(**BOTH, steps=40)
    result = fit_task(request)
    entry = open_artifact(request.out).entry("sst2")
    patch = open_artifact(request.out).patch("sst2")
    assert result.units == {HEADS: 8, NEURONS: 128}
    assert result.units_kept == {HEADS: 4, NEURONS: 64}
    told = entry.training["units_kept"]
    assert {
        kind: sum(int(one.partition(":")[2]) for one in line.split()) for kind, line in told.items()
    } == result.units_kept
    assert (entry.training["units"], entry.training["keep_units"]) == ("heads,neurons", 0.5)
    # a head has 4 x 8 x 32 weights, a neuron 2 x 32
    assert result.unit_weights == 4 * 4 * 8 * 32 + 64 * 2 * 32
    assert result.unit_weights <= result.zeros == patch.count.zeros == entry.zeros
    assert result.beside_units.weights == result.weights - result.unit_weights
    units = 2 * (1 + 8)  # whole bytes for 4 heads and 64 neurons of each of two layers
    assert result.coded_bytes == result.beside_units.entropy_bytes + units + result.head_bytes
    zeros = [int(value) for value in entry.training["history"]["zeros"].split()]
    assert zeros[0] == 0
    assert zeros[2] == zeros[0] < zeros[4] < result.unit_weights / 2
    assert result.unit_weights <= zeros[-1]
    assert zeros[23] >= result.unit_weights, "all are gone after 60 % of the steps"


def test_what_is_measured_is_the_model_that_was_learned(request_for):
    """The trained model, with units of weight 0, answers as the stored patch does."""
    request = request_for(**BOTH, margin=0.5)
    run = fit.prepare(request)
    kept = []

    class Watched(CpuPlacement):
        def put(self, model):
            kept.append(model)
            return super().put(model)

    run = replace(run, placement=Watched("cpu"))
    trained = fit.learn(run, on_progress=lambda _: None)
    _, result = fit.measure(run, trained)
    feeds = to_tensors(run.dev.feeds(np.arange(32)), kept[0])
    with torch.no_grad():
        ours, stored = (each.eval()(**feeds).logits for each in kept)
    assert torch.allclose(ours, stored, atol=0.02)
    assert result.units_kept == {HEADS: 4, NEURONS: 64}


@pytest.mark.parametrize("step", [3, 5, 11, 24])
def test_a_stopped_run_goes_on_to_the_same_bytes(request_for, stop_at, step):
    options = {**BOTH, "steps": 24, "checkpoint_every": 1, "margin": 0.5, "dropout": 0.2}
    fit_task(request_for("whole", **options))
    request = request_for("stopped", **options)
    with pytest.raises(Interrupted):
        fit_task(request, on_progress=stop_at(step))
    fit_task(replace(request, resume=True))
    whole, other = (
        open_artifact(request_for(name, **options).out) for name in ("whole", "stopped")
    )
    assert whole.entry("sst2").sha256 == other.entry("sst2").sha256
    assert whole.entry("sst2").training == other.entry("sst2").training


def test_two_processes_remove_the_same_units_as_one(request_for, monkeypatch):
    run_side_by_side = placed_side_by_side(monkeypatch)

    def patches(count, out):
        def work(_):
            request = replace(request_for(out, **BOTH, dropout=0.0), device="together")
            run = fit.prepare_together(request, on_progress=lambda _: None)
            return fit.learn(run, on_progress=lambda _: None).patch

        return run_side_by_side(count, work)

    (alone,) = patches(1, "one")
    for patch in patches(2, "two"):
        for ours, theirs in zip(alone.units.kept, patch.units.kept, strict=True):
            assert np.array_equal(ours, theirs)


def test_importance_is_the_same_in_every_process(request_for):
    run = fit.prepare(request_for(**BOTH))
    masked = fit.masked_model_of(run, fit.loss_of(run, None))
    importance = masked.units.ranking
    batches = importance.batches(1)[:3]  # fewer than there are processes
    alone = importance.of(batches).units

    def work(processes):
        return (
            replace(importance, placement=CpuPlacement("cpu", processes=processes))
            .of(batches)
            .units
        )

    told = side_by_side(4, work)
    for each in told:
        for ours, theirs, first in zip(alone, each, told[0], strict=True):
            assert np.array_equal(theirs, first)
            np.testing.assert_allclose(theirs, ours, rtol=1e-9)


def test_units_that_are_gone_at_the_start_stay_gone(request_for):
    """Without the option no other goes, and with it those that are gone count."""
    run, first = learned(request_for(**BOTH))
    _, plain = learned(request_for(), start=first)
    for kind in (HEADS, NEURONS):
        assert gone(plain.units, kind) == gone(first.units, kind)
    fewer = request_for(units="neurons", keep_units=0.25)
    _, second = learned(fewer, start=first)
    assert gone(second.units, HEADS) == gone(first.units, HEADS)
    assert gone(second.units, NEURONS) > gone(first.units, NEURONS)
    assert len(gone(second.units, NEURONS)) == 96
    shapes = {name: tensor.shape for name, tensor in run.prepared.backbone.linears.items()}
    for name, stays in second.units.masks(shapes).items():
        assert not second.masks[name].to_bool()[~stays].any()


def test_a_size_over_a_task_with_removed_units_is_refused(request_for):
    _, first = learned(request_for(**BOTH))
    with pytest.raises(ConfigError, match="`sst2` has removed 68 units, and a size of the mask"):
        check_start(first, "sst2", FitConfig(sparsity=0.5))
    check_start(first, "sst2", FitConfig())
    check_start(replace(first, units=None), "sst2", FitConfig(sparsity=0.5))


def test_units_that_would_come_back_are_refused_at_the_start(request_for):
    run, first = learned(request_for(**BOTH))
    model, names = run.described, list(run.prepared.backbone.linears)
    check_start_units(first.units, "sst2", model, names)
    check_start_units(None, "sst2", model, [])
    only = [name for name in names if "layer.0" in name]
    with pytest.raises(ConfigError, match=r"removed \d+ \w+ of layer 1, and the run does not mask"):
        check_start_units(first.units, "sst2", model, only)
    model.num_attention_heads *= 2
    with pytest.raises(ConfigError, match="whose weights are no heads of this model"):
        check_start_units(first.units, "sst2", model, names)


def test_a_run_that_starts_from_units_on_other_layers_is_refused_before_training(request_for):
    request = request_for(**BOTH)
    fit_task(request)
    again = request_for(name="upper", layers="1")
    with pytest.raises(ConfigError, match="they would come back"):
        fit.prepare(replace(again, start=(request.out, "sst2")))


def test_a_share_that_is_all_units_is_refused_before_training(request_for):
    with pytest.raises(ConfigError, match=r"`keep_units` 0.99 of 8 heads is all of them"):
        fit.prepare(request_for(units="heads", keep_units=0.99))


def test_an_importance_that_is_no_number_ends_the_run(request_for, monkeypatch):
    monkeypatch.setattr(
        UnitImportance,
        "_gradients",
        lambda self, rows: [np.full((1, g.count), np.nan) for g in self.groups],
    )
    with pytest.raises(ModelError, match="the importance of a unit is no number"):
        learned(request_for(**BOTH))


def ranking_of(request, order, step=0):
    """What a run's own ranking says of its untrained model."""
    request = replace(request, config=replace(request.config, unit_order=order))
    run = fit.prepare(request)
    masked = fit.masked_model_of(run, fit.loss_of(run, None))
    return masked, masked.units.ranking.at(step)


def test_magnitude_ranks_a_unit_by_its_own_weights(request_for):
    masked, found = ranking_of(request_for(**BOTH), "magnitude")
    place = next(n for n, g in enumerate(masked.units.ranking.groups) if g.kind == NEURONS)
    group = masked.units.ranking.groups[place]
    parts = [(masked.layers[part.name].weight, part) for part in group.parts]
    wanted = [
        sum(
            float((w[n] if part.axis == ROWS else w[:, n]).double().square().sum())
            for w, part in parts
        )
        for n in range(group.count)
    ]
    assert found.units[place] == pytest.approx(wanted, rel=1e-6)
    assert found.sublayers[place] == pytest.approx(sum(wanted))
    assert sum(found.layers.values()) == pytest.approx(found.sublayers.sum())


def test_chance_depends_on_seed_and_stage_and_on_nothing_else(request_for):
    request = request_for(**BOTH)
    first, again = (ranking_of(request, "random")[1] for _ in range(2))
    other = ranking_of(request, "random", step=1)[1]
    assert all(np.array_equal(a, b) for a, b in zip(first.units, again.units, strict=True))
    assert not np.array_equal(first.units[0], other.units[0])


def test_each_order_removes_as_many_units_but_other_ones(request_for):
    patches = {
        order: learned(request_for(name=order, **BOTH, unit_order=order))[1].units
        for order in unit_config.UnitOrder
    }
    assert len({units.removed for units in patches.values()}) == 1
    assert len({str(gone(units, NEURONS)) for units in patches.values()}) == 3


def test_what_needs_a_share_of_zeros_is_refused_without_a_circle():
    for option in ({"estimator": "bernoulli"}, {"estimator": "topk"}, {"init": "magnitude"}):
        with pytest.raises(ConfigError, match="and `units` takes none"):
            FitConfig(**BOTH, **option)


def test_a_rehearsal_of_a_short_run_removes_no_unit_in_its_measured_steps(request_for, monkeypatch):
    def fail(*_):
        raise AssertionError("a measured step measured units")

    monkeypatch.setattr(UnitRemoval, "on_step_end", fail)
    request = request_for(**BOTH)
    short = replace(request, config=replace(request.config, steps=10))
    assert rehearse(short, began=Cost.so_far())[1].units_seconds > 0


# what a removed unit is to the parts around it


def two_layers():
    up, down = (
        MaskedLinear(torch.nn.Linear(3, 4), start=1.0),
        MaskedLinear(torch.nn.Linear(4, 3), start=1.0),
    )
    parts = (UnitPart("up", ROWS, 0, 1), UnitPart("down", COLUMNS, 0, 1))
    return {"up": up, "down": down}, UnitGroup(NEURONS, 0, 4, parts)


def test_a_removed_unit_has_no_weight_no_gradient_and_no_score_that_counts():
    layers, group = two_layers()
    removal = UnitRemoval(layers, (group,), target=KeptShares({}), ranking=None)
    bits = np.array([True, False, True, False])
    removal.start_from(Units((group,), (bits,)))
    up, down = layers["up"], layers["down"]
    down(torch.relu(up(torch.randn(5, 3)))).square().sum().backward()
    assert (up.score.grad[~bits] == 0).all()
    assert (down.score.grad[:, ~bits] == 0).all()
    assert down.score.grad[:, bits].abs().sum() > 0
    with torch.no_grad():
        up.score.fill_(9.0)
    assert np.array_equal(up.keep().numpy(), np.repeat(bits[:, None], 3, axis=1))
    assert up.live_scores().numel() == down.live_scores().numel() == 6
    assert removal.stages == 0
    before = removal.units.removed
    removal.on_step_end(6, 10)
    assert removal.units.removed == before


def test_the_size_of_gradients_is_a_mean_over_what_is_left():
    torch.manual_seed(0)
    layers, group = two_layers()
    scores = [layer.score for layer in layers.values()]

    def floor_of(alive):
        optimizer = FlooredAdam([Group(scores, 1e-3, 1.0, alive).settings()])
        for score in scores:
            score.grad = torch.ones_like(score)
        scores[0].grad[:2] = 0.0
        optimizer.step()
        return optimizer.param_groups[0]["eps"]

    assert floor_of(None) == pytest.approx((18 / 24) ** 0.5, rel=1e-4)
    kept = [np.array([False, False, True, True])]
    UnitRemoval(layers, (group,), target=KeptShares({}), ranking=None).start_from(
        Units((group,), tuple(kept))
    )
    scores[1].grad = None

    def alive():
        return [layers["up"].alive(), None]

    assert floor_of(alive) == pytest.approx(1.0, rel=1e-4)


def test_chosen_groups_of_each_kind_come_in_the_order_of_layers(tiny_model):
    from transformers import AutoConfig

    groups = unit_groups(AutoConfig.from_pretrained(tiny_model))
    names = [part.name for group in groups for part in group.parts]
    config = FitConfig(**BOTH)
    found = chosen_groups(groups, masked_names(names, config), config, model_type="bert")
    assert [(group.kind, group.layer) for group in found] == [
        *((HEADS, 0), (HEADS, 1)),
        *((NEURONS, 0), (NEURONS, 1)),
    ]
