"""`maskpack.runtime`: the same answers as torch, from a folder alone, without torch."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from export_kit import ROW_KINDS

from maskpack.formats import ConfigError, ExportError
from maskpack.formats.processors import Threads
from maskpack.models.load import load_tokenizer
from maskpack.runtime import Prediction, Session
from maskpack.runtime.task import TaskConfig
from maskpack.tasks.context import restore_task

TEXTS = ["the good film", "bad", "", "we were very happy and the food was great " * 3, "nice bad"]


def read_config(folder):
    return TaskConfig.from_json((folder / "task.json").read_text())


def torch_shares(one, texts):
    """Probabilities of the masked torch model, each text alone, cut as the task was learned."""
    tokenizer, model = load_tokenizer(str(one.artifact.path)), restore_task(one.artifact, "sst2")
    length = one.artifact.entry("sst2").max_length
    rows = []
    for text in texts:
        pair = text if isinstance(text, tuple) else (text,)
        feeds = tokenizer(*pair, truncation=True, max_length=length, return_tensors="pt")
        known = {"input_ids", "attention_mask", "token_type_ids"}
        feeds = {name: value for name, value in feeds.items() if name in known}
        if "distil" in model.config.model_type:
            feeds.pop("token_type_ids", None)
        with torch.no_grad():
            rows.append(model(**feeds).logits.softmax(-1)[0].numpy())
    return np.array(rows)


@pytest.mark.parametrize("kind", ROW_KINDS)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_answers_are_those_of_the_masked_torch_model(exported, kind, batch_size):
    one = exported(kind, "fp32")
    found = Session(one.folder).predict(TEXTS, batch_size=batch_size)
    labels = one.artifact.entry("sst2").labels
    shares = np.array([[answer.scores[label] for label in labels] for answer in found])
    assert shares == pytest.approx(torch_shares(one, TEXTS), abs=2e-5)
    assert [answer.label for answer in found] == [labels[place] for place in shares.argmax(axis=1)]
    assert [answer.score for answer in found] == pytest.approx(shares.max(axis=1))


def with_config(folder, out, **changes):
    """A copy of an exported folder whose configuration says something else."""
    copy = shutil.copytree(folder, out)
    (copy / "task.json").write_text(replace(read_config(copy), **changes).to_json())
    return copy


def test_pairs_are_told_apart(exported, tmp_path):
    one = exported("bert", "fp32")
    pairs = [("good", "bad film"), ("good bad", "film")]
    found = Session(with_config(one.folder, tmp_path / "x", texts=2)).predict(pairs)
    shares = np.array([list(answer.scores.values()) for answer in found])
    assert shares == pytest.approx(torch_shares(one, pairs), abs=2e-5)
    assert abs(shares[0] - shares[1]).max() > 1e-6


@pytest.fixture
def several(exported, tmp_path):
    """A folder of two exported tasks."""
    for one in (exported("bert", "int8"), exported("bert", "int8", "other")):
        shutil.copytree(one.folder, tmp_path / read_config(one.folder).name)
    return tmp_path


def test_a_folder_of_several_asks_which(several):
    session = Session(several)
    assert session.tasks == ("other", "sst2")
    with pytest.raises(ConfigError, match="several tasks are here") as caught:
        session.predict(["good"])
    assert caught.value.hint == "name one as `task`: other, sst2"
    with pytest.raises(ConfigError, match="no task `third` is here"):
        session.predict(["good"], task="third")
    both = [session.predict(["good"], task=task)[0].scores for task in session.tasks]
    assert both[0] != both[1]


def test_only_so_many_tasks_stay_in_memory(several):
    session = Session(several, keep=1)
    first = session.predict(["good"], task="sst2")
    (loaded,) = session._loaded.values()
    session.predict(["good"], task="sst2")
    assert list(session._loaded.values()) == [loaded]
    session.predict(["good"], task="other")
    assert list(session._loaded) == ["other"]
    assert session.predict(["good"], task="sst2") == first


def test_asking_all_tasks_does_not_change_how_many_stay(several):
    session = Session(several, keep=1)
    both = session.predict_all(["good"])
    held = list(session._loaded.values())
    assert len(held) == 2
    assert session.predict_all(["good"]) == both
    assert list(session._loaded.values()) == held, "none is loaded again for the next texts"
    assert session.predict(["good"], task="sst2") == [both[0]["sst2"]]
    assert list(session._loaded) == ["sst2"], "`keep` holds again"
    session.predict(["good"], task="other")
    assert list(session._loaded) == ["other"]
    with pytest.raises(ConfigError, match="no task `third`"):
        session.predict_all(["good"], tasks=["other", "third"])
    session.predict(["good"], task="sst2")
    assert list(session._loaded) == ["sst2"]


def test_two_tasks_of_one_name_are_refused(several):
    shutil.copytree(several / "sst2", several / "copy")
    with pytest.raises(ExportError, match="both hold `sst2`"):
        Session(several)


def test_no_texts_no_answers(exported):
    assert Session(exported("bert", "int8").folder).predict([]) == []


def test_one_text_is_no_list_of_its_letters(exported):
    session = Session(exported("bert", "int8").folder)
    for asked in (session.predict, session.predict_all, session.logits, session.read):
        with pytest.raises(ConfigError, match="a list of texts is expected, and this is one"):
            asked("the good film")
    with pytest.raises(ConfigError, match="fills no masks"):
        session.hidden(["the good film"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "task.json").unlink(), "cannot read"),
        (lambda folder: (folder / "task.json").write_text("{}"), "is damaged"),
        (lambda folder: (folder / "task.json").write_text("["), "is damaged"),
        (lambda folder: (folder / "model.onnx").unlink(), "no exported task"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(exported, tmp_path, change, message):
    folder = shutil.copytree(exported("bert", "int8").folder, tmp_path / "x")
    change(folder)
    with pytest.raises(ExportError, match=message):
        Session(folder)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_named_when_it_is_needed(exported, tmp_path, name):
    folder = shutil.copytree(exported("bert", "int8").folder, tmp_path / "x")
    (folder / name).write_bytes(b"noise")
    session = Session(folder)
    with pytest.raises(ExportError, match="cannot load"):
        session.predict(["good"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"format_version": 3},
        {"requires": ["smell"]},
        {"requires": 3},
        {"texts": 3},
        {"texts": True},
        {"prefixes": ["one"]},
        {"truncation_side": "top"},
        {"kind": "ranking"},
        {"labels": ["one"]},
        {"labels": 3},
        {"max_length": 0},
        {"max_length": "16"},
        {"pad_id": None},
    ],
)
def test_a_card_of_another_kind_is_refused(exported, change):
    config = read_config(exported("bert", "int8").folder)
    assert TaskConfig.from_json(config.to_json()) == config
    with pytest.raises(ExportError):
        TaskConfig.from_json(json.dumps({**json.loads(config.to_json()), **change}))


def test_a_number_is_answered_as_a_number():
    config = TaskConfig("stars", "regression", (), 16, (0, "[PAD]"))
    answers = config.decoder.predictions(config.labels, np.array([[2.5]], np.float32), [])
    assert answers == [Prediction(None, 2.5, {})]
    assert answers[0].to_dict() == {"score": 2.5}


def test_large_logits_are_no_trouble():
    config = TaskConfig("t", "classification", ("a", "b"), 16, (0, "[PAD]"))
    logits = np.array([[1000.0, -1000.0]], np.float32)
    (answer,) = config.decoder.predictions(config.labels, logits, [])
    assert (answer.label, answer.score) == ("a", 1.0)


@pytest.mark.parametrize("options", [{"keep": 0}, {"threads": -1}])
def test_options_out_of_range_are_refused(exported, options):
    with pytest.raises(ConfigError):
        Session(exported("bert", "int8").folder, **options)
    with pytest.raises(ConfigError, match="`batch_size` is 0"):
        Session(exported("bert", "int8").folder).predict(["x"], batch_size=0)


SCRIPT = """
import sys
from maskpack.runtime import Session
print(Session(sys.argv[1]).predict(["good"])[0].label)
heavy = {"torch", "transformers", "onnx", "onnx_ir", "typer"} & set(sys.modules)
assert not heavy, heavy
"""


def test_answering_imports_neither_torch_nor_transformers(exported):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(exported("bert", "int8").folder)],
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in exported("bert", "int8").artifact.entry("sst2").labels


@pytest.mark.parametrize("used", [False, True])
def test_a_session_is_sent_to_another_process_as_what_it_was_made_of(exported, used):
    session = Session(exported("bert", "int8").folder, threads=1, keep=2)
    if used:
        session.predict(TEXTS)
    for again in (pickle.loads(pickle.dumps(session)), copy.deepcopy(session)):
        assert again.predict(TEXTS) == session.predict(TEXTS)
        assert (again._threads, again._keep) == (1, 2)


def test_a_session_has_the_threads_that_its_container_grants(exported, monkeypatch):
    folder = exported("bert", "int8").folder
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("maskpack.runtime.graph.threads_now", lambda _: Threads(8, 8, 8, 0))
    monkeypatch.setattr("maskpack.runtime.graph.threads_allowed", lambda: 3)
    for asked, given in ((0, 3), (2, 2)):
        session = Session(folder, threads=asked)
        session.predict(["good"])
        options = session._load("sst2").graph.get_session_options()
        assert options.intra_op_num_threads == given


@pytest.mark.parametrize(
    ("asked", "said", "found", "given"),
    [
        (0, None, Threads(2, 4, 4, 2), 2),
        (0, None, Threads(4, 4, 4, 0), 0),
        (3, None, Threads(2, 4, 4, 2), 3),
        (0, "5", Threads(2, 4, 4, 2), 5),
        (3, "5", Threads(2, 4, 4, 2), 3),
    ],
)
def test_a_session_leaves_busy_cores_to_other_programs(
    exported, monkeypatch, asked, said, found, given
):
    looks = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr("maskpack.runtime.graph.threads_allowed", lambda: 0)
    monkeypatch.setattr("maskpack.runtime.graph.threads_now", lambda _: looks.append(1) or found)
    session = Session(exported("bert", "int8").folder, threads=asked)
    assert not looks  # until the first graph is loaded
    for _ in range(2):
        session.predict(["good"])
        options = session._load("sst2").graph.get_session_options()
        assert options.intra_op_num_threads == given
        session._loaded.clear()
    assert len(looks) == (0 if asked or said else 1)


def test_a_text_is_cut_where_the_task_cut_it(exported, tmp_path):
    folder = shutil.copytree(exported("bert", "fp32").folder, tmp_path / "x")
    long, cut = "good bad film " * 20, "good bad film"
    whole = Session(folder).predict([long])[0].score
    config = replace(read_config(folder), max_length=5)
    (folder / "task.json").write_text(config.to_json())
    session = Session(folder)
    assert session.predict([long])[0].score == pytest.approx(session.predict([cut])[0].score)
    assert session.predict([long])[0].score != pytest.approx(whole)
