"""Texts become the same tokens in training, in a session, in packages; a verdict starts there.

The task's labels are told by the last words of long texts, and the tokenizer cuts texts at their beginning: who cuts them
on the other side answers at chance.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.exporters.export import config_of
from maskpack.exporters.layouts.base import TaskGraph
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.exporters.verify import Subject, verify
from maskpack.formats import ExportError, open_artifact
from maskpack.models.load import load_pretrained
from maskpack.runtime import Session
from maskpack.runtime.task import TaskConfig, pick_task
from maskpack.runtime.tokens import TextReader, load_tokenizer
from maskpack.tasks import find_task
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.evaluation.evaluate import encode_for
from maskpack.tasks.probes import first_difference, probe_rows
from maskpack.tasks.texts import TextPreprocessor

ONE = find_task("ends", text_field="text", label_field="label")
TWO = find_task("ends", text_field="text", pair_field="pair", label_field="label")
SHORT = {"bits": 8, "batch_size": 16, "max_length": 16, "precision": "fp32", "head_lr": 1e-3}
EXACT = Tolerance(1e-3, 0.0)


def write_ends(path, *, pairs=False, rows=160):
    """Rows of 38 words, of which the last 8 tell the label."""
    lines = ["text,pair,label"]
    for row in range(rows):
        words = ["the", "film", "was", "very", "quite", "food"] * 5
        words += [(("bad", "poor"), ("good", "great"))[row % 2][row // 2 % 2]] * 8
        second = "the story was nice" if pairs else ""
        lines.append(f"{' '.join(words)},{second},{('no', 'yes')[row % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def make_left(source, out, **changes):
    """The tiny model with a tokenizer that was saved with other settings."""
    shutil.copytree(source, out)
    place = out / "tokenizer_config.json"
    tree = json.loads(place.read_text())
    place.write_text(json.dumps({**tree, "truncation_side": "left", **changes}))
    return out


@pytest.fixture(scope="module")
def ends(tmp_path_factory, tiny_model):
    """`ends(pairs)`: artifact, exported folder, data and verdict of a task that is told by the ends of texts."""
    root = tmp_path_factory.mktemp("ends")
    model = make_left(tiny_model, root / "model")
    made = {}

    def make(pairs=False):
        if pairs not in made:
            home = root / ("two" if pairs else "one")
            home.mkdir()
            data, task = write_ends(home / "rows.csv", pairs=pairs), TWO if pairs else ONE
            config = FitConfig(steps=120, **SHORT)
            fit_task(FitRequest(str(model), task, home / "a", config, data=data))
            request = ExportRequest(home / "a", "ends", home / "g", "fp32", EXACT, data=data)
            made[pairs] = home / "a", home / "g", data, export_onnx(request)
        return made[pairs]

    return make


def rows_of(data, task):
    dev = load_data(task, data=data).dev
    texts = [row if len(row) == 2 else row[0] for row in dev.texts]
    return texts, [("no", "yes")[label] for label in dev.labels]


@pytest.mark.parametrize("pairs", [False, True])
def test_a_session_cuts_texts_on_the_side_where_training_cut_them(ends, pairs):
    _, folder, data, report = ends(pairs)
    assert report.ok, report.findings
    assert report.accuracy.graph == 1.0, "the rows can be learned"
    texts, labels = rows_of(data, TWO if pairs else ONE)
    assert [one.label for one in Session(folder).predict(texts)] == labels
    assert (report.texts.rows, report.texts.same) == (len(texts), True)
    assert report.texts.probes > 50


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
def test_a_package_cuts_texts_on_that_side_too(ends, tmp_path, target, pairs):
    _, folder, data, _ = ends(pairs)
    package = write_package(PackageRequest(folder, tmp_path / "p", target)).out
    example = runpy.run_path(str(package / "predict.py"))["Task"]("ends")
    reader = TextReader.of(
        load_tokenizer(folder / "tokenizer.json"), pick_task(folder, None).read_config()
    )
    for row in probe_rows([reader.tokenizer], 2 if pairs else 1, 16):
        (want,) = reader.encode([row if pairs else row[0]])
        read = example.read(*row)
        ids, types = read.ids, read.type_ids
        assert (ids, types) == (want.ids.tolist(), want.types.tolist()), row
    texts, labels = rows_of(data, TWO if pairs else ONE)
    words = [text for row in texts for text in (row if pairs else (row,))]
    done = subprocess.run(
        [sys.executable, str(package / "predict.py"), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == labels


def test_a_package_names_a_row_of_too_few_texts_and_answers_the_rest(ends, tmp_path):
    _, folder, data, _ = ends(True)
    package = write_package(PackageRequest(folder, tmp_path / "p", Target.ORT)).out
    (first, *_), _ = rows_of(data, TWO)
    done = subprocess.run(
        [sys.executable, str(package / "predict.py"), *first, "alone"],
        capture_output=True,
        text=True,
    )
    answer, error = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, "label" in answer) == (1, True)
    assert error == {"task": "ends", "text": "alone", "error": "ends reads 2 text(s) a row, not 1"}


MODULES = os.environ.get("MASKPACK_NODE_MODULES", "")
needs_node = pytest.mark.skipif(
    not (shutil.which("node") and Path(MODULES, "onnxruntime-web").is_dir()),
    reason="needs node, and MASKPACK_NODE_MODULES, as tests/exporters/test_package_web.py",
)


@needs_node
@pytest.mark.parametrize("pairs", [False, True])
def test_a_web_package_cuts_texts_on_that_side_too(ends, tmp_path, pairs):
    _, folder, data, _ = ends(pairs)
    package = write_package(PackageRequest(folder, tmp_path / "p", Target.WEB)).out
    (package / "node_modules").symlink_to(MODULES)
    texts, labels = rows_of(data, TWO if pairs else ONE)
    words = [text for row in texts for text in (row if pairs else (row,))]
    command = ["node", str(package / "predict.mjs"), *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["label"] for line in done.stdout.splitlines()] == labels
    if pairs:
        done = subprocess.run([*command, "alone"], capture_output=True, text=True)
        assert done.returncode == 1
        last = json.loads(done.stdout.splitlines()[-1])
        assert last["error"] == "ends reads 2 text(s) a row, not 1"


def changed(folder, out, **changes):
    copy = shutil.copytree(folder, out)
    config = TaskConfig.from_json((copy / "task.json").read_text())
    (copy / "task.json").write_text(replace(config, **changes).to_json())
    return copy


def verdict(artifact, folder, data):
    files = pick_task(folder, None)
    return verify(
        Subject(files.graph, open_artifact(artifact), "ends", "fp32", EXACT, data, files=files)
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"truncation_left": False}, "token ids differ at position"),
        ({"max_length": 15}, "token ids differ at position"),
        ({"split_special_tokens": True}, "token ids differ at position"),
        ({"prefixes": ("film ", "")}, "token ids differ at position"),
        ({"labels": ("yes", "no")}, "describes another task than `ends`"),
        ({"texts": 2}, "describes another task than `ends`"),
    ],
)
def test_files_that_read_texts_otherwise_are_refused(ends, tmp_path, change, what):
    artifact, folder, data, _ = ends()
    report = verdict(artifact, changed(folder, tmp_path / "x", **change), data)
    assert not report.ok
    assert what in report.findings[0]
    if "truncation_left" in change:  # the metric is that of what a device reads
        assert report.accuracy.torch == 1.0
        assert report.accuracy.graph < 0.7
        assert "`the film was very quite food t ... " in report.findings[0]
        assert any("accuracy drops by" in line for line in report.findings)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree["normalizer"].update(lowercase=False),
        lambda tree: tree["added_tokens"].pop(),
        lambda tree: tree.update(post_processor=None),
        lambda tree: tree["normalizer"].update(handle_chinese_chars=False),
        lambda tree: tree["normalizer"].update(clean_text=False),
        lambda tree: tree["normalizer"].update(strip_accents=False),
    ],
    ids=["lowercase", "added token", "frame", "chinese", "control", "accents"],
)
def test_a_tokenizer_file_of_another_kind_is_refused(ends, tmp_path, change):
    artifact, folder, data, _ = ends()
    copy = shutil.copytree(folder, tmp_path / "x")
    tree = json.loads((copy / "tokenizer.json").read_text())
    change(tree)
    (copy / "tokenizer.json").write_text(json.dumps(tree))
    report = verdict(artifact, copy, data)
    assert (report.ok, report.texts.same) == (False, False)
    assert any("is read otherwise on a device" in line for line in report.findings)


def test_a_verdict_without_evaluation_rows_reads_probes(ends, tmp_path):
    artifact, folder, _, _ = ends()
    report = verdict(artifact, changed(folder, tmp_path / "x", truncation_left=False), None)
    assert report.accuracy is None
    assert (report.texts.rows, report.ok) == (0, False)


SAVED = [
    {"do_lower_case": False},
    {"tokenize_chinese_chars": False},
    {"strip_accents": False},
    {"split_special_tokens": True},
    {"model_input_names": ["input_ids"]},
    {"padding_side": "left"},
    {"clean_up_tokenization_spaces": False},
    {"model_max_length": 7},
    {"added_tokens_decoder": {"4": {"content": "[MASK]", "special": True, "lstrip": True}}},
    {"additional_special_tokens": ["word3", "film"]},
]


OTHER_PROGRAM = {
    "truncation": {"max_length": 5, "strategy": "OnlySecond", "stride": 2, "direction": "Right"},
    "padding": {
        "strategy": {"Fixed": 9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    },
}


def with_saved(source, out, settings):
    """A model whose tokenizer was saved with settings, and by a program that truncates and pads."""
    model = make_left(source, out, **settings)
    tree = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**tree, **OTHER_PROGRAM}))
    return model


def assert_read_alike(model, tokenizer, config, texts):
    """A device gives the tokens that transformers gives with the model's own tokenizer."""
    source, reader = AutoTokenizer.from_pretrained(model), TextReader.of(tokenizer, config)
    rows = probe_rows([tokenizer], texts, 16)
    given = rows if texts == 2 else [row[0] for row in rows]
    columns = (list(column) for column in zip(*rows, strict=True))
    want = source(*columns, truncation=True, max_length=16, return_token_type_ids=True)
    for place, found in enumerate(reader.encode(given)):
        assert found.ids.tolist() == want["input_ids"][place], rows[place]
        assert found.types.tolist() == want["token_type_ids"][place], rows[place]


@pytest.mark.parametrize("settings", SAVED, ids=lambda one: next(iter(one)))
@pytest.mark.parametrize("texts", [1, 2])
def test_what_a_tokenizer_was_saved_with_is_the_same_on_a_device(
    ends, tiny_model, tmp_path, settings, texts
):
    artifact, folder, _, _ = ends(texts == 2)
    model = with_saved(tiny_model, tmp_path / "model", settings)
    context = ModelContext.of_pretrained(load_pretrained(str(model)))
    made = TaskGraph(
        open_artifact(artifact).entry("ends"), folder / "model.onnx", folder / "task.json"
    )
    config = config_of(made, context.preprocessor())
    assert (config.truncation_left, config.texts) == (True, texts)
    tokenizer = Tokenizer.from_buffer(context.files["tokenizer.json"])
    assert_read_alike(model, tokenizer, config, texts)


def test_such_a_tokenizer_goes_the_whole_way(tiny_model, tmp_path):
    model = with_saved(tiny_model, tmp_path / "model", {"split_special_tokens": True})
    data = write_ends(tmp_path / "rows.csv", rows=20)
    fit_task(FitRequest(str(model), ONE, tmp_path / "a", FitConfig(steps=1, **SHORT), data=data))
    out, loose = tmp_path / "g", Tolerance(1e-3, 100.0)
    reports = export_shared(SharedRequest(tmp_path / "a", (), out, "fp32", loose, {"ends": data}))
    assert reports["ends"].ok, reports["ends"].findings
    place = pick_task(out, None)
    assert place.read_config().requires == ("split-special-tokens", "truncation-left")
    assert json.loads(place.config.read_text())["format_version"] == 2, "old releases refuse it"
    assert_read_alike(model, load_tokenizer(place.tokenizer), place.read_config(), 1)


def test_a_tokenizer_that_the_browser_reads_otherwise_is_refused(ends, tmp_path):
    _, folder, _, _ = ends()
    copy = changed(folder, tmp_path / "x", split_special_tokens=True)
    (copy / "maskpack_report.json").unlink()
    with pytest.raises(ExportError, match="`ends` reads it as any other text"):
        write_package(PackageRequest(copy, tmp_path / "p", Target.WEB))


class Lower(TextPreprocessor):
    """Reads texts as no file of a tokenizer says."""

    def encode(self, split, *, max_length):
        texts = tuple(tuple(text.replace("film", "food") for text in row) for row in split.texts)
        return super().encode(replace(split, texts=texts), max_length=max_length)


def test_a_tokenizer_that_no_file_can_hold_is_named_before_the_training(
    tiny_model, tmp_path, monkeypatch, caplog
):
    data, config = write_ends(tmp_path / "rows.csv", rows=20), FitConfig(steps=1, **SHORT)
    fit_task(FitRequest(str(tiny_model), ONE, tmp_path / "a", config, data=data))
    assert "read otherwise" not in caplog.text
    monkeypatch.setattr("maskpack.tasks.context.TextPreprocessor", Lower)
    fit_task(FitRequest(str(tiny_model), ONE, tmp_path / "b", config, data=data))
    assert "is read otherwise on a device than in training: token ids differ" in caplog.text
    assert "an export would be refused" in caplog.text


def test_the_first_difference_is_named(ends):
    artifact, folder, _, _ = ends()
    opened = open_artifact(artifact)
    context, entry = ModelContext.of_artifact(opened), opened.entry("ends")
    config = replace(pick_task(folder, None).read_config(), max_length=8)
    reader = TextReader.of(load_tokenizer(folder / "tokenizer.json"), config)
    found = first_difference(
        reader, lambda split: encode_for(context, entry, split), [("good " * 9,)]
    )
    assert (found.position, found.device, found.training, found.what) == (7, 3, 5, "ids")
    assert np.array_equal(reader.encode(["good"])[0].types, [0, 0, 0])
