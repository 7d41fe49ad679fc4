"""The examples run as they stand, on the tiny model."""

import csv
import importlib.util
import json
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_tasks_reports_both_tasks_and_the_backbone(tiny_model, capsys):
    load("two_tasks").main(str(tiny_model), 4)
    printed = capsys.readouterr().out
    assert "reviews: accuracy" in printed
    assert "tickets: accuracy" in printed
    assert "backbone, shared:" in printed
    for task in ("reviews", "tickets"):
        assert f"{task}.onnx: " in printed
        assert f"{task} answers: " in printed


def test_export_and_verify_prints_a_verdict_for_each_arithmetic(tiny_artifact, capsys):
    load("export_and_verify").main(str(tiny_artifact), "sst2")
    printed = capsys.readouterr().out
    assert "int8: within tolerance" in printed
    assert "fp32: within tolerance" in printed


def test_read_with_numpy_lists_every_masked_layer(tiny_artifact, capsys):
    from maskpack.formats import open_artifact

    load("read_with_numpy").main(str(tiny_artifact), "sst2")
    printed = capsys.readouterr().out
    for name in open_artifact(tiny_artifact).backbone.linears:
        assert f"{name}: 4 bits" in printed


def test_read_with_numpy_lists_units_that_stay(capsys):
    load("read_with_numpy").main(str(Path(__file__).parent / "golden" / "v1-units"), "only")
    printed = capsys.readouterr().out
    assert "layer 0: 3 of 4 heads stay\n" in printed
    assert "layer 1: 289 of 500 neurons stay\n" in printed
    assert "layer.1.qkv.weight: 2 bits, 5760 of 5760 removed, |W| 0.00" in printed


def test_a_demo_page_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    prepare, package, modules = load("web/prepare"), tmp_path / "package", tmp_path / "modules"
    package.mkdir()
    wanted = {"onnxruntime-web": "1", "@huggingface/tokenizers": "1"}
    (package / "package.json").write_text(json.dumps({"dependencies": wanted}))
    with pytest.raises(FileNotFoundError):
        prepare.main(package, tmp_path / "site", modules)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="no npm"):
        prepare.main(package, tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    for name in (*prepare.VENDORED, prepare.WASM):
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).write_text("x")
    prepare.main(package, tmp_path / "site", modules)
    names = {path.relative_to(tmp_path / "site").as_posix() for path in tmp_path.glob("site/**/*")}
    assert {*prepare.NAMES, "package/package.json", "vendor/ort.wasm.bundle.min.mjs"} <= names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modules", "package", "site"]
    (package / "package.json").write_text('{"dependencies": {"onnxruntime-web": "1"}}')
    prepare.main(package, tmp_path / "images", modules)
    vendored = {path.name for path in (tmp_path / "images" / "vendor").iterdir()}
    assert vendored == {"ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm.gz"}


def test_edge_predict_answers_with_every_task(tiny_artifact, tmp_path, capsys):
    from maskpack.exporters import Compute, SharedRequest, Tolerance, export_shared

    tolerance = Tolerance.of(Compute.INT8)
    out = tmp_path / "all"
    export_shared(SharedRequest(tiny_artifact, (), out, Compute.INT8, tolerance, verify=False))
    load("edge_predict").main(str(out), ["the good film", "bad"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("sst2: ") for line in lines)


def test_python_api_goes_the_whole_way(tiny_model, capsys):
    load("python_api").main(str(tiny_model), 4)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == [
        *("learned", "sound", "packed", "verified", "answered", "refused")
    ]
    assert printed[1] == "sound: True, tasks: tickets"
    assert printed[3].startswith("verified: True")
    assert printed[5] == "refused: no task `reviews` is here; name one as `task`: tickets"


def test_own_csv_answers_with_the_labels_of_its_column(tiny_model, sentiment, tmp_path, capsys):
    lines = (sentiment / "train.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    with (tmp_path / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("satz", "urteil"), *((text, ("Tadel", "Lob")[int(row)]) for text, row in rows)]
        )
    asked = ["the good film", "this story was very bad"]
    own = [str(tmp_path / "mine.csv"), "satz", "urteil", asked, str(tiny_model)]
    load("own_csv").main(*own, 20)
    lines = capsys.readouterr().out.splitlines()
    assert "on rows held out, the majority class gives 0." in lines[0]
    assert {line.split()[0] for line in lines[1:]} <= {"Lob", "Tadel"}  # too small to be right
    assert all(0.5 <= float(line.split()[1]) <= 1 for line in lines[1:])
    assert [line.split("  ")[1] for line in lines[1:]] == asked


def test_entities_answers_with_places_in_the_texts(tiny_model, tmp_path, capsys):
    words = ["the", "good", "food", "was", "bad"]
    tags = ["O", "B-meal", "I-meal", "O", "B-blame"]
    line = json.dumps({"tokens": words, "ner_tags": tags})
    (tmp_path / "rows.jsonl").write_text("\n".join([line] * 60))
    own = [str(tmp_path / "rows.jsonl"), "tokens", "ner_tags", [" ".join(words)], str(tiny_model)]
    load("entities").main(*own, 150)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("entity_f1 ")
    assert lines[1].startswith("meal ")
    assert "'good food', 4 to 13 of 'the good food was bad'" in lines[1]


@pytest.fixture(scope="module")
def two_tasks(tiny_artifact, tmp_path_factory):
    """An export of two tasks over one backbone: `sst2`, and `other` with its labels turned round."""
    from maskpack.exporters import Compute, SharedRequest, Tolerance, export_shared
    from maskpack.formats import open_artifact
    from maskpack.formats.writer import add_task

    root = tmp_path_factory.mktemp("serve")
    artifact = shutil.copytree(tiny_artifact, root / "artifact")
    opened = open_artifact(artifact)
    entry = replace(opened.entry("sst2").renamed("other"), labels=("positive", "negative"))
    add_task(artifact, entry, opened.patch("sst2"))
    tolerance = Tolerance.of(Compute.FP32)
    request = SharedRequest(artifact, (), root / "all", Compute.FP32, tolerance, verify=False)
    export_shared(request)
    return root / "all"


class Counting:
    """A session that is slow, knows who uses it at once, and counts its batches."""

    def __init__(self, session):
        self.session, self.batches, self.inside = session, [], 0
        self.tasks, self.config = session.tasks, session.config

    def predict(self, texts, *, task):
        self.inside += 1
        assert self.inside == 1, "two batches at once"
        self.batches.append((task, len(texts)))
        time.sleep(0.2)
        if "break" in texts:
            self.inside -= 1
            raise RuntimeError("broken")
        found = self.session.predict(texts, task=task)
        self.inside -= 1
        return found


@pytest.fixture
def served(two_tasks):
    """Address of a running server, and its session."""
    import uvicorn

    from maskpack.runtime import Session

    session = Counting(Session(two_tasks, threads=1))
    app = load("serve").make_app(session)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    (port,) = {socket.getsockname()[1] for one in server.servers for socket in one.sockets}
    yield f"http://127.0.0.1:{port}", session
    server.should_exit = True
    thread.join(300)
    assert not thread.is_alive()


def ask(address, task, *texts):
    """Status and answer of a question."""
    body = json.dumps({"task": task, "texts": texts}).encode()
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/predict", body, head)
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_serve_answers_all_tasks_and_batches_what_waits(served, two_tasks):
    from maskpack.runtime import Session

    address, session = served
    with urllib.request.urlopen(f"{address}/tasks", timeout=300) as answer:
        assert json.load(answer) == {
            "other": ["positive", "negative"],
            "sst2": ["negative", "positive"],
        }
    texts = ["the good film", "bad", "we were happy", "awful food", "fine", "a sad story"]
    asked = [(("sst2", "other")[i % 2], texts[i % 6], texts[i % 5]) for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda question: ask(address, *question), asked))
    direct = Session(two_tasks, threads=1)
    for (task, *own), (status, answers) in zip(asked, found, strict=True):
        assert status == 200
        for answer, want in zip(answers, direct.predict(own, task=task), strict=True):
            assert answer["label"] == want.label
            assert answer["scores"] == pytest.approx(want.scores, abs=1e-4)
    assert len(session.batches) <= 12, "questions that wait share a batch"
    assert sum(size for _, size in session.batches) == 48


def test_serve_refuses_what_it_cannot_answer_and_goes_on(served):
    address, session = served
    status, said = ask(address, "nope", "a text")
    assert (status, "no task 'nope'" in said) == (404, True)
    assert [ask(address, "sst2")[0], ask(address, "sst2", "x" * 20_001)[0]] == [422, 422]
    status, said = ask(address, "sst2", ["good", "film"])
    assert (status, "a row has 1 text(s)" in said) == (422, True)
    assert session.batches == []
    assert ask(address, "sst2", "break")[0] == 500
    assert ask(address, "sst2", "good")[0] == 200


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_tested_here(path):
    assert len(path.read_text().splitlines()) < 60
    assert f'load("{path.stem}")' in Path(__file__).read_text()
    assert path.stem not in sys.modules
