"""Long texts in windows: classes, labels, numbers and entities of the whole text, in the runtime and in packages.

The tests with node need MASKPACK_NODE_MODULES, as test_package_web.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from export_kit import of_older_release
from node_kit import in_node, needs_node
from tokenizers import Tokenizer

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import Tolerance
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ConfigError
from maskpack.runtime import Session
from maskpack.runtime.windows import (
    Window,
    cut_windows,
    joined_labels,
    joined_means,
    joined_tokens,
    shares_of,
)
from maskpack.tasks import find_task

FILLER = ["the", "film", "was", "story", "very", "we", "it"]
LENGTH = 12
ROOM = LENGTH - 2  # without [CLS] and [SEP]
STRIDE = 3
KINDS = {"one": "classification", "many": "multi-label", "number": "regression"}


def filler(words, seed=0):
    return [str(word) for word in np.random.default_rng(seed).choice(FILLER, words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model, quick):
    """Three tasks on short texts: what is good or bad in them. `many` and `one` have what stands before their texts."""
    root, rng, lines = tmp_path_factory.mktemp("long"), np.random.default_rng(0), []
    for number in range(160):
        told = [name for bit, name in enumerate(("bad", "good")) if number % 4 >> bit & 1]
        words = [*rng.choice(FILLER, 5), *told]
        label = {(): "plain", ("bad",): "bad", ("good",): "good", ("bad", "good"): "plain"}
        row = {"text": " ".join(rng.permutation(words)), "one": label[tuple(told)], "many": told}
        lines.append(json.dumps({**row, "number": float(len(told) * 10)}))
    data = root / "rows.jsonl"
    data.write_text("\n".join(lines))
    for name, kind in KINDS.items():
        task = find_task(name, text_field="text", label_field=name, kind=kind)
        if name == "many":
            task = replace(task, prefixes=("quite and ", ""))
        config = quick(steps=120, max_length=LENGTH, head_lr=0.3)
        fit_task(FitRequest(str(tiny_model), task, root / "a", config, data=data))
    out, tolerance = root / "g", Tolerance.of("fp32")
    export_shared(SharedRequest(root / "a", (), out, "fp32", tolerance, verify=False))
    return out


@pytest.fixture(scope="module")
def session(folder):
    return Session(folder)


def test_evidence_behind_the_last_token_that_is_read_counts(session):
    """What this small model takes for evidence: the word of which it is surest, and one of another answer."""
    asked = {"batch_size": 1, "stride": 0}
    parts = [" ".join([word] * ROOM) for word in [*FILLER, "good", "bad", "food", "quite"]]
    margins = np.sort(session.logits(parts, task="one", batch_size=1), axis=1)
    order = np.argsort(margins[:, -2] - margins[:, -1])
    alone = session.predict(parts, task="one", batch_size=1)
    sure = alone[order[0]]
    first = next(number for number in order if alone[number].label != sure.label)
    text = " ".join([parts[first], *[parts[order[0]]] * 2])
    assert session.predict([text], task="one", batch_size=1) == [alone[first]], (
        "the rest is not read"
    )
    assert alone[first].windows is None
    assert "windows" not in alone[first].to_dict()
    (found,) = session.predict([text], task="one", windows=True, **asked)
    assert found.label == sure.label
    assert found.to_dict()["windows"] == found.windows == 3


def test_a_text_has_the_labels_of_all_its_parts(session):
    parts = [" ".join([word] * (ROOM - 2)) for word in [*FILLER, "good", "bad", "food", "quite"]]
    alone = session.predict(parts, task="many", batch_size=1)
    few, many = (
        min(alone, key=lambda one: len(one.labels)),
        max(alone, key=lambda one: len(one.labels)),
    )
    assert len(few.labels) < len(many.labels)
    text = " ".join(parts[alone.index(one)] for one in (few, many))
    assert session.predict([text], task="many", batch_size=1)[0].labels == few.labels
    (found,) = session.predict([text], task="many", windows=True, stride=0, batch_size=1)
    assert set(found.labels) == {*few.labels, *many.labels}


def by_hand(words, room, stride):
    """The windows of a text of words that are tokens, and how much of the text each stands for."""
    stride = min(stride, room // 2)
    starts = [0]
    while starts[-1] + room < len(words):
        starts.append(starts[-1] + room - stride)
    parts = [words[start : start + room] for start in starts]
    held = np.zeros(len(words))
    for start, part in zip(starts, parts, strict=True):
        held[start : start + len(part)] += 1
    weights = [
        (1 / held[start : start + len(part)]).sum()
        for start, part in zip(starts, parts, strict=True)
    ]
    return [" ".join(part) for part in parts], np.array(weights) / len(words)


@pytest.mark.parametrize("stride", [0, STRIDE, None, 50])
def test_answers_are_those_of_windows_cut_by_hand(session, stride):
    words = filler(40, seed=1)
    words[3], words[17], words[31], words[39] = "good", "bad", "good", "bad"
    text, shared = " ".join(words), LENGTH // 4 if stride is None else stride
    asked = {"batch_size": 1, "windows": True, "stride": stride}
    parts, weights = by_hand(words, ROOM, shared)
    logits = session.logits(parts, task="one", batch_size=1)
    mean = np.exp(weights @ logits)
    (found,) = session.predict([text], task="one", **asked)
    assert list(found.scores.values()) == pytest.approx(mean / mean.sum(), abs=1e-5)
    assert found.windows == len(parts) > 3
    (number,) = session.predict([text], task="number", **asked)
    each = session.logits(parts, task="number", batch_size=1)
    assert number.score == pytest.approx(float(weights @ each[:, 0]), abs=1e-5)
    parts, _ = by_hand(
        words, ROOM - 2, shared
    )  # what stands before a text stands before each window
    highest = session.logits(parts, task="many", batch_size=1).max(axis=0)
    (several,) = session.predict([text], task="many", **asked)
    assert list(several.scores.values()) == pytest.approx(1 / (1 + np.exp(-highest)), abs=1e-5)
    assert several.windows == len(parts)


def test_a_short_text_has_the_same_answer(session, tagged_exports):
    texts = [" ".join(filler(ROOM)), "good", "", "the good food was bad"]
    for task in KINDS:
        plain = session.predict(texts, task=task, batch_size=1)
        cut = session.predict(texts[1:], task=task, batch_size=1, windows=True)
        assert [replace(one, windows=None) for one in cut] == plain[1:]
        assert {one.windows for one in cut} == {1}
    assert session.predict(texts[:1], task="one", windows=True)[0].windows == 1
    tagger = Session(tagged_exports("shared"))
    plain = tagger.predict(texts, task="names", batch_size=1)
    cut = tagger.predict(texts, task="names", batch_size=1, windows=True)
    assert [replace(one, windows=None) for one in cut] == plain
    assert {one.windows for one in cut} == {1}


def test_an_entity_is_found_as_in_the_window_with_most_context_and_once(tagged_exports):
    tagger, base, room = Session(tagged_exports("shared")), filler(70, seed=2), 30
    found_ones = 0
    for place in range(0, 70, 2):
        words = [*base[:place], "good", "food", *base[place:]]
        starts = [0, 22, 44]  # 8 words are shared
        context = [min(place - start, min(start + room, 72) - place - 2) for start in starts]
        own = starts[int(np.argmax(context))]
        (part,) = tagger.predict([" ".join(words[own : own + room])], task="names", batch_size=1)
        (whole,) = tagger.predict([" ".join(words)], task="names", batch_size=1, windows=True)
        spans = [(one.start, one.end) for one in whole.entities]
        assert all(left[1] <= right[0] for left, right in pairwise(spans))
        assert whole.windows == 3
        shift = len(" ".join(words[:own])) + (own > 0)
        start = len(" ".join(words[:place])) + (place > 0)
        wanted = [one for one in part.entities if one.start + shift == start]
        found = [one for one in whole.entities if one.start == start]
        if context.count(max(context)) == 1:
            assert [(one.label, one.text) for one in found] == [
                (one.label, one.text) for one in wanted
            ]
        found_ones += [one.text for one in found] == ["good food"]
    assert found_ones > 20


def test_rows_that_join_no_windows_are_refused(
    session, tagged_exports, folder, tmp_path, asked_exports
):
    with pytest.raises(
        ConfigError, match="`stride` is of texts that are cut into windows"
    ) as caught:
        session.predict(["good"], task="one", stride=3)
    assert caught.value.hint == "give `windows`"
    with pytest.raises(ConfigError, match="`stride` is -1, expected tokens"):
        session.predict(["good"], task="one", windows=True, stride=-1)
    old = Session(of_older_release(folder, tmp_path / "old"))
    with pytest.raises(ConfigError, match="reads one text"):
        old.predict([("good", "bad")], task="one", windows=True)
    assert old.predict([("good", "bad")], task="one")
    asker, pair = Session(asked_exports("shared")), ("and good", "the good food " * 20)
    plain, same = (asker.predict([pair], task="asked", windows=cut) for cut in (False, True))
    assert plain == same, "contexts are cut into windows in any case"


def test_all_tasks_of_a_folder_read_windows(session):
    text = " ".join(filler(30, seed=4))
    (together,) = session.predict_all([text], windows=True, stride=2, batch_size=1)
    for task in KINDS:
        (alone,) = session.predict([text], task=task, windows=True, stride=2, batch_size=1)
        assert together[task] == alone


def test_a_text_that_is_cut_off_is_said_once(folder, caplog):
    session, long = Session(folder), " ".join(filler(40))
    caplog.set_level("INFO", logger="maskpack.runtime")
    for _ in range(2):
        session.predict(["good", long], task="one")
    session.predict([long], task="many", windows=True)
    session.predict(["good"], task="number")
    said = [record.getMessage() for record in caplog.records if "tokens of a row" in record.msg]
    assert said == [
        "`one` reads 12 tokens of a row, not what stands behind them in longer ones; `windows` reads all of it"
    ]


def test_a_token_counts_once_in_all_windows_that_hold_it():
    windows = [
        Window(1, np.zeros((size, 2), "i4"), start) for start, size in ((0, 4), (2, 4), (4, 3))
    ]
    assert shares_of(windows).tolist() == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    logits = [np.array(one, "f4") for one in ([2.0, 0.0], [0.0, 1.0], [0.5, 0.5])]
    (found,) = joined_means(logits, windows)
    assert found == pytest.approx([(3 * 2.0 + 2 * 0.0 + 2 * 0.5) / 7, (2 * 1.0 + 2 * 0.5) / 7])
    assert joined_labels(logits, windows).tolist() == [[2.0, 1.0]]
    assert joined_means(logits[:1], windows[:1]).tolist() == [[2.0, 0.0]]


def test_a_token_is_read_where_it_has_most_context():
    windows = [Window(1, np.zeros((6, 2), "i4"), start) for start in (0, 3, 6)]
    outputs = [np.full((8, 1), number, "f4") + np.arange(8)[:, None] / 10 for number in range(3)]
    found = joined_tokens(outputs, windows)[0, :, 0]
    assert np.floor(found).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert np.round(10 * (found - np.floor(found))).tolist() == [1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6]


@pytest.mark.parametrize("prefix", ["", "quite and "])
def test_windows_hold_all_tokens_and_begin_with_the_prefix(folder, prefix):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    words = filler(33, seed=5)
    read = tokenizer.encode(prefix + " ".join(words))
    cuts = cut_windows(
        read, prefix + " ".join(words), prefix=len(prefix), max_length=12, stride=4, pair=False
    )
    before, room = prefix.split(), 10 - len(prefix.split())
    for cut in cuts:
        own = words[cut.window.start : cut.window.stop]
        tokens = [read.tokens[place] for place in cut.places]
        assert tokens == ["[CLS]", *before, *own, "[SEP]"]
        assert len(own) == room or cut is cuts[-1]
        assert cut.window.first == 1 + len(before)
    assert cuts[-1].window.stop == len(words)


RUN = "import runpy, sys; sys.modules['maskpack'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
LONG = [
    " ".join([*filler(ROOM), *["good", *filler(4)] * 3]),
    "😀 bad " + "中文 the film " * 9 + "bad",
    "good",
    "",
]


def same(found, wanted):
    """Whether answers as JSON are the same, numbers to a hundred thousandth."""
    if isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            same(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, want in zip(found, wanted, strict=True):
            same(one, want)
    else:
        assert found == wanted


@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
def test_the_python_example_of_a_package_reads_windows(folder, session, tmp_path, target):
    package = write_package(PackageRequest(folder, tmp_path / "x", target)).out
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package / "predict.py"), "--windows", *LONG],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for task in KINDS:
        own = [
            {k: v for k, v in one.items() if k not in {"task", "text"}}
            for one in lines
            if one["task"] == task
        ]
        same(
            own,
            [one.to_dict() for one in session.predict(LONG, task=task, batch_size=1, windows=True)],
        )
        assert own[0]["windows"] > 1


def test_entities_of_a_package_for_python_come_from_windows(tagged_exports, tmp_path):
    package = write_package(
        PackageRequest(tagged_exports("shared"), tmp_path / "x", Target.ORT)
    ).out
    words = filler(70, seed=2)
    texts = [
        " ".join([*words[:place], "good", "food", "😀", *words[place:]])
        for place in (5, 26, 45, 69)
    ]
    command = [sys.executable, str(package / "predict.py"), "--windows", *texts]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    own = [{k: one[k] for k in ("entities", "windows")} for one in lines if one["task"] == "names"]
    wanted = Session(tagged_exports("shared")).predict(
        texts, task="names", windows=True, batch_size=1
    )
    same(own, [one.to_dict() for one in wanted])
    assert sum(any(e["text"] == "good food" for e in one["entities"]) for one in own) > 1


ANSWERS = """
import fs from "node:fs";
import { TASKS, load } from "./predict.mjs";
const [{ texts, stride }, found] = [JSON.parse(fs.readFileSync(process.argv[2], "utf8")), {}];
for (const name of Object.keys(TASKS)) {
  const task = await load(name);
  found[name] = [];
  for (const text of texts) found[name].push(await task.answer(text, { windows: true, stride }));
  const refused = await task.answer("a", "b", { windows: true }).catch(({ message }) => message);
  if (!refused.startsWith(name)) throw new Error(`two texts in windows: ${JSON.stringify(refused)}`);
}
console.log(JSON.stringify(found));
"""


@needs_node
@pytest.mark.parametrize("stride", [None, 0, STRIDE])
def test_javascript_reads_windows_as_the_runtime(folder, session, tmp_path, stride):
    package = write_package(PackageRequest(folder, tmp_path / "x", Target.WEB)).out
    answers = in_node(package, ANSWERS, {"texts": LONG, "stride": stride})
    for task in KINDS:
        asked = {"batch_size": 1, "windows": True, "stride": stride}
        same(answers[task], [one.to_dict() for one in session.predict(LONG, task=task, **asked)])


@needs_node
def test_entities_of_a_web_package_come_from_windows(tagged_exports, tmp_path):
    package = write_package(PackageRequest(tagged_exports("swap"), tmp_path / "x", Target.WEB)).out
    words = filler(70, seed=2)
    texts = [
        " ".join([*words[:place], "good", "food", "😀", *words[place:]])
        for place in range(0, 70, 7)
    ]
    found = in_node(package, ANSWERS, {"texts": texts, "stride": 8})["names"]
    session = Session(tagged_exports("swap"))
    wanted = session.predict(texts, task="names", windows=True, stride=8, batch_size=1)
    same(found, [one.to_dict() for one in wanted])
    assert sum(any(e["text"] == "good food" for e in one["entities"]) for one in found) > 5
