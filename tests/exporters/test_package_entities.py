"""Packages of tasks that find entities: the examples answer as the runtime does, in Python and in JavaScript.

The tests with node need MASKPACK_NODE_MODULES, as test_package_web.py; those of tweets the folder of WNUT-17 as MASKPACK_WNUT17.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from node_kit import in_node, needs_node
from test_entity_graphs import TEXTS
from test_package_web import HARD, byte_level, word_piece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.runtime import Session
from maskpack.runtime.outputs import DECODERS, ReadText
from maskpack.runtime.tags import tags_of
from maskpack.runtime.words import words_of
from maskpack.tasks import find_task

KIND = "token-classification"
WNUT = Path(os.environ.get("MASKPACK_WNUT17", "nowhere"), "dev.conll")
TWEETS = [
    "RT @Anna: good   food in São Paulo!!! 😀😀 #bad",
    "  Zoë's café — ½ price…\t\u201cgood food\u201d",
    "東京 good food 在北京 bad한국",
    "e\u0301te\u0301 good food, İstanbul; ΟΔΟΣ.",
    "👩‍👩‍👧good food👍🏽bad",
    "ไทย good food မြန်မာ",
    "a\u200dgood\u00adfood bad\ufeff\u00a0bad",
]
TEMPLATES = Path(__file__).parents[2] / "exporters" / "package" / "templates"


def close(found, wanted):
    """Whether entities of two programs are the same ones."""
    bare = [[{**one, "score": None} for one in some] for some in (found, wanted)]
    assert bare[0] == bare[1]
    assert [one["score"] for one in found] == pytest.approx(
        [one["score"] for one in wanted], abs=1e-4
    )


RUN = "import runpy, sys; sys.modules['maskpack'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize("layout", ["shared", "swap"])
@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
def test_the_python_example_finds_what_the_runtime_finds(tagged_exports, tmp_path, layout, target):
    if layout == "swap" and target is Target.MOBILE:
        pytest.skip("masks cannot be inputs there")
    package = write_package(PackageRequest(tagged_exports(layout), tmp_path / "x", target))
    assert max(package.differences.values()) <= 1e-5
    wanted = {"maskpack_tags.py", "maskpack_words.py"}
    bases = {"base.onnx", "base-token-classification.onnx"}
    assert wanted | (bases if layout == "swap" else set()) <= set(package.files)
    assert "entities of `blame`, entities of `praise`" in (package.out / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package.out / "predict.py"), *TEXTS, *TWEETS],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    session = Session(tagged_exports(layout))
    own = [line for line in lines if line["task"] == "names"]
    assert [line["text"] for line in own] == [*TEXTS, *TWEETS]
    for line in own:
        (want,) = session.predict([line["text"]], task="names")
        close(line["entities"], want.to_dict()["entities"])
    assert sum(len(line["entities"]) for line in own) > 5
    assert all("label" in line for line in lines if line["task"] == "sst2")
    if target is Target.ORT:
        again = Session(package.out).predict(TEXTS, task="names")
        assert again == session.predict(TEXTS, task="names")


def test_a_package_without_such_a_task_has_no_code_for_one(tagged_exports, tmp_path):
    request = PackageRequest(tagged_exports("shared"), tmp_path / "x", Target.ORT, ("sst2",))
    assert not {"maskpack_tags.py", "maskpack_words.py"} & set(write_package(request).files)


ANSWERS = """
import fs from "node:fs";
import { answerAll, load } from "./predict.mjs";
const [task, found] = [await load("names"), []];
for (const text of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) found.push((await task.answer(text)).entities);
const all = await answerAll("the good food");
console.log(JSON.stringify({ found, all }));
"""


@needs_node
@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_javascript_finds_what_the_runtime_finds(tagged_exports, tmp_path, layout):
    package = write_package(PackageRequest(tagged_exports(layout), tmp_path / "x", Target.WEB)).out
    answer = in_node(package, ANSWERS, [*TEXTS, *TWEETS])
    session = Session(tagged_exports(layout))
    assert sum(map(len, answer["found"])) > 5
    for text, found in zip([*TEXTS, *TWEETS], answer["found"], strict=True):
        (want,) = session.predict([text], task="names")
        close(found, want.to_dict()["entities"])
    assert set(answer["all"]) == {"names", "sst2"}
    assert answer["all"]["names"]["entities"][0]["text"] == "good food"


WORDS = """
import fs from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { encode, wordsIn } from "./predict.mjs";
import { entitiesIn, marked } from "./words.mjs";
const { tree, card, rows } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const tokenizer = new Tokenizer(tree, {});
const found = rows.map(({ text, logits, length }) => {
  const row = encode(tokenizer, length, card.prefixes[0] + text, null, card.truncation_side);
  const words = wordsIn(tokenizer, tree, card, text, row);
  const entities = entitiesIn(text, words, card.labels, words.map((word) => logits[word.token]));
  return { words, entities, parts: marked(text, entities) };
});
console.log(JSON.stringify(found));
"""
LABELS = tags_of(["person", "place"])


def shown(text, entities):
    """Letters of each entity, of which a page marks each once: parts of one letter, as of a fraction, may be two words."""
    parts, at = [], 0
    for one in entities:
        parts.append(text[max(at, one["start"]) : one["end"]])
        at = max(at, one["end"])
    return [part for part in parts if part]


def compare(folder, tokenizer, texts, *, prefix="", side="right", length=None):
    """Words and entities of random logits, here and in JavaScript; how many entities there were."""
    for name in ("graphs.mjs", "fills.mjs", "words.mjs", "windows.mjs", "predict.mjs"):
        made = (TEMPLATES / name).read_text().replace("@TASKS@", "{}")
        (folder / name).write_text(made)
    rng, rows, wanted = np.random.default_rng(0), [], []
    tokenizer.no_truncation()
    if length is not None:
        tokenizer.enable_truncation(length, direction=side)
    for text in texts:
        read = tokenizer.encode(prefix + text)
        logits = (2 * rng.normal(size=(len(read.ids), len(LABELS)))).astype("f4")
        words = words_of(prefix + text, read.offsets, read.word_ids, len(prefix))
        (want,) = DECODERS[KIND].predictions(LABELS, logits[None], [ReadText(text, words)])
        wanted.append((words, want.to_dict()["entities"]))
        rows.append({"text": text, "logits": logits.tolist(), "length": length or 10_000})
    card = {"labels": LABELS, "prefixes": [prefix, ""], "truncation_side": side}
    given = {"tree": json.loads(tokenizer.to_str()), "card": card, "rows": rows}
    answers = in_node(folder, WORDS, given)
    for text, (words, entities), answer in zip(texts, wanted, answers, strict=True):
        own = [(one["token"], one["start"], one["end"]) for one in answer["words"]]
        spans = [(first, *span) for first, span in zip(words.first, words.spans, strict=True)]
        assert own == [tuple(map(int, one)) for one in spans], text
        close(answer["entities"], entities)
        assert "".join(part["text"] for part in answer["parts"]) == text
        inside = [part["text"] for part in answer["parts"] if part["entity"]]
        assert inside == shown(text, entities)
    return sum(len(entities) for _, entities in wanted)


def composed():
    """A byte-level BPE behind a normaliser that joins letters and their marks, with a blank before each text."""
    made = byte_level()
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def untrimmed():
    """Another one, whose places of tokens hold the blank before a word; a fraction becomes three letters."""
    made = composed()
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    marks = [("<s>", 0), ("</s>", 2)]
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, marks)
    return made


def with_added():
    """Tokens that are known as a whole, in the text and in what is left of it after normalising."""
    made = word_piece()
    made.add_tokens(["café noir", "New York"])
    return made


def with_ends():
    """A BPE whose last piece of a word is marked, as HerBERT's; letters that it does not know are tokens each."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
    made.normalizer, made.pre_tokenizer = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=special, end_of_word_suffix="</w>", show_progress=False
    )
    made.train_from_iterator(["the people of paris met anna", "the cafe and the stop"] * 9, trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


MAKERS = [with_ends, word_piece, byte_level, composed, untrimmed, with_added]
ODD = [
    *("café noir, CAFÉ NOIR and new york", "in [MASK]paris [SEP]", "x" * 120 + " y", "a" * 99 + "é"),
    *("<mask> <mask> it", "ﾊﾞ ｶﾞ", "각", "a\u0301\u0323b", "it\u2019s \u201cParis\u201d \u2014 ok\u2026", "日本語のテキスト、です。"),
]  # fmt: skip


@needs_node
@pytest.mark.parametrize("make", MAKERS)
def test_words_are_those_of_python(tmp_path, make):
    assert compare(tmp_path, make(), [*HARD, *TWEETS, *ODD]) > 50


@needs_node
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [word_piece, byte_level])
def test_words_of_texts_that_are_cut_and_have_a_prefix(tmp_path, make, side):
    compare(tmp_path, make(), [*HARD, *TWEETS], prefix="qu\u00e9: 😀 ", side=side, length=9)


def sentences(path, most):
    """Sentences of a file in columns."""
    rows = path.read_text(encoding="utf-8").split("\n\n")[:most]
    words = [[line.split("\t")[0] for line in row.split("\n") if line] for row in rows]
    return [" ".join(row) for row in words if row]


@needs_node
@pytest.mark.skipif(not WNUT.is_file(), reason="needs the rows of WNUT-17")
@pytest.mark.parametrize("make", [word_piece, byte_level])
def test_words_of_tweets_are_those_of_python(tmp_path, make):
    assert compare(tmp_path, make(), sentences(WNUT, 100)) > 300


@needs_node
@pytest.mark.slow
@pytest.mark.skipif(not WNUT.is_file(), reason="needs the rows of WNUT-17")
def test_entities_of_tweets_are_those_of_the_runtime(tmp_path):
    """The real model, learned for a moment, on a hundred rows."""
    for split, most in (("train", 600), ("dev", 100)):
        rows = (WNUT.parent / f"{split}.conll").read_text(encoding="utf-8").split("\n\n")
        (tmp_path / f"{split}.conll").write_text("\n\n".join(rows[:most]), encoding="utf-8")
    task = find_task("names", text_field="text", label_field="label", kind=KIND)
    config = FitConfig(bits=8, steps=120, batch_size=8, max_length=48, teacher="none", head_lr=0.03)
    fit_task(FitRequest("demo", task, tmp_path / "a", config, data=tmp_path))
    tolerance, source = Tolerance.of("fp32"), tmp_path / "source"
    export_onnx(ExportRequest(tmp_path / "a", "names", source, "fp32", tolerance, verify=False))
    package = write_package(PackageRequest(source, tmp_path / "x", Target.WEB)).out
    texts = [*sentences(WNUT, 100), *TWEETS]
    answer = in_node(package, ANSWERS, texts)
    wanted = Session(source).predict(texts, batch_size=1)
    assert sum(len(one.entities) for one in wanted) > 30
    for found, want in zip(answer["found"], wanted, strict=True):
        close(found, want.to_dict()["entities"])


LETTERS = """
import fs from "node:fs";
import { wordsOf } from "./words.mjs";
const { letters } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const word = (letter) => wordsOf(`a${letter}`, [[0, 1, 0], [1, 2, 0]]).length;
console.log(JSON.stringify(letters.map((code) => word(String.fromCodePoint(code)))));
"""


@needs_node
def test_a_letter_is_one_in_both_languages(tmp_path):
    """Whether it goes on with a word, ends it, or is blank: of letters that this Python's Unicode knows."""
    letters = [
        code for code in range(0x32000) if unicodedata.category(chr(code)) not in {"Cn", "Cs", "Co"}
    ]
    shutil.copy(TEMPLATES / "words.mjs", tmp_path)
    found = in_node(tmp_path, LETTERS, {"letters": letters})
    odd = [
        f"{code:x}"
        for code, many in zip(letters, found, strict=True)
        if many != len(words_of(f"a{chr(code)}", [(0, 1), (1, 2)], [0, 0]))
    ]
    assert odd == []
