"""What stands before texts: the prompts of a sentence-transformers model, or the user's; the same everywhere."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
from dataclasses import replace

import pytest

from maskpack.compressor import BaselineConfig, BaselineRequest, FitRequest, fit_task, run_baseline
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.exporters.hf import write_hf
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.formats import ArtifactError, ConfigError, ModelError, open_artifact
from maskpack.formats.schema import entry_to_dict
from maskpack.models.prompts import FILE, Prompts, find_prompts
from maskpack.runtime import Session
from maskpack.runtime.task import pick_task
from maskpack.tasks import find_task
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.evaluation.evaluate import assess, encode_for, prefixes_of
from maskpack.tasks.preprocess import load_splits
from maskpack.tasks.task import TASKS

SST2 = find_task("sst2")
E5 = {"prompts": {"query": "food ", "passage": "story "}, "default_prompt_name": None}


@pytest.fixture
def prompted(tiny_model, tmp_path):
    """`prompted(default)`: the tiny model with prompts, one of them the default."""

    def make(default):
        folder = tmp_path / f"model-{default}"
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        (folder / FILE).write_text(json.dumps({**E5, "default_prompt_name": default}))
        return str(folder)

    return make


def test_prompts_are_read_from_their_file(prompted, tiny_model, tmp_path):
    assert find_prompts(str(tiny_model)) == Prompts()
    assert find_prompts("nobody/nothing") == Prompts(), "without a network nobody knows"
    assert find_prompts(prompted("query")).usual == "food "
    assert find_prompts(prompted(None)).usual == ""
    model = shutil.copytree(tiny_model, tmp_path / "damaged")
    (model / FILE).write_text("[")
    with pytest.raises(ModelError, match="cannot be read"):
        find_prompts(str(model))
    (model / FILE).write_text('{"prompts": {"query": 3}}')
    with pytest.raises(ModelError, match="a prompt that is no text"):
        find_prompts(str(model))


def test_prompts_lie_beside_the_folder_of_the_encoder(tiny_model, tmp_path):
    """As sentence-transformers wrote its models at first: the encoder in a folder of its own."""
    shutil.copytree(tiny_model, tmp_path / "m" / "0_Transformer")
    modules = [
        {
            "idx": 0,
            "name": "0",
            "path": "0_Transformer",
            "type": "sentence_transformers.models.Transformer",
        }
    ]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "m" / FILE).write_text(
        json.dumps({"prompts": {"q": "query: "}, "default_prompt_name": "q"})
    )
    assert find_prompts(str(tmp_path / "m")).usual == "query: "


@pytest.mark.parametrize(
    ("given", "one", "two"),
    [
        ({}, None, None),
        ({"prefix": "a "}, ("a ", ""), ("a ", "a ")),
        ({"prefix": ""}, (), ()),
        ({"prefix": "a ", "pair_prefix": ""}, ("a ", ""), ("a ", "")),
        ({"pair_prefix": "b "}, None, ("", "b ")),
        ({"prefix": "a ", "pair_prefix": "b "}, None, ("a ", "b ")),
    ],
)
def test_a_prefix_of_the_user(given, one, two):
    assert find_task("rte", **given).prefixes == two
    if given.get("pair_prefix"):
        with pytest.raises(ConfigError, match="has one text a row"):
            find_task("sst2", **given)
    else:
        assert find_task("sst2", **given).prefixes == one


def data_of(model, task, sentiment):
    arguments = {"data": sentiment, "eval_data": None, "train_rows": None, "revision": None}
    return load_splits(model, task, **arguments)[0]


def test_the_default_prompt_is_taken_and_said_and_others_are_named(prompted, sentiment, caplog):
    caplog.set_level(logging.INFO)
    taken = data_of(prompted("query"), SST2, sentiment)
    assert taken.task.prefixes == ("food ", "")
    assert "reads texts after its prompt 'food '" in caplog.text
    none = data_of(prompted(None), SST2, sentiment)
    assert none.task.prefixes == ()
    assert "has the prompts query ('food '), passage ('story ') and puts none" in caplog.text
    caplog.clear()
    assert data_of(prompted("passage"), find_task("sst2", prefix=""), sentiment).task.prefixes == ()
    assert data_of(prompted(None), find_task("sst2", prefix="a "), sentiment).task.prefixes == (
        "a ",
        "",
    )
    assert caplog.text == ""


def test_a_prefix_goes_the_whole_way(prompted, sentiment, tmp_path, quick, caplog):
    model, out, graph = prompted("query"), tmp_path / "a", tmp_path / "g"
    result = fit_task(FitRequest(model, SST2, out, quick(), data=sentiment))
    artifact = open_artifact(out)
    entry, context = artifact.entry("sst2"), ModelContext.of_artifact(artifact)
    assert (entry.requires, entry.config) == (("prefix",), {"prefix": ["food ", ""]})
    dev = load_data(SST2, data=sentiment).dev
    plain = context.preprocessor().encode(dev, max_length=16)
    rows = encode_for(context, entry, dev)
    food = context.preprocessor().tokenizer.convert_tokens_to_ids("food")
    for bare, row in zip(plain.ids, rows.ids, strict=True):
        assert row.tolist() == [bare[0], food, *bare[1:]][: len(row)]
    found = assess(artifact, "sst2", data=sentiment)
    assert (found.scores, found.same_data) == (result.scores, True), "rows are digested as they are"

    report = export_onnx(
        ExportRequest(out, "sst2", graph, "fp32", Tolerance(1e-3, 0.0), data=sentiment)
    )
    assert report.ok, report.findings
    card = json.loads((graph / "task.json").read_text())
    assert (card["prefixes"], card["requires"], card["format_version"]) == (
        ["food ", ""],
        ["prefix"],
        2,
    )
    texts = [row[0] for row in dev.texts]
    answers = Session(graph).predict(texts)
    bare_config = replace(pick_task(graph, None).read_config(), prefixes=())
    bare = shutil.copytree(graph, tmp_path / "bare")
    (bare / "task.json").write_text(bare_config.to_json())
    for answer, want in zip(
        answers, Session(bare).predict([f"food {t}" for t in texts]), strict=True
    ):
        assert answer.scores == pytest.approx(want.scores, abs=1e-4)

    package = write_package(PackageRequest(graph, tmp_path / "p", Target.ORT)).out
    example = runpy.run_path(str(package / "predict.py"))["Task"]("sst2")
    assert [example.read(text).ids for text in texts] == [row.tolist() for row in rows.ids]
    write_hf(artifact, "sst2", tmp_path / "hf")
    assert "a plain model has no prefix: put 'food ' before a text" in caplog.text


def test_a_plain_task_has_no_word_of_it(tiny_artifact, prompted, sentiment, tmp_path, quick):
    assert not {"requires", "config"} & set(
        entry_to_dict(open_artifact(tiny_artifact).entry("sst2"))
    )
    model = prompted("query")
    config = quick(steps=2)
    fit_task(
        FitRequest(model, find_task("sst2", prefix=""), tmp_path / "a", config, data=sentiment)
    )
    entry = open_artifact(tmp_path / "a").entry("sst2")
    assert (entry.requires, prefixes_of(entry)) == ((), ())
    assert "prefix" not in json.dumps(entry_to_dict(entry))


def test_a_baseline_reads_them_too(prompted, sentiment, monkeypatch):
    from maskpack.tasks.texts import TextPreprocessor

    seen, real = [], TextPreprocessor.encode

    def encode(self, split, *, max_length):
        seen.extend(row[0] for row in split.texts)
        return real(self, split, max_length=max_length)

    monkeypatch.setattr(TextPreprocessor, "encode", encode)
    config = BaselineConfig(method="head", steps=1, max_length=16)
    run_baseline(BaselineRequest(prompted("passage"), SST2, config, data=sentiment))
    assert all(text.startswith("story ") for text in seen[:128])


@pytest.mark.parametrize("value", [None, "food ", ["food "], ["a", 3]])
def test_a_manifest_that_does_not_say_which_is_refused(tiny_artifact, value):
    entry = replace(
        open_artifact(tiny_artifact).entry("sst2"),
        requires=("prefix",),
        config={} if value is None else {"prefix": value},
    )
    with pytest.raises(ArtifactError, match="not two texts"):
        prefixes_of(entry)


def test_tasks_of_the_package_leave_it_to_the_model():
    assert {task.prefixes for task in TASKS.values()} == {None}
