"""A web package of tasks on a trunk: in node each task answers as here, and tasks share the trunk's passes.

Node is set up as in test_package_web.py.
"""

from __future__ import annotations

import subprocess

import pytest
from export_kit import shared_request
from node_kit import MODULES, in_node, needs_node
from unit_kit import units_removed

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.runtime import Session
from maskpack.tasks import find_task

TEXTS = ["a good film", "", "the plot is thin and the acting is bad " * 9]
TASKS = ["one", "two"]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, family_models, sentiment):
    """Two tasks whose masks lie on the last layer; `two` cuts its texts to fewer tokens in `short`."""
    out = tmp_path_factory.mktemp("trained") / "artifact"
    plan = {"steps": 4, "batch_size": 16, "precision": "fp32", "teacher": "none", "margin": 0.3}
    for seed, name in enumerate([*TASKS, "short"]):
        length = 8 if name == "short" else 16
        config = FitConfig(bits=8, layers="1", seed=seed, max_length=length, **plan)
        model, task = str(family_models("bert")), find_task("sst2")
        fit_task(FitRequest(model, task, out, config, data=sentiment, name=name))
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory, artifact):
    """Kind of numbers -> a folder of the trunk layout; `units`: with tasks that have removed units. Read only."""
    root = tmp_path_factory.mktemp("folders")
    for kind in ("fp32", "int8"):
        export_shared(shared_request(artifact, root / kind, kind, layout="trunk", verify=False))
    with units_removed(last_layer=True):
        request = shared_request(artifact, root / "units", "fp32", layout="trunk", verify=False)
        export_shared(request)
    return {name: root / name for name in ("fp32", "int8", "units")}


def package(folder, out, *tasks):
    return write_package(PackageRequest(folder, out, Target.WEB, tuple(tasks))).out


ANSWERS = """
import fs from "node:fs";
import { TASKS, answerAll, load } from "./predict.mjs";
const texts = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const found = { together: [], alone: {} };
for (const text of texts) found.together.push(await answerAll(text));
for (const name of Object.keys(TASKS)) {
  const task = await load(name);
  found.alone[name] = [];
  for (const text of texts) found.alone[name].push(await task.answer(text));
}
console.log(JSON.stringify(found));
"""


@needs_node
@pytest.mark.parametrize("kind", ["fp32", "int8", "units"])
def test_tasks_on_a_trunk_answer_in_node_as_here(folders, tmp_path, kind):
    found = in_node(package(folders[kind], tmp_path / "x"), ANSWERS, TEXTS)
    session = Session(folders[kind], threads=1)
    assert set(found["alone"]) == {*TASKS, "short"}
    for task, answers in found["alone"].items():
        assert [row[task] for row in found["together"]] == answers
        for answer, want in zip(
            answers, session.predict(TEXTS, task=task, batch_size=1), strict=True
        ):
            assert answer["scores"] == pytest.approx(
                want.scores, abs=0.01 if kind == "int8" else 1e-4
            )
            if max(want.scores.values()) > 0.52:
                assert answer["label"] == want.label


PASSES = """
import fs from "node:fs";
import * as ort from "onnxruntime-web/wasm";
const create = ort.InferenceSession.create;
const runs = { trunk: 0, top: 0 };
ort.InferenceSession.create = async (...given) => {
  const session = await create.call(ort.InferenceSession, ...given);
  const run = session.run.bind(session);
  const kind = session.outputNames.includes("hidden_states") ? "trunk" : "top";
  session.run = (...feeds) => (runs[kind]++, run(...feeds));
  return session;
};
const { answerAll, load } = await import("./predict.mjs");
const seen = [];
for (const [text, names] of JSON.parse(fs.readFileSync(process.argv[2], "utf8"))) {
  await answerAll(text, null, names);
  seen.push({ ...runs });
}
const task = await load("one");
for (let row = 0; row < 40; row++) await task.answer("good ".repeat(1 + (row % 2)));
console.log(JSON.stringify({ seen, few: runs.trunk }));
"""


@needs_node
def test_tasks_that_read_a_text_alike_share_a_pass_of_the_trunk(folders, tmp_path):
    asked = [["a good film", TASKS], ["a good film", TASKS], ["bad", ["one"]], ["bad", ["two"]]]
    asked += [["the plot is thin and the acting is bad", [*TASKS, "short"]]]
    found = in_node(package(folders["fp32"], tmp_path / "x"), PASSES, asked)
    assert [one["top"] for one in found["seen"]] == [2, 4, 5, 6, 9]
    # the third task cuts the last text to fewer tokens, so that it needs another pass
    assert [one["trunk"] for one in found["seen"]] == [1, 1, 2, 2, 4]
    assert found["few"] == 4 + 2


@needs_node
def test_a_package_of_one_task_on_a_trunk_holds_the_trunk_and_answers(folders, tmp_path):
    folder = package(folders["fp32"], tmp_path / "x", "two")
    assert {path.name for path in folder.glob("*.onnx")} == {"trunk.onnx", "two.onnx"}
    (folder / "node_modules").symlink_to(MODULES)
    done = subprocess.run(
        ["node", "predict.mjs", "a good film"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (want,) = Session(folders["fp32"], threads=1).predict(["a good film"], task="two")
    assert f'"label":"{want.label}"' in done.stdout


def test_the_files_of_a_package_are_still_an_exported_folder(folders, tmp_path):
    made = package(folders["int8"], tmp_path / "x")
    text = (made / "predict.mjs").read_text(encoding="utf-8")
    assert text.count('"trunk": "trunk.onnx"') == 3
    assert "`trunk.onnx` + `one.onnx` + `backbone.bin`" in (made / "README.md").read_text()
    ours, theirs = Session(folders["int8"], threads=1), Session(made, threads=1)
    assert ours.predict_all(TEXTS) == theirs.predict_all(TEXTS)
