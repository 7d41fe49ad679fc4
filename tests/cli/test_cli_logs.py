"""`--log` and `--log-dir`: what other tools are told of a run."""

from __future__ import annotations

import json
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from maskpack.cli.logs import logged
from maskpack.compressor.training.progress import Progress
from maskpack.formats import ConfigError


def fit(model, data, out, *more):
    return ["fit", model, "-t", "sst2", "--data", data, "-o", out, *more]


def test_a_log_has_a_line_a_step(main, work, tiny_model, sentiment, short):
    done = main(*fit(tiny_model, sentiment, "a", *short, "--log", "logs/run.jsonl", "-q"))
    assert done.code == 0
    lines = [json.loads(line) for line in (work / "logs/run.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {line["task"] for line in lines} == {"sst2"}
    assert all(line["loss"] > 0 for line in lines)
    assert lines[0]["weights"] == 17408


def test_events_for_tensorboard_hold_what_was_seen(main, work, tiny_model, sentiment, short):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    longer = [*short, "--steps", "12"]
    done = main(*fit(tiny_model, sentiment, "a", *longer, "--log-dir", "tb", "--log", "l", "-q"))
    assert done.code == 0, done.err
    events = EventAccumulator(str(work / "tb" / "sst2"))
    events.Reload()
    lines = [json.loads(line) for line in (work / "l").read_text().splitlines()]
    losses = events.Scalars("task/loss")
    assert [event.step for event in losses] == list(range(1, 13))
    assert [event.value for event in losses] == pytest.approx([line["loss"] for line in lines])
    scores = events.Scalars("task/accuracy")
    assert scores[0].step == 6
    assert "task/zeros" in events.Tags()["scalars"]


def test_a_log_dir_without_tensorboard_is_refused_before_anything(
    main, work, tiny_model, sentiment, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    done = main(*fit(tiny_model, sentiment, "a", "--log-dir", "tb"))
    assert done.code == 1
    assert 'hint: pip install "maskpack[logs]"' in done.err
    assert list(work.iterdir()) == []


def test_a_log_that_cannot_be_written_is_refused_before_the_first_step(
    main, work, tiny_model, sentiment, short
):
    (work / "taken").write_text("")
    done = main(*fit(tiny_model, sentiment, "a", *short, "--log", "taken/run.jsonl"))
    assert done.code == 1
    assert "cannot write a log" in done.err
    assert [path.name for path in work.iterdir()] == ["taken"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device without room")
def test_a_log_on_a_full_disk_is_told_as_that(main, work, tiny_model, sentiment, short):
    done = main(*fit(tiny_model, sentiment, "a", *short, "--log", "/dev/full", "-q"))
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("error: cannot write a log at `/dev/full`: No space left")


def test_the_loss_of_a_run_that_diverges_is_no_number_in_a_log(work):
    news = Progress(1, 2, float("nan"), "accuracy", None, None)
    with logged(lambda _: None, "t", file=work / "l") as tell:
        tell(news)
        tell(replace(news, step=2, loss=0.5))
    lines = [
        json.loads(line, parse_constant=pytest.fail)
        for line in (work / "l").read_text().splitlines()
    ]
    assert [line["loss"] for line in lines] == [None, 0.5]


def test_weights_and_biases_runs_offline(main, work, tiny_model, sentiment, short, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    done = main(
        *fit(tiny_model, sentiment, "a", *short, "--log-to", "wandb", "--log-dir", "w", "--json")
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["steps"] == 4, "its words are not on stdout"
    (run,) = (work / "w" / "wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    assert b"task/loss" in content
    assert b"batch_size" in content


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_writes_into_a_folder(main, work, tiny_model, sentiment, short, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    done = main(*fit(tiny_model, sentiment, "a", *short, "--log-to", "mlflow", "-q"))
    assert done.code == 0, done.err
    with sqlite3.connect(work / "logs" / "mlflow.db") as database:
        losses = database.execute("select step, value from metrics where key = 'task/loss'")
        assert sorted(step for step, _ in losses) == [1, 2, 3, 4]
        (size,) = database.execute("select value from params where key = 'batch_size'")
    assert size == ("16",)


@pytest.mark.parametrize(
    ("names", "words"),
    [("wandb,carrier-pigeon", "no tracker `carrier-pigeon`"), ("mlflow", "not installed")],
)
def test_a_tracker_that_is_not_there_is_refused_before_anything(
    names, words, main, work, tiny_model, sentiment, monkeypatch
):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    done = main(*fit(tiny_model, sentiment, "a", "--log-to", names))
    assert done.code == 1
    assert words in done.err
    assert list(work.iterdir()) == []


def test_a_tracker_that_does_not_start_is_an_error_of_ours(work, monkeypatch):
    from maskpack.compressor.training import trackers

    class Broken:
        def start(self):
            raise ValueError("no key\nand more")

    monkeypatch.setitem(trackers.TRACKERS, "tensorboard", lambda *_: Broken())
    with (
        pytest.raises(ConfigError, match="`tensorboard` does not start: no key"),
        logged(lambda _: None, "t", trackers=["tensorboard"], folder=work / "l"),
    ):
        pass
