"""Help, version, wrong usage: all without loading a framework."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from maskpack.cli.app import app

COMMANDS = [
    "demo",
    "fit",
    "adopt",
    "refit",
    "quantize",
    "baseline",
    "lr-find",
    "sweep",
    "study",
    "inspect",
    "check",
    "eval",
    "report",
    "diff",
    "overlap",
    "path",
    "merge",
    "remove",
    "rename",
    "vote",
    "vocab",
    "export",
    "verify",
    "predict",
    "bench",
    "costs",
    "package",
    "materialize",
    "pack",
    "unpack",
    "delta",
    "apply-delta",
    "push",
    "pull",
    "tasks",
    "families",
    "env",
    "doctor",
]
HEAVY = ["torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "tokenizers", "datasets"]
HEAVY += ["huggingface_hub"]


def test_the_commands_are_those_listed_here():
    assert [command.name for command in app.registered_commands] == COMMANDS


def test_help_lists_each_command_under_a_heading_with_its_whole_first_sentence():
    assert all(command.rich_help_panel for command in app.registered_commands)
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["--help"]).output
    listed = " ".join(shown.split("Learn tasks:")[1].split())
    assert "..." not in listed
    for command in app.registered_commands:
        assert command.callback is not None
        sentence = " ".join((command.callback.__doc__ or "").split("\n\n")[0].split())
        assert f"{command.name} {sentence.split('. ')[0]}" in listed


def test_the_first_help_names_every_command():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, flag):
    result = CliRunner().invoke(app, [command, flag])
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: compress {command} [OPTIONS]")
    assert "--json" in result.stdout
    assert result.stderr == ""


def test_every_option_has_words_of_help():
    import typer.main

    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("args", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_loads_no_framework(args, environment):
    code = (
        "import sys\n"
        "from maskpack.cli.app import main\n"
        f"sys.argv = ['compress', *{args}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        f"print('loaded:', [name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"
    assert done.stdout.startswith("Usage: compress")


@pytest.mark.parametrize("script", ["compress", "maskpack"])
def test_both_scripts_answer_and_tell_their_version(shell, tmp_path, script):
    found = shell(script, "--version", cwd=tmp_path)
    assert (found.code, found.out, found.err) == (0, version("maskpack") + "\n", "")
    assert shell(script, "--help", cwd=tmp_path).out.startswith("Usage: ")


def test_without_arguments_the_help_is_shown():
    result = CliRunner().invoke(app, [])
    assert "Usage: compress" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("args", "fact"),
    [
        (["nope"], "No such command 'nope'"),
        (["fit"], "Missing argument"),
        (["fit", "model", "-o", "x"], "Missing option '--task'"),
        (["baseline", "model", "-t", "sst2"], "Missing option '--method'"),
        (["fit", "m", "-t", "sst2", "-o", "x", "--steps", "many"], "Invalid value for '--steps'"),
        (["inspect", "a", "--nope"], "No such option"),
        (["export", "a", "-t", "x", "-o", "y", "--compute", "int3"], "'int3' is not one of"),
        (["tasks", "a", "b"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(main, work, args, fact):
    found = main(*args)
    assert found.code == 2
    assert fact in found.err
    assert found.out == ""
    assert list(work.iterdir()) == []


def test_wrong_usage_exits_with_2_as_a_process_too(shell, tmp_path):
    assert shell("compress", "nope", cwd=tmp_path).code == 2


def test_tasks_are_listed_with_a_line_each(main):
    from maskpack.tasks import TASKS

    found = main("tasks")
    assert found.code == 0
    assert found.err == ""
    for name in TASKS:
        assert f"\n  {name} " in found.out


def test_tasks_as_json_are_names_and_lines(main):
    from maskpack.tasks import TASKS

    found = main("tasks", "--json")
    assert found.json.keys() == TASKS.keys()
    assert found.json["sst2"].endswith("; accuracy")
    assert found.err == ""


def test_tasks_of_an_artifact_are_listed_instead(main, tiny_artifact):
    assert main("tasks", tiny_artifact, "--json").json == {"sst2": "classification, accuracy"}
    assert "classification, accuracy" in main("tasks", tiny_artifact).out


def test_the_help_of_fit_names_every_family():
    from maskpack.models.families import FAMILIES

    told = CliRunner().invoke(app, ["fit", "--help"]).output
    words = "".join(told.lower().replace("-", "").split())
    assert all(name.replace("-", "") in words for name in FAMILIES)
