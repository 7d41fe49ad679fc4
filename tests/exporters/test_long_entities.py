"""Entities in texts of several windows: learned, measured and exported as devices find them with `windows`."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from long_entities import FILLER, LENGTH, PREFIX, ROOM, STRIDE, document, task_for, write_documents

from maskpack.compressor import (
    FitRequest,
    fit_task,
)
from maskpack.compressor.repeat import recorded_run
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.formats import open_artifact
from maskpack.models.families import FAMILIES
from maskpack.runtime import Session
from maskpack.runtime.tags import IGNORED
from maskpack.runtime.windows import Window, best_places, joined_tokens
from maskpack.tasks.batches import joined, predict_all
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import analyze_errors, assess, task_of
from maskpack.tasks.evaluation.exported import assess_exported
from maskpack.tasks.pieces import EncodedTokenPieces
from maskpack.tasks.probes import difference_of, encoded_by
from maskpack.tasks.windows import WindowRule

EXACT = Tolerance(1e-4, 0.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def options(quick):
    return quick(steps=150, max_length=LENGTH, head_lr=0.3)


@pytest.fixture(scope="module")
def learned(tmp_path_factory, tiny_model, rows, options):
    """An artifact with a task of a prefix, its result, and its graph."""
    folder = tmp_path_factory.mktemp("learned")
    task = task_for(prefix=PREFIX)
    result = fit_task(FitRequest(str(tiny_model), task, folder / "a", options, data=rows))
    report = export_onnx(
        ExportRequest(folder / "a", "names", folder / "g", "fp32", EXACT, data=rows)
    )
    assert report.ok, report.findings
    return folder, result, report


def spans_of(answer):
    return {(one.start, one.end, one.label) for one in answer.entities}


def test_entities_behind_the_first_window_are_learned_and_counted(learned, rows):
    folder, result, report = learned
    assert result.score > 0.9
    artifact = open_artifact(folder / "a")
    entry = artifact.entry("names")
    assert entry.data["windows"] == STRIDE
    assert task_of(entry).windows == WindowRule(STRIDE, texts=True)
    tree = recorded_run(artifact, "names").tree["run"]
    assert (tree["windows"], tree["stride"]) == (True, STRIDE)
    again = assess(artifact, "names", data=rows)
    assert {name: again.scores[name] for name in result.scores} == pytest.approx(result.scores)
    assert [one.label for one in again.classes] == ["blame", "praise"]
    assert report.accuracy.max_diff < 1e-4
    assert report.accuracy.rows == 40
    assert assess_exported(artifact, folder / "g", data=rows).scores == pytest.approx(again.scores)

    lines = [json.loads(line) for line in (rows / "dev.jsonl").read_text().splitlines()]
    session, texts = Session(folder / "g"), [line["text"] for line in lines]
    found = session.predict(texts, windows=True, stride=STRIDE)
    assert max(one.windows for one in found) > 2
    given = [spans_of(one) for one in found]
    right = [{tuple(span) for span in line["label"]} for line in lines]
    both = sum(len(one & other) for one, other in zip(given, right, strict=True))
    counts = sum(map(len, given)) + sum(map(len, right))
    assert 2 * both / counts == pytest.approx(result.score)
    assert sum(len(one) == 2 for one in right) == 40
    # cut off, the same graph finds nothing that is praised
    assert all(one.label == "blame" for cut in session.predict(texts) for one in cut.entities)


def test_an_entity_in_the_third_window_and_those_across_a_border_are_found(learned):
    folder, rng = learned[0], np.random.default_rng(9)
    session, step = Session(folder / "g"), ROOM - STRIDE
    spans = np.zeros((ROOM, 2), dtype=np.int32)
    windows = [Window(0, spans, number * step) for number in range(3)]
    (border,) = np.flatnonzero(np.diff(best_places(windows)[0]) > 0)[1:]
    found_ones = 0
    for place in [
        2 * step + 5,
        *[border] * 4,
    ]:  # the first words from one window, the second from the next
        row = document(rng, 2 * step + ROOM, place)
        (found,) = session.predict([row["text"]], windows=True, stride=STRIDE)
        assert found.windows == 3
        found_ones += spans_of(found) == {tuple(span) for span in row["label"]}
    assert found_ones >= 4


def test_a_report_marks_entities_of_all_windows(learned, rows):
    analysis = analyze_errors(open_artifact(learned[0] / "a"), "names", data=rows)
    marked = [part for text in analysis.texts for part in text]
    assert {part.text for part in marked} >= {"good food", "bad"}


def encoded_rows(context, sizes=(3, 30, 1, 17, 45), *, stride=3, prefix=PREFIX):
    """Texts of so many words, each with an entity where there is room, as training reads them in windows."""
    rng = np.random.default_rng(0)
    made = [
        {"text": " ".join(rng.choice(FILLER, size)), "label": []}
        if size < 5
        else document(rng, size, size - 2)
        for size in sizes
    ]
    kinds = {"blame": 0, "praise": 1}
    labels = np.empty(len(made), dtype=object)
    labels[:] = [tuple((s, e, kinds[kind]) for s, e, kind in row["label"]) for row in made]
    rule = WindowRule(stride, texts=True)
    split = Split(tuple((row["text"],) for row in made), labels, windows=rule)
    read = split.prefixed((prefix, "") if prefix else ())
    return split, context.preprocessor("words").encode(read, max_length=LENGTH)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_outputs_of_tokens_are_those_that_devices_join(learned, prefix):
    context = ModelContext.of_artifact(open_artifact(learned[0] / "a"))
    split, encoded = encoded_rows(context, prefix=prefix)
    assert isinstance(encoded, EncodedTokenPieces)
    assert len(encoded) == 5
    assert encoded.labels.shape == (5, 45)
    assert encoded.sources.lengths.tolist() == [3, 30, 1, 17, 45]
    plain = replace(split, windows=WindowRule())
    told = context.preprocessor("words").told(split.prefixed((prefix, "")), max_length=LENGTH)
    for row, (read,) in enumerate(told):
        places = np.flatnonzero(encoded.labels[row] != IGNORED)
        np.testing.assert_array_equal(places, read.words.first)
        assert len(read.words) == len(plain.texts[row][0].split())
    order = np.array([4, 0, 3, 1])
    some = encoded.take(order)
    windows = int(encoded.counts[order].sum())
    logits = np.random.default_rng(1).standard_normal((windows, LENGTH, 5)).astype(np.float32)
    found = encoded.of_longest(logits, order)
    assert found.shape == (4, 45, 5)
    np.testing.assert_array_equal(some.of_longest(logits, np.arange(4)), found)
    tensor = encoded.per_row(torch.from_numpy(logits), order)
    np.testing.assert_array_equal(tensor.numpy(), found)
    small = encoded.per_row(torch.from_numpy(logits[:1]), np.array([0]))
    assert small.shape == (1, 3, 5), "no wider than the batch needs"
    reader = Session(learned[0] / "g")
    start = 0
    for number, row in enumerate(order):
        asked = [split.texts[row][0]]
        if prefix:  # as the task says
            cuts = reader.read(asked, windows=True, stride=3)
            assert len(cuts) == encoded.counts[row]
            own = list(logits[start : start + len(cuts)])
            (wanted,) = joined_tokens(own, [one.window for one in cuts])
            counts = encoded.labels[row] != IGNORED
            np.testing.assert_array_equal(found[number][counts], wanted[counts[: len(wanted)]])
        assert not found[number][encoded.labels[row] == IGNORED].any()
        start += int(encoded.counts[row])


def test_parts_of_a_split_become_one_whatever_their_widths(learned):
    context = ModelContext.of_artifact(open_artifact(learned[0] / "a"))
    _, whole = encoded_rows(context)
    _, short = encoded_rows(context, (3, 12))
    both = joined([short, whole])
    assert both.labels.shape == (7, 45)
    assert len(both) == 7
    np.testing.assert_array_equal(both.labels[:2, :12], short.labels)
    assert (both.labels[:2, 12:] == IGNORED).all()
    np.testing.assert_array_equal(both.counts, [*short.counts, *whole.counts])

    def predict(feeds):
        """Outputs that say which token they are of, and beside which."""
        ids = feeds["input_ids"].astype(np.float32)
        return np.stack([ids, np.roll(ids, 1, axis=1)], axis=-1)

    apart = [predict_all(predict, one) for one in (short, whole)]
    together = predict_all(predict, both)
    np.testing.assert_array_equal(together[2:], apart[1])
    np.testing.assert_array_equal(together[:2, :12], apart[0])


def test_a_device_that_cuts_or_joins_otherwise_is_found(learned):
    folder = learned[0]
    context = ModelContext.of_artifact(open_artifact(folder / "a"))
    split, encoded = encoded_rows(context, stride=STRIDE)
    session = Session(folder / "g")
    loaded = session._cutting(session._asked("names"), windows=True, stride=STRIDE)
    device = encoded_by(loaded.reader, split, types=encoded.types is not None)
    assert difference_of(split.texts, device, encoded) is None
    sources = [row.copy() for row in device.sources]
    sources[1][2] += 1
    moved = replace(device, sources=type(device.sources).of(sources))
    found = difference_of(split.texts, moved, encoded)
    assert (found.what, found.position, found.texts) == ("sources", 2, split.texts[1])
    labels = device.labels.copy()
    labels[4, 44] = IGNORED
    found = difference_of(split.texts, replace(device, labels=labels), encoded)
    assert (found.what, found.position, found.texts) == ("labels", 44, split.texts[4])
    less = session._cutting(session._asked("names"), windows=True, stride=1)
    other = encoded_by(less.reader, split, types=encoded.types is not None)
    assert difference_of(split.texts, other, encoded) is not None


@pytest.mark.parametrize("family", ["xlnet", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_models_that_pad_or_classify_on_the_left(family, family_models, rows, options, tmp_path):
    assert FAMILIES["xlnet"].pad_left
    config = replace(options, steps=50)
    request = FitRequest(str(family_models(family)), task_for(), tmp_path / "a", config, data=rows)
    result = fit_task(request)
    report = export_onnx(
        ExportRequest(tmp_path / "a", "names", tmp_path / "g", "fp32", EXACT, data=rows)
    )
    assert report.ok, report.findings
    scores = assess_exported(open_artifact(tmp_path / "a"), tmp_path / "g", data=rows).scores
    assert scores["entity_f1"] == pytest.approx(result.score)
