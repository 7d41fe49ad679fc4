"""A web package: tokenizers that JavaScript reads otherwise are refused; in node it answers as here.

The tests with node need a folder where `npm install onnxruntime-web @huggingface/tokenizers` was done, in the
environment variable MASKPACK_NODE_MODULES (its `node_modules`), and are skipped without it.
"""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from export_kit import of_older_release, shared_request
from node_kit import MODULES, in_node, needs_node
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from unit_kit import units_removed

from maskpack.exporters.export import export_shared
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.exporters.session import make_session
from maskpack.formats import ExportError, VerifyError
from maskpack.runtime import Session
from maskpack.runtime.task import find_tasks


@pytest.fixture(scope="module")
def sources(exported, shared, artifacts, tmp_path_factory):
    """Name -> exported folder. Read only."""
    smaller = tmp_path_factory.mktemp("sources") / "units"
    with units_removed():
        export_shared(shared_request(artifacts["bert"], smaller))
    folded = {f"folded {name}": exported("bert", name).folder for name in ("int8", "fp32")}
    return {"shared int8": shared("bert", "int8")[0], "units int8": smaller, **folded}


def package(folder, out):
    return write_package(PackageRequest(folder, out, Target.WEB)).out


def with_tokenizer(folder, out, change):
    """A copy of an exported folder whose tokenizer.json was changed."""
    copy = shutil.copytree(folder, out)
    tree = json.loads((copy / "tokenizer.json").read_text())
    change(tree)
    (copy / "tokenizer.json").write_text(json.dumps(tree))
    return copy


def put(**parts):
    return lambda tree: tree.update(parts)


PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put(pre_tokenizer={"type": "Whitespace"}),
            "its pre_tokenizer is `Whitespace`",
        ),
        (
            put(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]}),
            "its normalizer is `Nmt`",
        ),
        (put(normalizer=PRECOMPILED), "its normalizer is `Precompiled`"),
        (put(post_processor=None), "puts no marks round a text"),
        (
            put(
                post_processor={
                    "type": "RobertaProcessing",
                    "sep": ["[SEP]", 3],
                    "cls": ["[CLS]", 2],
                    "trim_offsets": True,
                    "add_prefix_space": False,
                }
            ),
            "`RobertaProcessing` with a graph that takes `token_type_ids`",
        ),
        (lambda tree: tree["added_tokens"][0].update(single_word=True), "is a `single_word`"),
    ],
)
def test_a_tokenizer_that_javascript_reads_otherwise_is_refused(sources, tmp_path, change, message):
    folder = with_tokenizer(sources["folded int8"], tmp_path / "source", change)
    with pytest.raises(ExportError, match=message) as caught:
        package(folder, tmp_path / "x")
    assert "target `ort`" in caught.value.hint
    assert not (tmp_path / "x").exists()


def test_a_folder_without_the_second_file_of_the_tokenizer_is_refused(sources, tmp_path):
    folder = shutil.copytree(sources["folded int8"], tmp_path / "source")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ExportError, match=r"no `tokenizer_config\.json` beside"):
        package(folder, tmp_path / "x")


LOGITS = """
import fs from "node:fs";
import { TASKS, load } from "./predict.mjs";
const found = {};
for (const name of Object.keys(TASKS)) {
  const task = await load(name);
  found[name] = [];
  for (const [text, pair] of JSON.parse(fs.readFileSync(process.argv[2], "utf8")))
    found[name].push({ logits: await task.logits(text, pair), ...(await task.answer(text, pair)) });
}
console.log(JSON.stringify(found));
"""


TEXTS = [
    ("the good film", None),
    ("", None),
    ("Bad, BAD naïve food!", None),
    ("we were very happy and the food was great " * 9, None),
    ("good", "bad film"),
    ("good " * 40, "bad film " * 30),
]


def native(place, text, pair):
    """Logits in the ONNX Runtime here."""
    config, tokenizer = place.read_config(), Tokenizer.from_file(str(place.tokenizer))
    tokenizer.enable_truncation(config.max_length)
    tokenizer.no_padding()
    row = tokenizer.encode(text, pair)
    feeds = {
        "input_ids": row.ids,
        "attention_mask": row.attention_mask,
        "token_type_ids": row.type_ids,
    }
    session = make_session(place.graph, threads=1)
    names = [value.name for value in session.get_inputs()]
    return session.run(["logits"], {name: np.array([feeds[name]], np.int64) for name in names})[0][
        0
    ]


@needs_node
@pytest.mark.parametrize("name", ["shared int8", "units int8", "folded int8", "folded fp32"])
def test_the_example_in_node_gives_the_logits_of_native_onnx_runtime(sources, tmp_path, name):
    source = of_older_release(sources[name], tmp_path / "old")
    found = in_node(package(source, tmp_path / "x"), LOGITS, TEXTS)
    places = find_tasks(source)
    assert set(found) == set(places)
    for task, place in places.items():
        for (text, pair), answer in zip(TEXTS, found[task], strict=True):
            want = native(place, text, pair)
            assert answer["logits"] == pytest.approx(want, abs=1e-4 if "fp32" in name else 0.01)
            assert answer["label"] == place.read_config().labels[int(want.argmax())]
            assert sum(answer["scores"].values()) == pytest.approx(1.0)


READS = """
import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
const [read, real] = [[], fs.readFile];
fs.readFile = (url) => (read.push(String(url).split("/").pop()), real(url));
syncBuiltinESMExports();
const { TASKS, load } = await import("./predict.mjs");
for (const name of Object.keys(TASKS)) await load(name);
const own = [];
await load("sst2", (name) => (own.push(name), real(new URL(name, import.meta.url))));
console.log(JSON.stringify({ read, own }));
"""


@needs_node
def test_what_tasks_share_is_read_once_and_by_a_reader_of_your_own_if_you_like(sources, tmp_path):
    found = in_node(package(sources["shared int8"], tmp_path / "x"), READS, None)
    shared = ["tokenizer.json", "tokenizer_config.json", "backbone.bin"]
    names = [f"{task}.{kind}" for task in ("other", "sst2") for kind in ("json", "onnx")]
    assert {name: found["read"].count(name) for name in [*shared, *names]} == dict.fromkeys(
        [*shared, *names], 1
    )
    assert sorted(found["own"]) == sorted([*shared, "sst2.json", "sst2.onnx"])


@needs_node
def test_the_command_line_of_the_example_prints_a_line_for_each_text(sources, tmp_path):
    folder = package(sources["shared int8"], tmp_path / "x")
    (folder / "node_modules").symlink_to(MODULES)
    done = subprocess.run(
        ["node", str(folder / "predict.mjs"), "good", "bad film"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["task"], line["text"]) for line in lines] == [
        (task, text) for task in ("other", "sst2") for text in ("good", "bad film")
    ]


def test_a_graph_of_all_tasks_takes_a_tasks_tensors_as_inputs(swapped, tmp_path):
    made = write_package(PackageRequest(swapped("bert", "int8")[0], tmp_path / "x", Target.WEB))
    assert made.differences == {"other": 0.0, "sst2": 0.0}, (
        "natively, fed from the files of the page"
    )
    assert not [name for name in made.files if name.endswith("onnx_adapter")]
    assert {"base.onnx", "backbone.bin", "sst2.safetensors", "other.safetensors"} <= set(made.files)
    graph = onnx.load(str(made.out / "base.onnx"), load_external_data=False).graph
    inputs = {value.name for value in graph.input}
    assert not inputs & {tensor.name for tensor in graph.initializer}
    for task in ("sst2", "other"):
        own = load_file(made.out / f"{task}.safetensors")
        assert inputs == {"input_ids", "attention_mask", "token_type_ids", *own}
        assert "adapter_sha256" not in json.loads((made.out / f"{task}.json").read_text())


def test_a_damaged_file_of_inputs_is_no_package(swapped, tmp_path):
    folder = shutil.copytree(swapped("bert", "int8")[0], tmp_path / "source")
    shutil.copy(folder / "other.safetensors", folder / "sst2.safetensors")
    with pytest.raises(VerifyError, match="the packaged graph of `sst2` is off by"):
        package(folder, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@needs_node
@pytest.mark.parametrize("compute", ["int8", "fp32"])
def test_a_graph_of_all_tasks_in_node_gives_the_answers_of_the_runtime(swapped, tmp_path, compute):
    source = swapped("bert", compute)[0]
    found = in_node(package(source, tmp_path / "x"), LOGITS, [[text, None] for text, _ in TEXTS])
    session = Session(source)
    assert set(found) == {"sst2", "other"}
    for task, answers in found.items():
        for (text, _), answer in zip(TEXTS, answers, strict=True):
            (want,) = session.predict([text], task=task, batch_size=1)
            limit = 1e-4 if compute == "fp32" else 0.01
            assert answer["scores"] == pytest.approx(want.scores, abs=limit)


@needs_node
def test_a_second_task_of_one_graph_is_its_inputs_alone(swapped, tmp_path):
    found = in_node(package(swapped("bert", "int8")[0], tmp_path / "x"), READS, None)
    shared = ["tokenizer.json", "tokenizer_config.json", "backbone.bin", "base.onnx"]
    names = [*shared, *(f"{task}.{kind}" for task in ("other", "sst2") for kind in TASK_FILES)]
    assert {name: found["read"].count(name) for name in names} == dict.fromkeys(names, 1)
    own = ["tokenizer.json", "tokenizer_config.json", "sst2.json", "sst2.safetensors"]
    assert sorted(found["own"]) == sorted(own), "the session is that of the first task"


TASK_FILES = ("json", "safetensors")

TOKENS = """
import fs from "node:fs";
import { Tokenizer } from "@huggingface/tokenizers";
import { encode } from "./predict.mjs";
const { tokenizer, config, rows } = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const made = new Tokenizer(tokenizer, config);
console.log(JSON.stringify(rows.map(([length, text, pair]) => encode(made, length, text, pair))));
"""

HARD = [
    *("", " ", "a", "Café  naïve", "don't stop", "e\u0301te\u0301", "中文 text", "a\u00a0b\u2003c"),
    *(
        "[MASK] and [SEP]",
        "tabs\tand\nlines",
        "😀 emoji 👩‍👩‍👧",
        "Straße ﬁ ①",
        "x" * 120,
        "<mask> it",
    ),
    *(
        "price: $3.50 (50%)",
        "\u200bzero\u00adwidth",
        "ŁÓDŹ İstanbul \u039f\u0394\u039f\u03a3",
        "हिन्दी عربى",
        "a\u0000b\ufffd",
    ),
]


def word_piece():
    """A WordPiece as BERT's, over letters and some longer pieces."""
    letters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    words += ["\u03bf", "##\u03b4", "##\u03bf", "##\u03c3", "##\u03c2"]  # both small sigmas
    words += ["the", "cafe", "##fe", "and", "stop", "ete", "中", "ß", "strasse"]
    made = Tokenizer(
        models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return made


def byte_level():
    """A byte-level BPE as RoBERTa's."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    made.train_from_iterator([*HARD, *HARD, "the stop and the cafe don't"], trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    return made


@needs_node
@pytest.mark.parametrize("make", [word_piece, byte_level])
def test_javascript_cuts_texts_as_rust_does(sources, tmp_path, make):
    tokenizer, folder = make(), package(sources["folded int8"], tmp_path / "x")
    rng, rows = np.random.default_rng(0), []
    for text in HARD:
        rows += [(64, text, None), (5, text, None), (24, text, "the end"), (9, "the end", text)]
    for length in (6, 7, 12, 13):
        for sizes in rng.integers(0, 14, (20, 2)):
            rows.append((length, "a " * sizes[0], "b " * sizes[1]))
    given = {"tokenizer": json.loads(tokenizer.to_str()), "config": {}, "rows": rows}
    for (length, text, pair), found in zip(rows, in_node(folder, TOKENS, given), strict=True):
        tokenizer.enable_truncation(length)
        want = tokenizer.encode(text, pair)
        assert found["ids"] == want.ids, (length, text, pair)
        if make is word_piece:  # the other kind of graph takes no token types
            assert found["types"] == want.type_ids, (length, text, pair)
