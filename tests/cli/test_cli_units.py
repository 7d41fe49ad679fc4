"""Whole units at the command line: what is printed of them, what is refused, and what a rehearsal says."""

from __future__ import annotations

import json

import pytest

UNITS = ("--units", "heads,neurons", "--keep-units", "0.5")


def fit(model, data, out, *more):
    return ["fit", model, "-t", "sst2", "--data", data, "-o", out, *more]


def test_what_stays_is_printed_and_part_of_the_json(main, work, tiny_model, sentiment, short):
    done = main(*fit(tiny_model, sentiment, "a", *short, *UNITS))
    assert done.code == 0
    rows = {tuple(line.split()[:2]): line for line in done.out.splitlines()}
    assert "4 of 8" in rows["heads", "kept"]
    assert "64 of 128" in rows["neurons", "kept"]
    told = json.loads(main(*fit(tiny_model, sentiment, "b", *short, *UNITS, "--json")).out)
    assert told["units"] == {"heads": 8, "neurons": 128}
    assert told["units_kept"] == {"heads": 4, "neurons": 64}
    assert told["entropy_bytes"] < told["unit_weights"] // 8
    plain = main(*fit(tiny_model, sentiment, "c", *short))
    assert "kept" not in plain.out


def test_a_recorded_run_repeats_the_units(main, work, tiny_model, sentiment, short):
    main(*fit(tiny_model, sentiment, "a", *short, *UNITS))
    shown = main("inspect", "a", "-t", "sst2", "--config").out
    assert "units: heads,neurons" in shown
    assert "keep_units: 0.5" in shown
    assert "units_kept" not in shown, "that is a result"


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (("--units", "heads"), "needs the share of them that stays", "give `--keep-units`"),
        (("--keep-units", "0.5"), "`keep_units` is a share of units", "give `--units`"),
        ((*UNITS, "--sparsity", "0.5"), "`sparsity` counts single weights", "leave one of them"),
        (
            (*UNITS, "--modules", "query"),
            "`modules` leave no layer whose heads are masked as a whole",
            "mask all linears of a layer, or leave `--units` out",
        ),
    ],
)
def test_what_cannot_be_is_refused(main, work, tiny_model, sentiment, options, message, hint):
    done = main(*fit(tiny_model, sentiment, "a", *options))
    assert done.code == 1
    assert message in done.err
    assert f"hint: {hint}" in done.err
    assert not (work / "a").exists()


def test_a_rehearsal_counts_the_time_of_measuring(main, work, tiny_model, sentiment, short):
    options = [*short, "--dry-run", "--json"]
    told = main(*fit(tiny_model, sentiment, "a", *options, *UNITS)).json["estimate"]
    assert 0 < told["units_seconds"] < told["seconds"]
    assert main(*fit(tiny_model, sentiment, "a", *options)).json["estimate"]["units_seconds"] == 0
    shown = main(*fit(tiny_model, sentiment, "a", *short, "--dry-run", *UNITS))
    assert " units" in shown.out
    assert not (work / "a").exists()


SPEED = ("--units", "heads,neurons,layers", "--speedup", "1.5")


def test_costs_are_measured_written_and_read_by_fit(main, work, tiny_model, sentiment, short):
    quick = ("--runs", "3", "--length", "16")
    shown = main("costs", tiny_model, "-o", "costs.json", *quick)
    assert shown.code == 0
    assert "2 layers of 4 heads of 8 and 64 neurons" in shown.out
    assert "graph 1 of 11" in shown.err
    told = main("costs", tiny_model, "-o", "more.json", *quick, "--json", "-q")
    assert told.json["shape"]["neurons"] == 64
    assert len(told.json["timed"]) == 11
    assert "graph" not in told.err
    (work / "folder").mkdir()
    refused = main("costs", tiny_model, "-o", "folder", *quick)
    assert refused.code == 1
    assert "is a folder, and the costs are one file" in refused.err
    again = main("costs", tiny_model, "-o", "costs.json", *quick)
    assert again.code == 1
    assert "costs.json" in again.err
    options = ("--units", "heads,neurons", "--speedup", "1.1", "--unit-costs", "costs.json")
    done = main(*fit(tiny_model, sentiment, "a", *short, *options))
    assert done.code == 0
    assert "times as fast as with all units" in done.out
    config = main("inspect", "a", "-t", "sst2", "--config").out
    assert "speedup: 1.1" in config
    assert "predicted_speedup" not in config, "that is a result"


def test_a_speed_is_predicted_in_a_rehearsal_and_in_json(main, work, tiny_model, sentiment, short):
    plan = main(*fit(tiny_model, sentiment, "a", *short, *SPEED, "--dry-run", "--json")).json
    assert plan["predicted ms"] == pytest.approx(plan["ms with all units"] / 1.5, rel=1e-2)
    shown = main(*fit(tiny_model, sentiment, "a", *short, *SPEED, "--dry-run"))
    assert "predicted ms" in shown.out
    told = main(*fit(tiny_model, sentiment, "a", *short, *SPEED, "--json")).json
    assert told["predicted_speedup"] >= 1.5


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ((*UNITS, "--speedup", "2"), "`keep_units` and `speedup` both say", "give one of them"),
        (("--speedup", "2"), "`speedup` is reached without some units", "give `--units`"),
        (("--units", "heads", "--speedup", "1"), "`speedup` is 1.0, expected a number", ""),
        (
            ("--units", "heads", "--speedup", "99"),
            "`speedup` 99 is out of reach: without any of the units that may go",
            "give a smaller `--speedup`, or more kinds of `--units`",
        ),
        (
            (*SPEED, "--unit-costs", "none.json"),
            "`none.json` cannot be read as a cost model",
            "measure one with `compress costs`",
        ),
    ],
)
def test_a_speed_that_cannot_be_is_refused(
    main, work, tiny_model, sentiment, options, message, hint
):
    done = main(*fit(tiny_model, sentiment, "a", *options))
    assert done.code == 1
    assert message in done.err
    assert hint in done.err
    assert not (work / "a").exists()
