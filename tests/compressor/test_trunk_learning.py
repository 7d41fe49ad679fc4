"""`trunk`: lower layers that a task leaves alone, given or found on held-out training rows."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from side_by_side import placed_side_by_side

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor import fit as fit_module
from maskpack.compressor import trunk as trunk_module
from maskpack.compressor.estimate import Cost, rehearse
from maskpack.compressor.masking.model import masked_names, trained_dense
from maskpack.compressor.masking.trunk import above_trunk, layer_count
from maskpack.compressor.prepare import prepare
from maskpack.compressor.training.train import Plan
from maskpack.compressor.trunk import (
    deepest,
    deepest_allowed,
    most_tries,
    with_trunk,
    with_trunk_found,
)
from maskpack.formats import ConfigError, Interrupted, open_artifact
from maskpack.formats.units import Units
from maskpack.models.linears import layer_of
from maskpack.models.units import unit_groups
from maskpack.tasks import find_task

QUICK = {
    "bits": 8,
    "steps": 6,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
    "teacher": "none",
    "margin": 0.3,
}


@pytest.fixture
def request_for(tmp_path, family_models, sentiment):
    """`request_for(**options)`: a request of few steps over a tiny model of two layers."""

    def make(kind="bert", out="artifact", **options):
        config = FitConfig(**{**QUICK, **options})
        model = str(family_models(kind))
        return FitRequest(model, find_task("sst2"), tmp_path / out, config, data=sentiment)

    return make


def changed_layers(path):
    """Layers in which the task has something otherwise than the backbone; None: outside of them."""
    artifact = open_artifact(path)
    patch = artifact.patch("sst2")
    names = [n for n, mask in patch.masks.items() if not mask.to_bool().all()]
    return {layer_of(name) for name in (*names, *patch.dense, *patch.gains)}


def test_a_trunk_is_the_same_as_the_layers_above_it(request_for, snapshot):
    fit_task(request_for(out="trunk", trunk="1"))
    fit_task(request_for(out="layers", layers="1"))
    both = [open_artifact(request_for(out=one).out).patch("sst2") for one in ("trunk", "layers")]
    assert both[0].masks.keys() == both[1].masks.keys()
    for name in both[0].masks:
        np.testing.assert_array_equal(*(patch.masks[name].to_bool() for patch in both))
    for name in both[0].head:
        np.testing.assert_array_equal(*(patch.head[name] for patch in both))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_biases_norms_and_scales_stay_above_the_trunk_too(request_for, kind):
    request = request_for(kind, trunk=1, train_bias=True, train_norm=True, train_scales=True)
    fit_task(request)
    assert changed_layers(request.out) == {1}
    entry = open_artifact(request.out).entry("sst2")
    assert entry.training["trunk"] == "1"


def test_what_is_trained_beside_the_mask(request_for):
    run = prepare(request_for(train_bias=True, train_norm=True))
    every = trained_dense(run.shapes, run.request.config)
    above = trained_dense(run.shapes, replace(run.request.config, trunk="1"))
    assert set(above) == {name for name in every if "layer.1." in name} < set(every)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trunk": "2"}, "none is left to mask"),
        ({"trunk": "0"}, "a number of layers of 1 or more"),
        ({"trunk": "most"}, "a number of layers of 1 or more"),
        ({"trunk": True}, "expected a text"),
        ({"trunk": "1", "layers": "1"}, "set the same thing"),
        ({"trunk_tolerance": 2.0}, "`trunk` is not given"),
        ({"trunk": "1", "trunk_tolerance": 2.0}, "`trunk` is 1"),
        ({"trunk": "auto", "trunk_tolerance": -1.0}, "0 or more"),
    ],
)
def test_a_trunk_that_cannot_be_is_refused(request_for, options, words):
    with pytest.raises(ConfigError, match=words):
        prepare(request_for(**options))


@pytest.mark.parametrize("trunk", ["1", "auto"])
def test_a_family_that_shares_its_layers_has_none(request_for, trunk):
    with pytest.raises(ConfigError, match="uses 1 layer 2 times"):
        prepare(request_for("albert", trunk=trunk))


def test_records_without_the_option_keep_their_bytes():
    plain = FitConfig(**QUICK)
    assert not {"trunk", "trunk_tolerance"} & plain.record().keys()
    assert plain.sha256() != replace(plain, trunk="1").sha256()


@pytest.mark.parametrize(
    ("values", "tolerance", "wanted"),
    [
        ([0.9, 0.9, 0.9, 0.9, 0.9, 0.9], 1.0, 5),
        ([0.9, 0.895, 0.89, 0.88, 0.8, 0.7], 1.0, 2),
        ([0.9, 0.85, 0.8, 0.7, 0.6, 0.5], 1.0, 0),
        ([0.9, 0.85, 0.8, 0.7, 0.6, 0.5], 5.0, 1),
        ([0.5, 0.6, 0.7, 0.7, 0.7, 0.7], 0.0, 5),
        ([0.68, 0.67], 1.0, 1),
        ([0.9], 1.0, 0),
    ],
)
def test_the_deepest_trunk_within_the_tolerance(values, tolerance, wanted):
    asked = []

    def value(layers):
        asked.append(layers)
        return values[layers]

    assert deepest(len(values) - 1, value, tolerance=tolerance) == wanted
    assert asked[0] == 0
    assert len(asked) == len(set(asked)) <= most_tries(len(values))


def metrics(monkeypatch, values):
    """Let runs of a search have these metrics, by depth; returns what was asked."""
    asked = []

    def metric(run, **_):
        layers = run.request.config.trunk_layers or 0
        asked.append((layers, len(run.train), len(run.dev)))
        return values[layers]

    monkeypatch.setattr(trunk_module, "_metric", metric)
    return asked


@pytest.mark.parametrize(("value", "layers"), [(0.895, 1), (0.88, 0)])
def test_the_run_that_is_written_has_the_trunk_and_all_rows(
    request_for, monkeypatch, caplog, value, layers
):
    asked = metrics(monkeypatch, [0.9, value])
    with caplog.at_level(logging.INFO):
        result = fit_task(request_for(trunk="auto"))
    assert [one[0] for one in asked] == [0, 1]
    assert {one[1:] for one in asked} == {(87, 9)}, "nine tenths of 96 training rows, and the rest"
    assert result.train_rows == 96
    assert result.trunk is not None
    assert result.trunk.layers == layers
    assert [one.value for one in result.trunk.tries] == [0.9, value]
    assert result.options.get("trunk") == (str(layers) if layers else None)
    assert (changed_layers(request_for().out) == {1}) == bool(layers)
    assert "trunk 1: accuracy" in caplog.text
    assert json.loads(result.to_json())["trunk"] == json.loads(json.dumps(asdict(result.trunk)))


def test_a_search_learns_and_measures_each_depth(request_for):
    stages = []
    request = request_for(trunk="auto", trunk_tolerance=100.0, teacher="twin")
    result = fit_task(request, on_progress=lambda now: stages.append(now.stage))
    order = list(dict.fromkeys(stages))
    assert order == ["teacher", "trunk of 0", "trunk of 1", "task"]
    assert stages.count("teacher") == 2 * 6, "one for the search, one for the run on all rows"
    assert result.trunk is not None
    assert result.trunk.layers == 1
    assert all(0 <= one.value <= 1 for one in result.trunk.tries)
    assert changed_layers(request.out) == {1}
    # what is written is what a run with that trunk writes
    given = request_for(out="given", trunk="1", teacher="twin")
    fit_task(given)
    both = [open_artifact(one.out).patch("sst2").masks for one in (request, given)]
    for name in both[0]:
        np.testing.assert_array_equal(*(masks[name].to_bool() for masks in both))


def test_two_processes_find_the_same_trunk(request_for, monkeypatch):
    run_side_by_side = placed_side_by_side(monkeypatch)

    def searches(count, out):
        def work(_):
            request = replace(
                request_for(out=out, trunk="auto", dropout=0.0, teacher="twin"), device="together"
            )
            run = fit_module.prepare_together(request, on_progress=lambda _: None)
            found, search = with_trunk_found(
                run, fit_module.targets_for, fit_module.train_mask, on_progress=lambda _: None
            )
            assert found.request.config.trunk_layers == (search.layers or None)
            return asdict(search)

        return run_side_by_side(count, work)

    (alone,) = searches(1, "one")
    one, other = searches(2, "two")
    assert one == other, "they would learn different tasks"
    assert [each["layers"] for each in one["tries"]] == [each["layers"] for each in alone["tries"]]


def test_a_search_that_is_stopped_writes_nothing(request_for, monkeypatch):
    def metric(run, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(trunk_module, "_metric", metric)
    request = request_for(trunk="auto")
    with pytest.raises(Interrupted, match="looked for a trunk"):
        fit_task(request)
    assert not request.out.exists()


def test_a_tolerance_finer_than_a_row_is_said(request_for, monkeypatch, caplog):
    metrics(monkeypatch, [0.9, 0.9])
    fit_task(request_for(trunk="auto"))
    assert "one of 9 held-out rows is 11.1 points" in caplog.text


def test_a_rehearsal_counts_the_runs_of_a_search(request_for):
    run, estimate = rehearse(request_for(trunk="auto"), began=Cost.so_far())
    assert estimate.trunk_runs == 2
    assert estimate.trunk_seconds > 0
    assert estimate.seconds > estimate.trunk_seconds
    assert run.plan == Plan.of(run.request.config, 96)
    assert rehearse(request_for(trunk="1"), began=Cost.so_far())[1].trunk_runs == 0


def test_names_above_a_trunk():
    names = [f"encoder.layer.{n}.output.dense.weight" for n in range(4)] + ["pooler.dense.weight"]
    assert above_trunk(names, 2) == names[2:4]
    assert layer_count(names) == 4
    assert masked_names(names, FitConfig(trunk="3")) == names[3:4]
    with pytest.raises(ConfigError) as caught:
        above_trunk(names, 4)
    assert caught.value.hint == "give 1 to 3"


# depths that the other options do not allow


@pytest.fixture(scope="module")
def four_layers(tmp_path_factory, tiny_model):
    """Folder with a tiny BERT of four layers."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("four")
    BertModel(BertConfig.from_pretrained(tiny_model, num_hidden_layers=4)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture
def four_layer_request(request_for, four_layers):
    """`four_layer_request(**options)`: the same over four layers, whose trunk is to be found."""
    return lambda **options: replace(request_for(trunk="auto", **options), model=str(four_layers))


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_the_largest_depth_is_one_that_the_options_allow(monkeypatch, most):
    def allowed(run, layers):
        if layers > most:
            raise ConfigError(f"not {layers}")

    monkeypatch.setattr(trunk_module, "with_trunk", allowed)
    linears = [f"encoder.layer.{n}.output.dense.weight" for n in range(6)]
    run = SimpleNamespace(shapes=SimpleNamespace(linears=linears))
    assert deepest_allowed(run) == most
    most = 0
    with pytest.raises(ConfigError, match="not 1"):
        deepest_allowed(run)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 3),
        ({"units": "layers", "keep_units": 0.5}, 2),
        ({"units": "layers", "keep_units": 0.8}, 1),
        ({"units": "heads,neurons", "speedup": 1.4}, 2),
        ({"units": "heads,neurons", "speedup": 2.0}, 1),
    ],
)
def test_a_share_and_a_speed_limit_the_depth(four_layer_request, options, most):
    run = prepare(four_layer_request(**options))
    assert deepest_allowed(run) == most
    for layers in range(most + 1):
        with_trunk(run, layers)
    for layers in range(most + 1, 4):
        with pytest.raises(ConfigError):
            with_trunk(run, layers)


@pytest.mark.parametrize(("layer", "most"), [(3, 3), (2, 2), (1, 1), (0, 0)])
def test_units_that_are_gone_limit_the_depth(four_layer_request, layer, most):
    run = prepare(four_layer_request())
    groups = unit_groups(run.described)
    kept = tuple(np.arange(one.count) >= (one.layer == layer) for one in groups)
    request = replace(run.request, start=(run.request.out, "first"))
    run = replace(run, request=request, start=SimpleNamespace(units=Units(groups, kept)))
    if most:
        assert deepest_allowed(run) == most
        return
    with pytest.raises(ConfigError, match="`first` has removed 1 heads of layer 0") as caught:
        deepest_allowed(run)
    hint = "leave `layers`, `trunk` and `modules` out, or start without that task"
    assert caught.value.hint == hint


def test_a_search_tries_no_depth_that_the_options_do_not_allow(
    four_layer_request, monkeypatch, caplog
):
    asked = metrics(monkeypatch, [0.9] * 4)
    request = four_layer_request(units="heads,neurons", speedup=1.4)
    with caplog.at_level(logging.INFO):
        result = fit_task(request)
    assert [one[0] for one in asked] == [0, 1, 2]
    assert result.trunk is not None
    assert result.trunk.layers == 2
    assert "trunks of 2 layers at most are tried" in caplog.text
    assert changed_layers(request.out) <= {2, 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"units": "layers", "keep_units": 0.85}, "`keep_units` 0.85 of 3 layers is all of them"),
        ({"units": "heads,neurons", "speedup": 4.0}, "`speedup` 4 is out of reach"),
    ],
)
def test_no_depth_at_all_is_refused_before_anything_is_trained(
    four_layer_request, monkeypatch, options, words
):
    request = four_layer_request(**options)
    with pytest.raises(ConfigError, match=words):
        rehearse(request, began=Cost.so_far())
    for name in ("targets_for", "train_mask"):
        monkeypatch.setattr(fit_module, name, lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=words):
        fit_task(request)
    assert not request.out.exists()


def test_one_row_is_too_few_for_a_search(request_for):
    with pytest.raises(ConfigError, match="`trunk` auto wants 2 training rows or more"):
        fit_task(request_for(trunk="auto", train_rows=1))


@pytest.mark.parametrize(
    ("trunk", "named"), [("1", "`trunk` and `modules`"), ("auto", "`modules`")]
)
def test_options_that_leave_no_whole_layer_are_named(request_for, trunk, named):
    request = request_for(trunk=trunk, modules="attention", units="layers", keep_units=0.5)
    with pytest.raises(ConfigError, match=f"^{named} leave no layer whose linears"):
        prepare(request)
