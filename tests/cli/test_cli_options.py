"""Where an option's value comes from: command line, then file, then default."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maskpack.cli.options import resolve
from maskpack.compressor import FitConfig
from maskpack.formats import ConfigError


def fit(model, data, out, *more):
    return ["fit", model, "-t", "sst2", "--data", data, "-o", out, "-q", "--json", *more]


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    file = tmp_path / "o.yaml"
    file.write_text("steps: 7\nlr: 0.5\nbatch-size: 3\n")
    found = resolve(FitConfig, file, {"lr": 0.25, "steps": None, "seed": 0})
    assert (found.lr, found.steps, found.batch_size) == (0.25, 7, 3)
    assert found.margin == FitConfig().margin


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("nope: 1\n", "no option `nope`"),
        ("- 1\n", "does not hold a mapping"),
        ("steps: [\n", "cannot read the options"),
        ("steps: -1\n", "`steps` is -1"),
        ("lr: fast\n", "`lr` is 'fast'"),
        ("precision: fp8\n", "fp8"),
    ],
)
def test_a_file_with_a_wrong_option_is_refused(tmp_path, text, fact):
    file = tmp_path / "o.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=fact):
        resolve(FitConfig, file, {})


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        resolve(FitConfig, tmp_path / "none.yaml", {})


def test_saved_options_replay_to_the_same_artifact(
    main, work, tiny_model, sentiment, short, snapshot
):
    saved = ["--save-config", "run.yaml"]
    first = main(*fit(tiny_model, sentiment, "a", *short, "--seed", "5", *saved))
    assert first.code == 0
    again = main(*fit(tiny_model, sentiment, "b", "--config", "run.yaml"))
    assert again.code == 0
    assert snapshot(work / "a") == snapshot(work / "b")
    other = main(*fit(tiny_model, sentiment, "c", "--config", "run.yaml", "--seed", "6"))
    assert other.json["seed"] == 6
    assert snapshot(work / "a") != snapshot(work / "c")


def test_saved_options_are_all_of_them(main, work, tiny_model, sentiment, short):
    main(*fit(tiny_model, sentiment, "a", *short, "--save-config", "run.yaml", "--dry-run"))
    tree = yaml.safe_load((work / "run.yaml").read_text())
    assert tree.keys() == {*FitConfig().__dict__, "run"}
    assert (tree["steps"], tree["bits"], tree["precision"]) == (4, 4, "fp32")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    main, work, tiny_model, sentiment, short, snapshot
):
    found = main(*fit(tiny_model, sentiment, "a", *short, "--dry-run"))
    assert found.code == 0
    assert snapshot(work) == {}
    assert found.json["steps"] == 4
    assert found.json["backbone"] == "to be quantised"
    assert found.json["masked weights"] == 17408
    assert (found.json["training rows"], found.json["evaluation rows"]) == (96, 32)
    table = main(
        *(word for word in fit(tiny_model, sentiment, "a", *short, "--dry-run") if word != "--json")
    )
    assert "dry run" in table.out
    assert snapshot(work) == {}


def test_a_dry_run_onto_an_artifact_knows_its_backbone(
    main, work, tiny_artifact, tiny_model, sentiment
):
    found = main(
        *fit(
            tiny_model, sentiment, tiny_artifact, "--name", "new", "--max-length", "16", "--dry-run"
        )
    )
    assert found.json["backbone"] == "already there"
    assert found.json["bits"] == 4


def test_a_dry_run_refuses_what_the_run_would_refuse(
    main, work, tiny_artifact, tiny_model, sentiment
):
    found = main(*fit(tiny_model, sentiment, tiny_artifact, "--dry-run"))
    assert found.code == 1
    assert "already has a task `sst2`" in found.err


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--bits", "3"], "`bits` is 3"),
        (["--lr", "0"], "`lr` is 0.0"),
        (["--max-length", "400"], "`max_length` is 400, the encoder has 64 positions"),
        (["--sparsity", "0.1", "--target-bpp", "0.1"], "set the same thing"),
        (["--quantizer", "magic"], "no quantizer `magic`"),
        (["--text-field", "sentence"], "needs both"),
        (["--name", "../up"], "`../up` cannot name a task"),
    ],
)
def test_an_option_out_of_range_exits_with_1_and_writes_nothing(
    main, work, tiny_model, sentiment, snapshot, options, fact
):
    found = main(*fit(tiny_model, sentiment, "a", *options))
    assert found.code == 1
    assert found.err.startswith("error: ")
    assert fact in found.err
    assert found.out == ""
    assert snapshot(work) == {}


ONE_MORE = r"""
import sys

sys.path.insert(0, {docs!r})
from typer.testing import CliRunner

import make_cli
from maskpack.cli.app import app
from maskpack.cli.options import resolve
from maskpack.compressor.config import FitConfig
from maskpack.compressor.options import load_options, save_options
from maskpack.compressor.sweep.file import read_plan
from maskpack.formats import ConfigError
from pathlib import Path

shown = " ".join(CliRunner().invoke(app, ["fit", "--help"]).output.split())
assert "--grace <int> Steps without a flip at the start. [5]" in shown, shown
assert "--grace <int>" in make_cli.render()
save_options(Path("run.yaml"), FitConfig(grace=7))
assert load_options(Path("run.yaml"))["grace"] == 7
assert resolve(FitConfig, Path("run.yaml"), {{}}).grace == 7
assert resolve(FitConfig, Path("run.yaml"), {{"grace": 8}}).grace == 8
Path("plan.yaml").write_text(
    "models: [demo]\ntasks: [reviews]\nmethods:\n  mask: {{grace: [5, 6]}}\n"
)
plan = read_plan(Path("plan.yaml"))
assert plan.labels == ("mask grace=5", "mask grace=6")
assert [run.config().grace for run in plan.runs] == [5, 6]
try:
    FitConfig(grace=-1)
except ConfigError as error:
    assert str(error) == "`grace` is -1, expected 0 or more"
else:
    raise AssertionError
"""
FIELD = """
    grace: Annotated[int, Opt("Steps without a flip at the start.", within="[0, inf)")] = 5
"""


def test_an_option_is_added_in_one_place(tmp_path):
    """A copy of the package with one more field: help, documents, YAML and sweeps know it."""
    root = Path(__file__).parents[2]
    for package in (path.name for path in (root / ".types" / "maskpack").iterdir()):
        shutil.copytree(root / package, tmp_path / "maskpack" / package)
    config = tmp_path / "maskpack" / "compressor" / "config.py"
    line = '    """How a mask is learned, over which backbone."""\n'
    assert line in config.read_text()
    config.write_text(config.read_text().replace(line, line + FIELD))
    script = ONE_MORE.format(docs=str(root / "docs"))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"init": "7"}, "no init `7`"),
        ({"bits": "4"}, "`bits` is '4', expected a whole number"),
        ({"train_bias": 1}, "`train_bias` is 1, expected true or false"),
        ({"layers": 3}, "`layers` is 3, expected a text"),
        ({"warmup": None}, "`warmup` is None, expected a number in [0, 1)"),
        ({"warmup": float("nan")}, "`warmup` is nan, expected a number in [0, 1)"),
        ({"lr": float("inf")}, "`lr` is inf, expected a number above 0"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        FitConfig(**given)
