"""Packages of tasks that answer questions: the examples answer as the runtime does, in Python and in JavaScript.

The tests with node need MASKPACK_NODE_MODULES, as test_package_web.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_kit import in_node, needs_node
from test_package_entities import composed, untrimmed, with_added
from test_package_web import HARD, byte_level, word_piece
from tokenizers import processors

from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.runtime import Session
from maskpack.runtime.windows import best_in, best_of, cut_windows

TEMPLATES = Path(__file__).parents[2] / "exporters" / "package" / "templates"
LONG = "the film was very story " * 30
MORE = [
    ("and good", ""),
    ("", "the good food"),
    ("and good", "😀 the film 中文 good food 👩‍👩‍👧 it was 東京"),
    ("and good", f"{LONG}😀😀 we it good food 👍🏽 {LONG}"),
    ("quite good and", "中文" * 40 + " nice food " + "日本語" * 20),
    ("quite good and", f"\u2003Café naïve, {'🙂 ' * 50}happy food.\u00a0"),
    ("and good " * 40, f"{LONG} fine food"),
]


@pytest.fixture(scope="module")
def pairs(asker):
    """Questions and contexts: forty rows, eight of them without an answer, and harder ones."""
    rows = [json.loads(line) for line in (asker[1] / "dev.jsonl").read_text().splitlines()]
    return [*((row["question"], row["context"]) for row in rows), *MORE]


def close(found, wanted):
    """Whether answers of two programs are the same ones."""
    assert [{**one, "score": None} for one in found] == [{**one, "score": None} for one in wanted]
    scores = [one["score"] for one in wanted]
    assert [one["score"] for one in found] == pytest.approx(scores, abs=1e-5)


def wanted_of(folder, pairs):
    """What the runtime answers."""
    session = Session(folder)
    wanted = [one.to_dict() for one in session.predict(pairs, task="asked", batch_size=1)]
    assert len(pairs) > 40
    assert sum(not one["text"] for one in wanted) > 5, "rows without an answer"
    assert len({one["text"] for one in wanted}) > 5
    windows = [len(session.read([pair], task="asked")) for pair in pairs]
    assert sum(count > 1 for count in windows) > 10
    assert max(windows) > 10
    beyond = [one for one in wanted if one["start"] > 24]
    assert any(any(letter > "\uffff" for letter in pairs[wanted.index(one)][1]) for one in beyond)
    return wanted


RUN = "import runpy, sys; sys.modules['maskpack'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize(
    ("target", "layout"),
    [
        *((Target.ORT, layout) for layout in ("shared", "swap", "trunk")),
        *((Target.MOBILE, layout) for layout in ("shared", "trunk")),
    ],
)
def test_the_python_example_answers_as_the_runtime(asked_exports, pairs, tmp_path, target, layout):
    source = asked_exports(layout)
    package = write_package(PackageRequest(source, tmp_path / "x", target, ("asked",)))
    assert max(package.differences.values()) <= 1e-5
    assert "maskpack_windows.py" in package.files
    assert not {"maskpack_tags.py", "maskpack_words.py"} & set(package.files)
    assert "maskpack_tags.py" not in package.files
    row = "| the part of a context that answers a question, or none | 32 |"
    assert row in (package.out / "README.md").read_text()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            RUN,
            str(package.out / "predict.py"),
            *(t for p in pairs for t in p),
        ],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    keys = ("text", "start", "end", "score")
    close([{key: line[key] for key in keys} for line in lines], wanted_of(source, pairs))
    if target is Target.ORT:
        again = Session(package.out).predict(pairs[:9], task="asked")
        assert again == Session(source).predict(pairs[:9], task="asked")


def test_a_row_of_one_text_is_no_question(asked_exports, tmp_path):
    request = PackageRequest(asked_exports("shared"), tmp_path / "x", Target.ORT, ("asked",))
    script = write_package(request).out / "predict.py"
    command = [sys.executable, str(script), "good", "the good food", "good"]
    done = subprocess.run(command, capture_output=True, text=True)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert "error" not in first
    assert second["error"] == "asked reads 2 text(s) a row, not 1"


ANSWERS = """
import fs from "node:fs";
import { answerAll, load } from "./predict.mjs";
import { index } from "./words.mjs";
const [task, found] = [await load("asked"), []];
const pairs = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
for (const [question, context] of pairs) {
  const answer = await task.answer(question, context);
  const own = context.slice(index(context, answer.start), index(context, answer.end));
  found.push({ ...answer, own });
}
const all = await answerAll(...pairs[0]);
const logits = await task.logits(...pairs[0]);
const alone = await task.answer("good").catch((error) => error.message);
console.log(JSON.stringify({ found, all, logits, alone }));
"""


@needs_node
@pytest.mark.parametrize("layout", ["shared", "swap", "trunk"])
def test_javascript_answers_as_the_runtime(asked_exports, pairs, tmp_path, layout):
    source = asked_exports(layout)
    package = write_package(PackageRequest(source, tmp_path / "x", Target.WEB)).out
    given = in_node(package, ANSWERS, pairs)
    own = [one.pop("own") for one in given["found"]]
    close(given["found"], wanted_of(source, pairs))
    assert own == [one["text"] for one in given["found"]], "places as a string of JavaScript counts"
    assert set(given["all"]) == {"asked"}
    close([given["all"]["asked"]], given["found"][:1])
    logits = np.moveaxis(Session(source).logits(pairs[:1], task="asked"), -1, 1)
    assert len(given["logits"]) == len(logits)
    for some, want in zip(given["logits"], logits, strict=True):
        assert np.array(some) == pytest.approx(want[:, : len(some[0])], abs=1e-4)
    assert given["alone"] == "asked reads 2 text(s) a row, not 1"


WINDOWS = """
import fs from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { answerOf, bestIn, windowsOf } from "./windows.mjs";
const { tree, rows } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const tokenizer = new Tokenizer(tree, {});
const found = rows.map(({ card, question, context, logits }) => {
  const windows = windowsOf(tokenizer, tree, card, question, context);
  const best = windows.map((one, i) => bestIn(one, logits[i].map(([x]) => x), logits[i].map(([, x]) => x)));
  return { windows, answers: [true, false].map((lack) => answerOf(context, best, lack)) };
});
console.log(JSON.stringify(found));
"""


def rows_of(tokenizer, texts):
    """Questions and contexts, cards and random logits, and what they are here: windows, and answers with and without none."""
    tokenizer.no_truncation()
    rng = np.random.default_rng(0)
    for number, context in enumerate(texts):
        prefix, size = ("", "pré😀: ")[number % 2], (9, 12, 24)[number % 3]
        card = {"max_length": size, "stride": (0, 3, 8)[number % 3], "prefixes": ["q: ", prefix]}
        question = ("it", "the end of it all", "")[number // 2 % 3]
        read = tokenizer.encode(f"q: {question}", prefix + context)
        cuts = cut_windows(
            read, prefix + context, prefix=len(prefix), max_length=size, stride=card["stride"]
        )
        logits = [(3 * rng.normal(size=(len(cut.places), 2))).astype("f4") for cut in cuts]
        row = {"card": card, "question": question, "context": context}
        yield {**row, "logits": [one.tolist() for one in logits]}, read, cuts, logits


def answer_of(context, cuts, logits, *, may_lack):
    found = [best_in(cut.window, one) for cut, one in zip(cuts, logits, strict=True)]
    best = best_of(found, may_lack=may_lack)
    if best is None:
        return {"text": "", "start": 0, "end": 0, "score": min(one.none for one in found)}
    text = context[best.start : best.end]
    return {"text": text, "start": best.start, "end": best.end, "score": best.score}


def pieces():
    """Tokens known as a whole, with the marks of a pair."""
    made = with_added()
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    both = "[CLS] $A [SEP] $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", both, marks)
    return made


def pair_of(make):
    """A tokenizer whose marks stand round a pair too."""
    made = make()
    marks, both = [("<s>", 0), ("</s>", 2)], "<s> $A </s> </s> $B </s>"
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", both, marks)
    return made


MAKERS = {
    "WordPiece": word_piece,
    "bytes": byte_level,
    "added": pieces,
    "composed": composed,
    "untrimmed": lambda: pair_of(untrimmed),
}


@needs_node
@pytest.mark.parametrize("kind", MAKERS)
def test_windows_are_those_of_python(tmp_path, kind):
    for name in ("windows.mjs", "words.mjs"):
        shutil.copy(TEMPLATES / name, tmp_path)
    tokenizer = MAKERS[kind]()
    texts = [*HARD, *(f"{one} 😀 {two}" for one, two in zip(HARD, HARD[::-1], strict=True))]
    made = list(rows_of(tokenizer, texts * 2))
    assert sum(len(cuts) > 1 for _, _, cuts, _ in made) > 20
    given = {"tree": json.loads(tokenizer.to_str()), "rows": [row for row, *_ in made]}
    answers = in_node(tmp_path, WINDOWS, given)
    for (row, read, cuts, logits), found in zip(made, answers, strict=True):
        for cut, window in zip(cuts, found["windows"], strict=True):
            assert window["ids"] == [read.ids[place] for place in cut.places], row
            if kind in {"WordPiece", "added"}:  # the other kinds of graphs take no token types
                assert window["types"] == [read.type_ids[place] for place in cut.places]
            if len(cut.window.spans):  # else there is no such token
                assert window["first"] == cut.window.first
            assert window["spans"] == cut.window.spans.tolist(), row
        both = [answer_of(row["context"], cuts, logits, may_lack=lack) for lack in (True, False)]
        close(found["answers"], both)
