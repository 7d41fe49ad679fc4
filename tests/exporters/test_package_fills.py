"""Packages of tasks that fill masks: the examples answer as the runtime does, in Python and in JavaScript.

The tests with node need MASKPACK_NODE_MODULES, as test_package_web.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from node_kit import in_node, needs_node
from test_package_entities import TWEETS, composed, untrimmed, with_added
from test_package_web import HARD, byte_level, word_piece
from tokenizers import decoders

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters import SharedRequest, Tolerance, export_shared
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ExportError
from maskpack.runtime import Session
from maskpack.runtime.cloze import blocks_of
from maskpack.runtime.fills import all_masks, masks_of
from maskpack.tasks import find_task

TEMPLATES = Path(__file__).parents[2] / "exporters" / "package" / "templates"
LONG = "the film was very story " * 9
TEXTS = [
    "the [MASK] film",
    "[MASK]",
    "  [MASK] [MASK], and good",
    "😀 the film 中文 [MASK] food 👩‍👩‍👧 it was 東京[MASK]",
    f"{LONG} [MASK] {LONG} and [MASK]\u00a0.",
    "Café[MASK]naïve, [MASK]!",
    "good[MASK][MASK]film",
]


@pytest.fixture(scope="module")
def fills(tmp_path_factory, tiny_model, sentiment, quick):
    """`fills(layout)`: a folder of a classifier and of a task that fills masks in blocks of 16 tokens, in fp32."""
    root = tmp_path_factory.mktemp("fills")
    rng, words = np.random.default_rng(0), ("good", "film", "was", "great", "the", "story")
    rows = (" ".join([words[rng.integers(6)]] * int(rng.integers(4, 30))) for _ in range(120))
    (root / "train.txt").write_text("\n".join(rows) + "\n")
    (root / "dev.txt").write_text("good good good good\nthe the the the\n")
    task = find_task("lines", text_field="text", kind="fill-mask")
    options = quick(steps=60, max_length=16, head_lr=0.03)
    fit_task(
        FitRequest(str(tiny_model), find_task("sst2"), root / "a", quick(steps=5), data=sentiment)
    )
    fit_task(FitRequest(str(tiny_model), task, root / "a", options, data=root))

    @cache
    def made(layout):
        tolerance = Tolerance.of("fp32")
        export_shared(
            SharedRequest(
                root / "a", (), root / layout, "fp32", tolerance, verify=False, layout=layout
            )
        )
        return root / layout

    return made


def close(found, wanted):
    """Whether masks of two programs have the same fills; tokens of nearly one probability may change places."""
    assert len(found) == len(wanted)
    for mask, want in zip(found, wanted, strict=True):
        assert (mask["start"], mask["end"]) == (want["start"], want["end"])
        scores = [one["score"] for one in want["tokens"]]
        assert [one["score"] for one in mask["tokens"]] == pytest.approx(scores, abs=1e-5)
        least = min(scores) + 2e-5
        sure = [
            {(one["token"], one["text"]) for one in some if one["score"] > least}
            for some in (mask["tokens"], want["tokens"])
        ]
        assert sure[0] == sure[1]


RUN = "import runpy, sys; sys.modules['maskpack'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize(
    ("target", "layout"), [(Target.ORT, "shared"), (Target.ORT, "swap"), (Target.MOBILE, "shared")]
)
def test_the_python_example_fills_as_the_runtime(fills, tmp_path, target, layout):
    source = fills(layout)
    package = write_package(PackageRequest(source, tmp_path / "x", target, ("lines",)))
    assert max(package.differences.values()) <= 1e-5
    assert "maskpack_fills.py" in package.files
    assert "the token where a mask stands" in (package.out / "README.md").read_text()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(package.out / "predict.py"), *TEXTS, "no mask"],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    *lines, last = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert last["error"] == "`no mask` has no mask to fill: `[MASK]` stands nowhere in it"
    wanted = [one.to_dict() for one in Session(source).predict(TEXTS, task="lines", batch_size=1)]
    assert [len(one["masks"]) for one in wanted] == [1, 1, 2, 2, 2, 2, 2]
    for line, want in zip(lines, wanted, strict=True):
        close(line["masks"], want["masks"])
    if target is Target.ORT:
        again = Session(package.out).predict(TEXTS, task="lines", batch_size=1)
        assert [one.to_dict() for one in again] == wanted


ANSWERS = """
import fs from "node:fs";
import { answerAll, load } from "./predict.mjs";
const [task, found] = [await load("lines"), []];
for (const text of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) found.push((await task.answer(text)).masks);
const none = await task.answer("no mask").catch((error) => error.message);
const pair = await task.answer("[MASK]", "two").catch((error) => error.message);
const all = await answerAll("no mask"); // one task stops no other
console.log(JSON.stringify({ found, none, pair, all }));
"""


@needs_node
@pytest.mark.parametrize("layout", ["shared", "swap"])
def test_javascript_fills_as_the_runtime(fills, tmp_path, layout):
    package = write_package(PackageRequest(fills(layout), tmp_path / "x", Target.WEB)).out
    answer = in_node(package, ANSWERS, TEXTS)
    wanted = Session(fills(layout)).predict(TEXTS, task="lines", batch_size=1)
    for masks, want in zip(answer["found"], wanted, strict=True):
        close(masks, json.loads(json.dumps(want.to_dict()["masks"])))
    assert answer["none"] == "`no mask` has no mask to fill: `[MASK]` stands nowhere in it"
    assert answer["all"]["lines"] == {"error": answer["none"]}
    assert answer["pair"] == "lines reads 1 text(s) a row, not 2"


FILLS = """
import fs from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { blocksOf, fillsOf } from "./fills.mjs";
const { tree, card, rows, vocabulary } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const tokenizer = new Tokenizer(tree, {});
const logit = (place, token) => ((place * 31 + token * 17) % 101) / 7;
const found = rows.map((text) => {
  try {
    return blocksOf(tokenizer, tree, card, text).flatMap((block) => {
      const logits = new Float32Array(block.ids.length * vocabulary);
      for (let i = 0; i < logits.length; i++) logits[i] = logit(Math.floor(i / vocabulary), i % vocabulary);
      return fillsOf(tokenizer, text, block, logits);
    });
  } catch (error) {
    return error.message;
  }
});
console.log(JSON.stringify(found));
"""


def compare(folder, tokenizer, decoder, texts, *, side="right", length=None, prefix=""):
    """Fills of logits that a formula gives, here and in JavaScript; how many masks there were."""
    for name in ("fills", "windows", "words"):
        shutil.copy(TEMPLATES / f"{name}.mjs", folder)
    tokenizer.decoder = decoder
    (mask,) = {"[MASK]", "<mask>"} & set(tokenizer.get_vocab())
    number, vocabulary = tokenizer.token_to_id(mask), tokenizer.get_vocab_size()
    texts = [text.replace("[MASK]", mask) for text in texts]
    card = {
        "prefixes": [prefix, ""],
        "truncation_side": side,
        "max_length": length or 10_000,
        "mask_id": number,
        "mask_token": mask,
    }
    given = {"tree": json.loads(tokenizer.to_str()), "card": card, "rows": texts}
    found = in_node(folder, FILLS, {**given, "vocabulary": vocabulary})
    tokenizer.no_truncation()
    if length is not None:
        tokenizer.enable_truncation(length, direction=side)
    count = 0
    for text, own in zip(texts, found, strict=True):
        blocks, logits = [], []
        for one in blocks_of(tokenizer.encode(prefix + text)):
            masks = masks_of(
                one, number, prefix + text, len(prefix), lambda ids: decode(tokenizer, ids)
            )
            if len(masks):
                blocks.append(masks)
                places = np.arange(len(one.ids))[:, None] * 31 + np.arange(vocabulary) * 17
                logits.append((places % 101 / 7).astype(np.float32)[masks.places])
        if not blocks:
            assert own.startswith("`"), text
            continue
        wanted = all_masks(text, blocks, logits).to_dict()["masks"]
        assert len(own) == len(wanted), text
        for mask_found, want in zip(own, wanted, strict=True):
            assert (mask_found["start"], mask_found["end"]) == (want["start"], want["end"]), text
            rest = [[(t["token"], t["text"]) for t in m["tokens"]] for m in (mask_found, want)]
            assert rest[0] == rest[1]
            scores = [t["score"] for t in want["tokens"]]
            assert [t["score"] for t in mask_found["tokens"]] == pytest.approx(scores, rel=1e-6)
        count += len(wanted)
    return count


def decode(tokenizer, ids):
    """As the reader of the runtime does it."""
    return tokenizer.decode(ids, skip_special_tokens=False)


def with_masks(texts):
    """Each text with masks in it: alone, before, inside and behind a word."""
    for number, text in enumerate(texts):
        half = len(text) // 2
        put = (f"[MASK]{text}", f"{text} [MASK]", f"{text[:half]}[MASK]{text[half:]} [MASK]")
        yield put[number % 3]


MAKERS = [
    (word_piece, decoders.WordPiece(prefix="##")),
    (with_added, decoders.WordPiece(prefix="##", cleanup=False)),
    (byte_level, decoders.ByteLevel()),
    (composed, decoders.ByteLevel()),
    (untrimmed, decoders.ByteLevel()),
]


@needs_node
@pytest.mark.parametrize(("make", "decoder"), MAKERS)
@pytest.mark.parametrize(("side", "length"), [("right", None), ("right", 9), ("left", 9)])
def test_fills_of_hard_texts_are_those_of_python(tmp_path, make, decoder, side, length):
    texts = [*with_masks([*HARD, *TWEETS]), *TEXTS]
    prefix = "qué: 😀 " if length else ""
    assert compare(tmp_path, make(), decoder, texts, side=side, length=length, prefix=prefix) > 30


DECODE = """
import fs from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
const { tree, pairs } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const tokenizer = new Tokenizer(tree, {});
const options = { skip_special_tokens: false, clean_up_tokenization_spaces: false };
console.log(JSON.stringify(pairs.map((ids) => tokenizer.decode(ids, options))));
"""


@needs_node
@pytest.mark.parametrize(("make", "decoder"), MAKERS)
def test_tokens_become_the_text_that_python_makes_of_them(tmp_path, make, decoder):
    tokenizer = make()
    tokenizer.decoder = decoder
    size, rng = tokenizer.get_vocab_size(), np.random.default_rng(0)
    ids = [*([one] for one in range(size)), *rng.integers(0, size, (2000, 2)).tolist()]
    found = in_node(tmp_path, DECODE, {"tree": json.loads(tokenizer.to_str()), "pairs": ids})
    wanted = [decode(tokenizer, one) for one in ids]
    odd = [(one, a, b) for one, a, b in zip(ids, found, wanted, strict=True) if a != b]
    assert odd == []


def test_a_decoder_that_javascript_does_not_have_is_refused(fills, tmp_path):
    copy = shutil.copytree(fills("shared"), tmp_path / "copy")
    tree = json.loads((copy / "tokenizer.json").read_text())
    tree["decoder"] = {"type": "Fuse"}
    (copy / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ExportError, match="its decoder is `Fuse`"):
        write_package(PackageRequest(copy, tmp_path / "x", Target.WEB, ("lines",)))
    write_package(PackageRequest(copy, tmp_path / "x", Target.WEB, ("sst2",)))
