"""What makes a long day at the command line bearable: loudness, colours, replay, estimates, logs."""

from __future__ import annotations

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maskpack.cli import render
from maskpack.cli.fit import duration
from maskpack.compressor import FitConfig, estimate
from maskpack.compressor.estimate import Cost, RefineClock, spread
from maskpack.compressor.training.progress import Progress
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.single_label import SingleLabel

SCRIPT = str(Path(sys.executable).parent / "compress")


@pytest.fixture(autouse=True)
def _usual():
    yield
    render.set_loudness(render.Loudness.USUAL)


def fit(model, data, out, *more):
    return ["fit", model, "-t", "sst2", "--data", data, "-o", out, *more]


# loudness


def test_quiet_leaves_data_and_errors(main, work, tiny_model, sentiment, short):
    done = main("--quiet", *fit(tiny_model, sentiment, "a", *short))
    assert (done.code, done.err) == (0, "")
    assert "backbone" in done.out
    again = main("-q", *fit(tiny_model, sentiment, "a", *short))
    assert again.code == 1
    assert again.err.startswith("error: ")
    assert "hint: " in again.err


def test_quiet_holds_for_every_command(main, work, tiny_artifact, sentiment):
    exported = ["export", tiny_artifact, "--onnx", "-t", "sst2", "-o", "g", "--no-verify"]
    assert main("-q", *exported).err == ""
    done = main("-q", "report", tiny_artifact, "--data", sentiment)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_quiet_ends_with_its_call(main, work, tiny_artifact):
    main("-q", "inspect", tiny_artifact)
    assert "wrote" in main("report", tiny_artifact, "--no-evaluate").err


def test_verbose_names_the_files_that_are_read_and_written(
    main, work, tiny_model, sentiment, short
):
    done = main("--verbose", *fit(tiny_model, sentiment, "a", *short, "--json"))
    assert done.code == 0
    assert done.json["steps"] == 4  # data stays data
    for words in (
        f"debug: reading `{tiny_model}`",
        f"debug: reading `{sentiment / 'train.tsv'}`",
        "backbone.safetensors`, ",
        "debug: renamed `",
    ):
        assert words in done.err, words
    read = main("-v", "inspect", "a")
    assert "debug: read `a/maskpack.json`" in read.err
    assert "debug: " not in main("inspect", "a").err
    assert not logging.getLogger("py.warnings").handlers


def test_verbose_passes_warnings_of_libraries_on(capsys):
    import warnings

    render.set_loudness(render.Loudness.VERBOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("a library's remark", UserWarning, stacklevel=1)
    assert "UserWarning: a library's remark" in capsys.readouterr().err


def test_quiet_and_verbose_exclude_each_other(main, work):
    done = main("-q", "-v", "tasks")
    assert done.code == 2
    assert "exclude each other" in done.err


def test_a_bug_is_told_even_if_quiet(main, work, tiny_artifact, sentiment, failing):
    failing(ZeroDivisionError("a bug"))
    done = main("-q", "eval", tiny_artifact, "-t", "sst2", "--data", sentiment, "--json")
    assert done.code == 70
    assert "ZeroDivisionError" in done.err


# colours


def on_a_terminal(args, **variables):
    """What a command writes to a terminal."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **variables}
    process = subprocess.Popen([SCRIPT, *args], stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # how Linux ends a terminal
            break
        if not part:
            break
        parts.append(part)
    process.wait(timeout=300)
    os.close(leader)
    return b"".join(parts).decode()


@pytest.mark.parametrize("args", [["inspect", "nope"], ["tasks"], ["--help"], ["fit", "--nope"]])
def test_no_color_is_respected_on_a_terminal(args):
    shown = on_a_terminal(args, NO_COLOR="1")
    assert shown
    assert "\x1b[3" not in shown.replace("\x1b[3m", "")
    assert "\x1b[9" not in shown


def test_nothing_but_text_goes_to_a_pipe(shell, work, tiny_artifact):
    for args in (["inspect", tiny_artifact], ["inspect", "nope"], ["--help"]):
        done = shell("compress", *args, cwd=work)
        assert "\x1b" not in done.out + done.err


# replay


def test_a_run_is_written_down_and_repeated_without_another_word(
    main, work, tiny_model, sentiment, short, snapshot
):
    saved = ["--save-config", "run.yaml", "--name", "film", "--json"]
    first = main(*fit(tiny_model, sentiment, "a", *short, *saved))
    assert first.code == 0
    tree = yaml.safe_load((work / "run.yaml").read_text())
    assert tree["run"] == {
        "model": str(tiny_model), "task": "sst2", "out": "a", "name": "film", "data": str(sentiment),
    }  # fmt: skip
    assert tree.keys() == {*FitConfig().__dict__, "run"}
    again = main("fit", "--config", "run.yaml", "-o", "b", "--json")
    assert again.code == 0, again.err
    assert snapshot(work / "a") == snapshot(work / "b")
    changed = main("fit", "--config", "run.yaml", "-o", "c", "--seed", "3", "--name", "x", "--json")
    assert (changed.json["seed"], changed.json["task"]) == (3, "x")


def test_a_repeated_run_does_not_replace_what_it_wrote(main, work, tiny_model, sentiment, short):
    saved = [*short, "--save-config", "run.yaml", "--replace"]
    assert main(*fit(tiny_model, sentiment, "a", *saved)).code == 0
    done = main("fit", "--config", "run.yaml")
    assert done.code == 1
    assert "already has a task" in done.err


def test_baselines_and_backbones_are_repeated_too(main, work, tiny_model, sentiment, snapshot):
    short = ["--steps", "2", "--batch-size", "16", "--max-length", "16", "--json"]
    args = ["baseline", tiny_model, "-t", "sst2", "--data", sentiment, "--method", "head", *short]
    first = main(*args, "--save-config", "b.yaml")
    assert main("baseline", "--config", "b.yaml", "--json").json["scores"] == first.json["scores"]
    main("quantize", tiny_model, "-o", "q", "--bits", "4", "--save-config", "q.yaml")
    assert main("quantize", "--config", "q.yaml", "-o", "r").code == 0
    assert snapshot(work / "q") == snapshot(work / "r")


def test_a_file_of_options_alone_still_wants_the_rest(main, work):
    (work / "o.yaml").write_text("steps: 3\n")
    done = main("fit", "--config", "o.yaml")
    assert done.code == 2
    assert "Missing argument" in done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [1]\n", "`run` in `o.yaml` is no mapping"),
        ("run: {nope: 1}\n", "`run` in `o.yaml` has `nope`, which `compress fit` does not take"),
        ("run: {replace: true}\n", "has `replace`"),
        ("- 1\n", "does not hold a mapping"),
    ],
)
def test_a_file_that_is_no_run_is_refused(main, work, text, message):
    (work / "o.yaml").write_text(text)
    done = main("fit", "--config", "o.yaml")
    assert done.code == 1
    assert message in done.err
    assert [path.name for path in work.iterdir()] == ["o.yaml"]


# estimate


def test_an_estimate_is_made_of_its_parts(main, work, tiny_model, sentiment, short, snapshot):
    found = main(*fit(tiny_model, sentiment, "a", *short, "--dry-run", "--json"))
    told = found.json["estimate"]
    parts = told["steps"] * told["step_seconds"] + told["looks"] * told["look_seconds"]
    parts += told["load_seconds"] + told["teacher_seconds"]
    assert told["seconds"] == pytest.approx(parts)
    assert (told["steps"], told["looks"], told["measured"]) == (4, 1, 4)
    assert told["busy_seconds"] > 0
    assert told["memory_bytes"] > 50e6
    assert told["disk_bytes"] == 12 * (17408 + 2 * 32 + 2)  # scores and head: value, two moments
    assert snapshot(work) == {}
    shown = main(*fit(tiny_model, sentiment, "a", *short, "--dry-run"))
    for words in ("time, estimated", "basis", "4 steps measured", "peak of this rehearsal"):
        assert words in shown.out
    assert re.search(r"backbone bytes +[0-9.]+ KB", shown.out)


def test_a_teacher_that_is_trained_first_is_counted(main, work, tiny_model, sentiment, monkeypatch):
    taken = []

    class Counting(SingleLabel):
        def loss(self, logits, labels):
            taken.append(len(labels))
            return super().loss(logits, labels)

    monkeypatch.setitem(TASK_TYPES, "classification", Counting())
    options = ["--steps", "200", "--batch-size", "16", "--max-length", "16", "--bits", "8"]
    args = fit(tiny_model, sentiment, "a", *options, "--teacher", "twin", "--dry-run", "--json")
    told = main(*args).json["estimate"]
    # the teacher takes 2 steps and 8; then the mask one, and those that are measured
    assert len(taken) == 2 + 8 + 1 + told["measured"]
    assert told["teacher_seconds"] > 0


def test_a_busy_machine_makes_no_estimate_negative():
    """Seen once: two steps of a teacher took longer than eight."""
    quiet = estimate.each_step(Cost(3.0, 2.0), Cost(9.0, 5.0), few=2, many=8)
    assert (quiet.seconds, quiet.busy) == pytest.approx((1.0, 0.5))
    busy = estimate.each_step(Cost(9.0, 5.0), Cost(8.0, 4.0), few=2, many=8)
    assert (busy.seconds, busy.busy) == pytest.approx((1.0, 0.5))


def test_refinement_is_cut_short_and_counted_whole(main, work, tiny_model, sentiment):
    options = ["--steps", "4", "--batch-size", "16", "--max-length", "16", "--bits", "2"]
    few, many = (
        main(
            *fit(tiny_model, sentiment, "a", *options, "--refine", steps, "--dry-run", "--json")
        ).json["estimate"]["load_seconds"]
        for steps in ("6", "20000")
    )
    assert many > few + 20  # 20,000 steps of more than a millisecond


def test_the_clock_of_refinement_multiplies():
    times = iter([Cost(10.0, 5.0), Cost(12.0, 6.0), Cost(14.0, 7.0)])
    clock = RefineClock(lambda: next(times))
    for step in range(3):
        clock.on_progress(Progress(step, 3, 0.0, "distance", None, None, "backbone"))
    clock.on_progress(Progress(1, 3, 0.0, "accuracy", None, None, "task"))
    assert clock.missing(13) == Cost(20.0, 10.0)
    assert clock.missing(2) == Cost()
    assert RefineClock().missing(600) == Cost()


def test_measured_batches_lie_evenly_among_the_sizes():
    sizes = list(range(100, 0, -1))
    picked = sorted(sizes[place] for place in spread(sizes, 4))
    assert picked == [13, 38, 63, 88]
    assert sorted(spread([3, 1, 2], 3)) == [0, 1, 2]


def test_a_rehearsal_moves_nothing(tiny_model, sentiment, tmp_path):
    import torch

    from maskpack.compressor import FitRequest
    from maskpack.tasks import find_task

    kept = []
    real = estimate.masked_model_of

    def remember(run, task_loss):
        student = real(run, task_loss)
        kept.append((student, {n: p.clone() for n, p in student.model.named_parameters()}))
        return student

    estimate.masked_model_of = remember
    try:
        config = FitConfig(
            bits=8, steps=9, batch_size=16, max_length=16, precision="fp32", teacher="none"
        )
        request = FitRequest(
            str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment
        )
        estimate.rehearse(request, began=Cost.so_far())
    finally:
        estimate.masked_model_of = real
    ((student, before),) = kept
    assert all(torch.equal(before[n], p) for n, p in student.model.named_parameters())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations_are_said_as_people_do(seconds, text):
    assert duration(seconds) == text


# completion


def completed(words, environment, cwd):
    """What the shell offers after these words, and which modules that took."""
    code = (
        "import sys, atexit\n"
        "heavy = ['torch', 'transformers', 'onnx', 'onnxruntime', 'jinja2', 'resvg_py']\n"
        "atexit.register(lambda: print([m for m in heavy if m in sys.modules], file=sys.stderr))\n"
        "from maskpack.cli.app import main\nsys.argv = ['compress']\nmain()\n"
    )
    variables = {
        **environment,
        "_COMPRESS_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split(), done.stderr


def test_completion_offers_commands_and_options_without_a_framework(environment, work):
    commands, loaded = completed(["compress", "re"], environment, work)
    assert {"report", "remove", "rename"} <= set(commands)
    assert loaded.strip() == "[]"
    options, _ = completed(["compress", "fit", "--s"], environment, work)
    assert {"--steps", "--seed", "--sparsity", "--save-config"} <= set(options)


def test_completion_after_a_config_that_is_not_there_is_silent(environment, work):
    words = ["compress", "fit", "--config", "nope.yaml", "--se"]
    options, loaded = completed(words, environment, work)
    assert "--seed" in options
    assert "Error" not in loaded
