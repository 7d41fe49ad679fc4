"""Runs over rows that stand in a cache: the bytes of the artifact are those of rows in memory."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task
from maskpack.compressor.baseline import run_baseline
from maskpack.compressor.prepare import prepare
from maskpack.compressor.run_key import digest_of
from maskpack.formats import ConfigError, DataError, Interrupted
from maskpack.tasks import find_task
from maskpack.tasks.data import stored_rows
from maskpack.tasks.data.stored_rows import StoredRows

pytest.importorskip("pyarrow")

PAGE = 64

RUNS = {
    "plain": {},
    "held out, stopped early": {"patience": 3, "steps": 30},
    "some rows": {"train_rows": PAGE + 77},
    "taught": {"teacher": "twin", "class_weight": "balanced"},
    "tuned": {"calibrate": "temperature"},
}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """Pages of few rows, so that few rows are several pages."""
    monkeypatch.setattr(stored_rows, "PAGE", PAGE)


@pytest.fixture(scope="module")
def table(tmp_path_factory, shared):
    """A file of three pages; some texts are longer than the runs read, and some labels are missing."""
    folder = shared.write_sentiment(tmp_path_factory.mktemp("many"), train=6 * PAGE + 30, dev=4)
    lines = (folder / "train.tsv").read_text().splitlines()
    for number in (7, PAGE + 9, 2 * PAGE + 11):
        text, _ = lines[number].split("\t")
        lines[number] = f"{text} {text} {text} {text}\t"
    path = folder / "many.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def asked(tiny_model, table, quick, tmp_path):
    """A function: a request over the file, with its rows in a cache or in memory."""

    def make(out: str, *, cache: str, unlabelled: str = "skip", **options) -> FitRequest:
        task = find_task(
            "mood",
            text_field="sentence",
            label_field="label",
            unlabelled=unlabelled,
            prefix="the ",
        )
        config = quick(**{"steps": 12, "checkpoint_every": 0, **options})
        path = "off" if cache == "off" else str(tmp_path / cache)
        return FitRequest(str(tiny_model), task, tmp_path / out, config, data=table, cache=path)

    return make


@pytest.mark.parametrize("case", RUNS)
def test_the_artifact_has_the_same_bytes(asked, snapshot, caplog, case):
    said = []
    for name, cache in (("a", "off"), ("b", "cache"), ("c", "cache")):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="maskpack"):
            result = fit_task(asked(name, cache=cache, **RUNS[case]))
        assert result.rows_without_label == {"train": 3, "eval": 0, "learned": 0}
        said.append([one for one in caplog.messages if not re.search("cache|kept in|waiting", one)])
    out = asked("a", cache="off").out
    first = snapshot(out)
    assert first == snapshot(out.with_name("b")) == snapshot(out.with_name("c"))
    assert said[0] == said[1] == said[2] != []


def test_rows_that_a_teacher_answers_are_kept_too(asked, snapshot):
    for name, cache in (("a", "off"), ("b", "cache")):
        request = asked(name, cache=cache, unlabelled="teach", teacher="twin")
        assert fit_task(request).rows_without_label["learned"] == 3
    assert snapshot(request.out) == snapshot(request.out.with_name("a"))
    run = prepare(replace(request, out=request.out.with_name("c")))
    assert isinstance(run.data.train.unlabelled, StoredRows)
    assert len(run.train) == len(run.data.train) + 3
    assert not run.train.labelled[-3:].any()


def test_tokens_are_mapped_and_the_same(asked, tmp_path):
    plain, kept = (prepare(asked("a", cache=cache)) for cache in ("off", "cache"))
    assert isinstance(kept.data.train.texts, StoredRows)
    for one, other in ((kept.train, plain.train), (kept.dev, plain.dev)):
        assert [row.tolist() for row in one.ids] == [row.tolist() for row in other.ids]
        assert [row.tolist() for row in one.types] == [row.tolist() for row in other.types]
        assert np.array_equal(one.labels, other.labels)
        assert (one.pad, one.pad_left) == (other.pad, other.pad_left)
    assert not kept.train.ids.parts[0].flags.writeable  # of a file
    assert not kept.train.ids.parts[0].flags.owndata
    kinds = sorted(path.name.split("-")[0] for path in (tmp_path / "cache").iterdir())
    assert kinds == ["rows", "tokens", "tokens"]


def test_other_options_of_the_tokens_have_tokens_of_their_own(asked, tmp_path):
    prepare(asked("a", cache="cache"))
    shorter = prepare(asked("a", cache="cache", max_length=8))
    assert shorter.train.lengths.max() == 8
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_checkpoint_of_rows_in_memory_is_one_of_rows_in_a_cache(asked, snapshot, stop_at):
    whole = asked("whole", cache="off", checkpoint_every=5)
    fit_task(whole)
    part = asked("part", cache="off", checkpoint_every=5)
    with pytest.raises(Interrupted):
        fit_task(part, on_progress=stop_at(8))
    fit_task(replace(asked("part", cache="cache", checkpoint_every=5), resume=True))
    assert snapshot(part.out) == snapshot(whole.out)


def test_a_disk_that_fills_while_tokens_are_written_is_one_error(asked, full_disk, tmp_path):
    prepare(asked("a", cache="cache", max_length=8))
    before = {path.name for path in (tmp_path / "cache").iterdir()}
    with full_disk(), pytest.raises(DataError, match="cannot write the cache"):
        prepare(asked("a", cache="cache"))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == before
    assert not (tmp_path / "a").exists()


def test_a_baseline_reads_them_as_well(tiny_model, table, tmp_path):
    task = find_task("mood", text_field="sentence", label_field="label", unlabelled="skip")
    config = BaselineConfig(method="head", steps=5, batch_size=8, max_length=16, precision="fp32")
    request = BaselineRequest(str(tiny_model), task, config, data=table, cache="off")
    plain, kept = (
        run_baseline(replace(request, cache=cache)) for cache in ("off", str(tmp_path / "cache"))
    )
    assert plain.scores == kept.scores
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_digest_of_parts_is_that_of_their_tuple():
    import hashlib

    parts = ("a", 1, ("x", None), b"\0")
    assert digest_of(iter(parts)) == hashlib.sha256(repr(parts).encode()).hexdigest()


def test_rows_without_a_label_and_no_teacher_are_refused(asked):
    with pytest.raises(ConfigError, match="3 rows without a label are learned from a teacher"):
        prepare(asked("a", cache="cache", unlabelled="teach"))
