"""`compress sweep` as people call it: dry run, table, JSON, filters, failures, plots."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(sys.executable).parent / "compress"
EXAMPLES = Path(__file__).parents[2] / "examples"
METHODS = {
    "dense": {"method": "full", "keep": True},
    "mask": {"bits": [8, 4], "group": 16},
    "taught": {"bits": 4, "group": 16, "teacher": "run:dense"},
}


@pytest.fixture
def plan(work, tiny_model, sentiment) -> Path:
    """A plan of eight short runs, in the current folder."""
    tree = {
        "models": [str(tiny_model)],
        "tasks": {"sst2": {"data": str(sentiment)}},
        "seeds": [0, 1],
        "options": {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "methods": METHODS,
        "reference": "dense",
    }
    path = work / "plan.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def labels(path):
    return [json.loads(line)["label"] for line in path.read_text().splitlines()]


def test_a_dry_run_lists_the_runs_and_writes_nothing(main, plan, work):
    done = main("sweep", plan, "--dry-run")
    assert done.code == 0
    assert "8 runs, 8 to do" in done.out
    assert done.out.count("mask bits=4") == 2
    (first, *_), listed = main("sweep", plan, "--dry-run", "--json").json, 8
    assert (first["label"], first["done"], len(first["sweep_key"])) == ("dense", False, 64)
    assert len(main("sweep", plan, "--dry-run", "--json").json) == listed
    assert [path.name for path in work.iterdir()] == ["plan.yaml"]


def test_a_sweep_prints_one_table_and_goes_on_where_it_stopped(main, plan, work):
    some = main("sweep", plan, "--only", "mask", "--seed", "1", "-q")
    assert some.code == 0, some.err
    assert labels(work / "plan.jsonl") == ["mask bits=8", "mask bits=4"]
    assert "1/2" in some.out
    rest = main("sweep", plan)
    assert rest.code == 0, rest.err
    assert sorted(labels(work / "plan.jsonl")) == sorted(
        ["dense", "mask bits=8", "mask bits=4", "taught"] * 2
    )
    assert "[1/8] bert, sst2, dense, seed 0 3/3" in rest.err
    head, line, *rows = [row for row in rest.out.splitlines() if row.startswith("|")]
    assert re.sub(" +", " ", head) == (
        "| method | sst2, accuracy | points to dense | zeros | coded bytes | s | runs |"
    )
    assert set(line) == {"|", "-", " "}
    assert re.search(r"dense .* 0\.\d{4} ± 0\.\d{4}.*\| reference", rows[0])
    assert re.search(r"taught .* [+-]\d+\.\d\d ± \d+\.\d\d .*% .*\| 2/2", rows[3])
    assert rows[4].split("|")[1].strip() == "majority class"
    assert [cell.strip() for cell in rows[4].split("|")[2:-1]] == ["0.5000", *["-"] * 5]
    assert "Matthews correlation" in rest.out
    again = main("sweep", plan, "--summary")
    assert (again.code, again.out, again.err) == (0, rest.out, "")


def test_the_table_as_json(main, plan):
    (table,) = main("sweep", plan, "--only", "dense", "--seed", "0", "--json", "-q").json
    (row,) = table["rows"]
    assert (table["model"], table["planned"], row["label"], row["runs"]) == ("bert", 2, "dense", 1)
    assert row["tasks"]["sst2"]["score"]["sd"] is None
    assert row["points"] == {"mean": 0.0, "sd": None}


def test_a_collapse_is_marked(main, plan, work):
    main("sweep", plan, "--only", "mask bits=8", "-q")
    path = work / "plan.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1] |= {"collapsed": True}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = main("sweep", plan, "--summary")
    assert " † |" in done.out
    assert (
        "`mask bits=8` on sst2 is no better than always giving the same answer: seed 1" in done.out
    )


def test_a_failed_run_is_named_at_the_end(main, plan, work):
    tree = yaml.safe_load(plan.read_text())
    tree["methods"]["dense"]["lr"] = 1e38
    plan.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = main("sweep", plan, "--seed", "0", "-q")
    assert done.code == 1
    assert "error: bert, sst2, dense, seed 0: training diverged: " in done.err
    assert "\nhint: lower `--lr`" in done.err
    assert "2 of 4 runs failed: bert, sst2, dense, seed 0; bert, sst2, taught, seed 0" in done.err
    assert "| mask bits=8" in done.out
    assert labels(work / "plan.jsonl") == ["mask bits=8", "mask bits=4"]


def test_lines_that_do_not_count_are_said(main, plan, work):
    (work / "plan.jsonl").write_text('{"method": "mask"}\n{"torn')
    done = main("sweep", plan, "--only", "mask bits=8", "--seed", "0", "-q")
    assert done.code == 0
    assert "warning: the last line of" in done.err
    assert "note: 1 lines of" in done.err
    assert len((work / "plan.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_two_processes_share_one_file(plan, work, environment):
    commands = [[SCRIPT, "sweep", plan, "-q", "--seed", seed] for seed in "01"]
    running = [
        subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(labels(work / "plan.jsonl")) == sorted(
        ["dense", "mask bits=8", "mask bits=4", "taught"] * 2
    )
    assert any("2/2" in output for output in outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--only", "nope"],
            "error: the plan: no method `nope`\nhint: methods: dense, mask bits=8",
        ),
        (["--seed", "9"], "error: seed 9 is not in the plan"),
    ],
)
def test_a_filter_that_matches_nothing_is_refused(main, plan, work, arguments, message):
    done = main("sweep", plan, *arguments)
    assert done.code == 1
    assert message in done.err
    assert [path.name for path in work.iterdir()] == ["plan.yaml"]


def test_a_file_that_is_no_plan_is_refused(main, work):
    (work / "plan.yaml").write_text("- a list\n")
    assert "does not hold a mapping" in main("sweep", "plan.yaml").err
    assert "cannot read the sweep" in main("sweep", "nope.yaml").err


def test_plots_without_resvg_are_refused_before_the_first_run(main, plan, work, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    done = main("sweep", plan, "--plots", "plots")
    assert done.code == 1
    assert 'hint: pip install "maskpack[plots]"' in done.err
    assert [path.name for path in work.iterdir()] == ["plan.yaml"]


def test_plots_are_drawn_of_what_is_there(main, plan, work):
    tree = yaml.safe_load(plan.read_text())
    tree["methods"]["cut"] = {"sparsity": [0.1, 0.5]}
    plan.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = main("sweep", plan, "--seed", "0", "-q", "--plots", "plots")
    assert done.code == 0, done.err
    names = {"quality-bits", "quality-sparsity", "quality-bytes"}
    assert {path.stem for path in (work / "plots").iterdir()} == names
    for name in names:
        picture = (work / "plots" / f"{name}.svg").read_text()
        assert "sst2, accuracy" in picture
        assert "dense (reference)" in picture
        assert (work / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    before = (work / "plots" / "quality-bits.svg").read_bytes()
    main("sweep", plan, "--summary", "--plots", "plots")
    assert (work / "plots" / "quality-bits.svg").read_bytes() == before


@pytest.mark.parametrize("name", ["table1", "sparsity"])
def test_the_examples_pass_a_dry_run(main, work, name):
    done = main("sweep", EXAMPLES / f"{name}.yaml", "-o", work / "out.jsonl", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert len(done.json) > 50
    assert not list(work.iterdir())


def test_a_device_reaches_every_run_and_its_backbone(main, plan, monkeypatch):
    from maskpack.models.placement import PLACEMENTS, CpuPlacement

    asked = []

    def made(device, precision):
        asked.append(precision)
        return CpuPlacement.of("cpu", "fp32")

    monkeypatch.setitem(PLACEMENTS, "watched", made)
    done = main("sweep", plan, "--device", "watched", "-q")
    assert done.code == 0, done.err
    assert len(asked) >= 2
    refused = main("sweep", plan, "--device", "watched", "--ray", "-q")
    assert refused.code == 1
    assert "workers of a cluster choose their devices" in refused.err
