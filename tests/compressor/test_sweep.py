"""Running a plan on tiny models: lines, resuming, teachers, failures, several processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
import yaml

from maskpack.compressor.fit import FitRequest, fit_task
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.log import append, claim, read_log
from maskpack.compressor.sweep.run import backbone_folder, run_sweep
from maskpack.formats import ConfigError, Interrupted, open_artifact

METHODS = {
    "taught": {"bits": 4, "group": 16, "teacher": "run:dense", "keep": True},
    "dense": {"method": "full", "keep": True},
    "mask": {"bits": [8, 4], "group": 16},
}


@pytest.fixture
def plan(tmp_path, tiny_model, sentiment):
    """A function: a plan on the tiny BERT, with some methods."""

    def make(methods=METHODS, seeds=(0,)):
        tree = {
            "models": [str(tiny_model)],
            "tasks": {"sst2": {"data": str(sentiment)}},
            "seeds": list(seeds),
            "options": {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"},
            "methods": methods,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return read_plan(path)

    return make


def go(plan, runs=None, **changes):
    """Run a plan; return the titles of what was trained and the failures."""
    trained = []

    def watch(run):
        trained.append(run.arm.label)
        return nullcontext(changes.get("on_progress", lambda _: None))

    told = []
    failures = run_sweep(runs or plan.runs, plan.out, watch=watch, failed=told.append)
    assert tuple(told) == failures
    return trained, failures


def test_each_run_is_a_line_and_is_done_once(plan):
    made = plan()
    trained, failures = go(made)
    assert trained == ["dense", "taught", "mask bits=8", "mask bits=4"]
    assert failures == ()
    lines = read_log(made.out).lines
    assert [line["label"] for line in lines] == trained
    assert [line["sweep_key"] for line in lines] == [run.key for run in made.runs]
    assert {line["sweep_task"] for line in lines} == {"sst2"}
    assert {"scores", "majority", "coded_bytes", "collapsed", "options"} <= set(lines[0])
    assert lines[1]["options"]["teacher"] == made.runs[0].folder.name
    assert (made.runs[0].folder / "model.safetensors").is_file()
    assert open_artifact(made.runs[1].folder).entry("sst2").metric == "accuracy"
    assert {path.name for path in made.home.iterdir()} == {"backbones"} | {
        name for run in made.runs[:2] for name in (run.folder.name, f"{run.folder.name}.key")
    }
    assert go(made) == ([], ())


def test_a_line_torn_by_a_kill_is_dropped_and_its_run_repeated(plan):
    made = plan({"mask": {"bits": [8, 4]}})
    go(made)
    content = made.out.read_bytes()
    made.out.write_bytes(content[:-40])
    log = read_log(made.out)
    assert log.torn
    assert len(log.lines) == 1
    assert go(made)[0] == ["mask bits=4"]
    again = [json.loads(line) for line in made.out.read_text().splitlines()]
    first = [json.loads(line) for line in content.splitlines()]
    for tree in (*again, *first):
        del tree["seconds"]
    assert again == first


def test_a_damaged_line_elsewhere_is_an_error_with_its_number(plan):
    made = plan()
    made.out.write_text('{"sweep_key": "a"}\n{"sweep\n')
    with pytest.raises(ConfigError, match="line 2 of"):
        go(made)


def test_a_teacher_that_is_gone_is_trained_again_for_its_student_alone(plan):
    made = plan()
    dense, taught = made.runs[:2]
    go(made, [dense])
    (made.home / f"{dense.folder.name}.key").write_text("of other options")
    assert go(made, [dense]) == ([], ())
    assert go(made, [dense, taught])[0] == ["dense", "taught"]
    assert [line["label"] for line in read_log(made.out).lines] == ["dense", "taught"]


def test_a_generation_that_is_gone_is_learned_again_with_its_teachers(plan):
    """A mask teaches the next one; where both it and its own teacher are gone, both come back for the student."""
    methods = {
        "dense": METHODS["dense"],
        "first": METHODS["taught"],
        "born": {"bits": 4, "group": 16, "teacher": "run:first"},
    }
    made = plan(methods)
    dense, first, born = made.runs
    assert go(made, [dense, first]) == (["dense", "first"], ())
    for run in (dense, first):
        (made.home / f"{run.folder.name}.key").write_text("of other options")
    assert go(made) == (["dense", "first", "born"], ())
    (line,) = [one for one in read_log(made.out).lines if one["label"] == "born"]
    assert line["options"]["teacher"] == f"{first.folder.name}#sst2"
    assert line["sweep_key"] == born.key
    assert go(made) == ([], ())


def test_masks_share_a_backbone_and_come_out_as_they_would_alone(plan, tmp_path):
    common = {"group": 16, "refine": 2}
    made = plan({"mask": {"bits": [4, 2], **common}, "more": {"bits": 4, "margin": 1, **common}})
    go(made)
    assert len(list((made.home / "backbones").iterdir())) == 2
    mask, _, more = made.runs
    assert backbone_folder(mask) == backbone_folder(more)
    alone = fit_task(
        FitRequest(
            more.model.source, more.task.task, tmp_path / "a", more.config(), data=more.task.data
        )
    )
    line = read_log(made.out).lines[2]
    told = json.loads(alone.to_json())
    for name in ("scores", "zeros", "weights", "patch_bytes", "backbone_bytes", "bits", "model"):
        assert line[name] == told[name], name


def test_a_failed_run_is_told_and_the_others_go_on(plan):
    made = plan()
    made.home.mkdir()
    made.runs[0].folder.write_text("a file where the model belongs")
    trained, failures = go(made)
    assert trained == ["dense", "mask bits=8", "mask bits=4"]
    assert [each.run.arm.label for each in failures] == ["dense", "taught"]
    assert failures[0].reason.startswith(f"cannot write `{made.runs[0].folder}`: ")
    assert failures[1].reason == "its teacher `dense` failed"
    made.runs[0].folder.unlink()
    assert go(made) == (["dense", "taught"], ())


def test_ctrl_c_leaves_whole_lines_and_says_how_to_go_on(plan):
    made = plan({"mask": {"bits": [8, 4]}})

    def press(news):
        if len(read_log(made.out).lines) == 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        go(made, on_progress=press)
    assert "mask bits=4" in str(stop.value)
    assert "same command" in stop.value.hint
    assert not read_log(made.out).torn
    assert go(made)[0] == ["mask bits=4"]
    assert {path.name for path in made.out.parent.iterdir()} == {
        "plan.yaml",
        "plan.jsonl",
        "plan.runs",
    }
    assert {path.name for path in made.home.iterdir()} == {"backbones"}


def test_what_another_process_is_at_comes_last_and_is_not_done_twice(plan):
    made = plan({"mask": {"bits": [8, 4]}})
    held, release = threading.Event(), threading.Event()

    def other():
        with claim(
            made.out.with_name(f".{made.out.name}.running") / made.runs[0].key, wait=False
        ) as free:
            assert free
            held.set()
            release.wait(300)
            append(made.out, {"sweep_key": made.runs[0].key})

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(300)
    assert go(made, on_progress=lambda _: release.set())[0] == ["mask bits=4"]
    thread.join()
    assert read_log(made.out).keys == {run.key for run in made.runs}


WRITER = """
import sys
from pathlib import Path
from maskpack.compressor.sweep.log import append
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 40):
    append(Path(sys.argv[1]), {"sweep_key": str(number % 60), "text": "x" * 9000})
"""


def test_two_processes_append_whole_lines_and_none_twice(tmp_path):
    path = tmp_path / "log.jsonl"
    others = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), first]) for first in ("0", "20")
    ]
    assert [process.wait(300) for process in others] == [0, 0]
    log = read_log(path)
    assert not log.torn
    assert sorted(int(line["sweep_key"]) for line in log.lines) == list(range(60))


def test_a_results_file_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot write"):
        append(tmp_path, {"sweep_key": "a"})
    with pytest.raises(ConfigError, match="cannot read"):
        read_log(tmp_path)
