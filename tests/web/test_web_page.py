"""The page of a web package itself, in a real browser: a menu of tasks over one graph, and what a switch downloads.

Needs Chromium and MASKPACK_NODE_MODULES, as test_web_demo.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from image_kit import make_image_model, write_images
from playwright.sync_api import sync_playwright

from maskpack.compressor import FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.runtime import Session
from maskpack.tasks import find_task

CHROMIUM = os.environ.get("MASKPACK_CHROMIUM") or shutil.which("chromium") or ""
MODULES = os.environ.get("MASKPACK_NODE_MODULES", "")
PREPARE = Path(__file__).parents[2] / "examples" / "web" / "prepare.py"
TEXT = "the good film"

pytestmark = pytest.mark.skipif(
    not (Path(CHROMIUM).is_file() and Path(MODULES, "onnxruntime-web").is_dir()),
    reason="needs Chromium, and MASKPACK_NODE_MODULES",
)


@pytest.fixture
def packed(tmp_path, tiny_model, sentiment, quick):
    """A package of two tasks in the swap layout, and the folder that it was made of."""
    for number, name in enumerate(("first", "second")):
        config = quick(bits=8, seed=number, margin=0.5)
        request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, sentiment)
        fit_task(replace(request, name=name))
    source = tmp_path / "swap"
    tolerance = Tolerance.of("fp32")
    request = SharedRequest(
        tmp_path / "a", (), source, "fp32", tolerance, verify=False, layout="swap"
    )
    export_shared(request)
    made = write_package(PackageRequest(source, tmp_path / "package", Target.WEB)).out
    (made / "node_modules").symlink_to(MODULES)
    return made, source


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def opened(folder, ready="#out:text('ready')"):
    """The page of a package, once it is ready."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.wait_for_selector(ready, timeout=300_000)
            yield page
            browser.close()
    finally:
        server.shutdown()
        server.server_close()


def test_a_switch_of_tasks_downloads_the_tasks_inputs_alone(packed):
    folder, source = packed
    session = Session(source)
    asked: list[str] = []
    with opened(folder) as page:
        page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
        page.fill("#text", TEXT)
        page.dispatch_event("#text", "change")
        found = {}
        for task in ("first", "second"):
            page.select_option("#task", task)
            page.wait_for_selector(f"""#out:text('"task":"{task}"')""", timeout=300_000)
            found[task] = json.loads(page.text_content("#out"))
    assert sorted(asked) == ["second.json", "second.safetensors"]
    for task, answer in found.items():
        (want,) = session.predict([TEXT], task=task)
        assert answer["scores"] == pytest.approx(want.scores, abs=1e-4)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory, tiny_model, quick):
    """A package of a task that finds entities, and what it finds in a text."""
    root = tmp_path_factory.mktemp("tagged")
    rng, lines = np.random.default_rng(0), []
    for _ in range(120):
        found = [str(word) for word in rng.choice(["the", "film", "was", "we", "bad"], 6)]
        found[rng.integers(5)] = "good"
        tags = ["B-meal" if word == "good" else "O" for word in found]
        lines.append(json.dumps({"tokens": found, "ner_tags": tags}))
    data = root / "rows.jsonl"
    data.write_text("\n".join(lines))
    kind = "token-classification"
    task = find_task("meals", text_field="tokens", label_field="ner_tags", kind=kind)
    config = quick(steps=150, max_length=32, head_lr=0.3)
    fit_task(FitRequest(str(tiny_model), task, root / "a", config, data=data))
    tolerance = Tolerance.of("fp32")
    request = SharedRequest(root / "a", (), root / "source", "fp32", tolerance, verify=False)
    export_shared(request)
    made = write_package(PackageRequest(root / "source", root / "package", Target.WEB)).out
    (made / "node_modules").symlink_to(MODULES)
    (want,) = Session(root / "source").predict([MARKUP], task="meals")
    assert want.entities[-1].text == "good"
    return made, want.entities


MARKUP = "😀 <img src=x onerror=alert(1)> the good film"


def check_marked(page, entities):
    """The text stands in the page as it is, its entities marked."""
    page.wait_for_selector("#named mark", timeout=300_000)
    marks = [mark.inner_text() for mark in page.query_selector_all("#named mark")]
    assert marks == [f"{one.text} {one.label}" for one in entities]
    assert page.query_selector("#named img") is None
    bare = page.evaluate(  # without labels, and the blank before each
        """[...document.getElementById('named').childNodes]
        .map((node) => (node.firstChild ?? node).textContent).join('')"""
    )
    assert bare == MARKUP


def test_entities_are_marked_in_the_text_and_nothing_in_it_is_html(tagged):
    with opened(tagged[0]) as page:
        page.fill("#text", MARKUP)
        page.dispatch_event("#text", "change")
        check_marked(page, tagged[1])
        page.fill("#text", "")
        page.dispatch_event("#text", "change")
        page.wait_for_selector("#out:text('ready')")
        assert page.text_content("#named") == ""


def site_of(package, out):
    """The demo page over a package."""
    spec = importlib.util.spec_from_file_location("prepare", PREPARE)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    prepare.main(package, out, Path(MODULES))


def test_the_demo_page_marks_them_too(tagged, tmp_path):
    site_of(tagged[0], tmp_path / "site")
    with opened(tmp_path / "site", ready="#status:text('type a text')") as page:
        assert page.text_content("#labels") == "marks meal"
        page.fill("#text", MARKUP)
        check_marked(page, tagged[1])
        bars = page.query_selector_all(".bar .name")
        assert [bar.inner_text() for bar in bars] == [f"{x.text}, {x.label}" for x in tagged[1]]
        page.fill("#text", "film")
        page.wait_for_selector("#label:text('no entities')")
        assert page.query_selector("#named mark") is None


QUESTION = "and good"
CONTEXTS = [f"<b>😀</b> {'the film was story ' * 15}good food 👍🏽 it", "the film was it"]


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tiny_model, quick):
    """A package of a task that answers questions, and its answers."""
    root = tmp_path_factory.mktemp("asked")
    rng, lines = np.random.default_rng(0), []
    for number in range(160):
        words = [str(word) for word in rng.choice(["the", "film", "was", "story", "it"], 12)]
        answers = {"text": [], "answer_start": []}
        if number % 4:
            words.insert(place := int(rng.integers(12)), "good food")
            start = len(" ".join(words[:place])) + (place > 0)
            answers = {"text": ["good food"], "answer_start": [start]}
        row = {"question": QUESTION, "context": " ".join(words), "answers": answers}
        lines.append(json.dumps(row))
    data = root / "rows.jsonl"
    data.write_text("\n".join(lines))
    fields = {"text_field": "question", "pair_field": "context", "label_field": "answers"}
    task = find_task("asked", **fields, kind="question-answering")
    config = quick(steps=150, max_length=32, head_lr=0.3)
    fit_task(FitRequest(str(tiny_model), task, root / "a", config, data=data))
    tolerance = Tolerance.of("fp32")
    request = SharedRequest(root / "a", (), root / "source", "fp32", tolerance, verify=False)
    export_shared(request)
    made = write_package(PackageRequest(root / "source", root / "package", Target.WEB)).out
    (made / "node_modules").symlink_to(MODULES)
    wanted = Session(root / "source").predict([(QUESTION, context) for context in CONTEXTS])
    assert [one.text for one in wanted] == ["good food", ""]
    return made, wanted


def ask(page, event, context):
    page.fill("#pair", context)
    page.fill("#text", QUESTION)
    page.dispatch_event("#text", event)


def check_answer(page, answer):
    """The context stands in the page as it is, with the answer marked."""
    page.wait_for_selector("#named mark", timeout=300_000)
    marks = [mark.inner_text() for mark in page.query_selector_all("#named mark")]
    assert marks == [answer.text]
    assert page.query_selector("#named b") is None
    assert page.text_content("#named") == CONTEXTS[0]


def test_the_answer_to_a_question_is_marked_in_its_context(asked):
    with opened(asked[0]) as page:
        assert page.is_visible("#pair")
        assert page.get_attribute("#pair", "placeholder") == "the context of its answer"
        ask(page, "change", CONTEXTS[0])
        check_answer(page, asked[1][0])
        found = json.loads(page.text_content("#out"))
        assert (found["start"], found["end"]) == (asked[1][0].start, asked[1][0].end)
        ask(page, "change", CONTEXTS[1])
        page.wait_for_selector("""#out:text('"text":""')""")
        assert page.text_content("#named") == CONTEXTS[1]
        assert page.query_selector("#named mark") is None


def test_the_demo_page_has_a_question_and_a_context(asked, tmp_path):
    site_of(asked[0], tmp_path / "site")
    with opened(tmp_path / "site", ready="#status:text('type a text')") as page:
        labels = [page.text_content(f"#{name}-label") for name in ("text", "pair")]
        assert labels == ["Question", "Context"]
        ask(page, "input", CONTEXTS[0])
        check_answer(page, asked[1][0])
        assert page.text_content("#label") == "good food"
        ask(page, "input", CONTEXTS[1])
        page.wait_for_selector("#label:text('no answer')")
        assert page.query_selector("#named mark") is None


def test_an_image_of_a_file_gets_its_classes(tmp_path, quick):
    pets, model = write_images(tmp_path / "pets"), make_image_model("vit", tmp_path / "model")
    task = find_task("pets", text_field="image", label_field="label", kind="image-classification")
    fit_task(FitRequest(str(model), task, tmp_path / "a", quick(steps=40), data=pets))
    source, tolerance = tmp_path / "source", Tolerance.of("fp32")
    export_shared(SharedRequest(tmp_path / "a", (), source, "fp32", tolerance, verify=False))
    made = write_package(PackageRequest(source, tmp_path / "package", Target.WEB)).out
    (made / "node_modules").symlink_to(MODULES)
    with opened(made) as page:
        for label in ("cat", "dog"):
            image = pets / "validation" / label / "0.png"
            page.set_input_files("#image", str(image))
            page.wait_for_selector(f"#classes li:has-text('{label}')", timeout=300_000)
            page.wait_for_selector(f"""#out:text('"label":"{label}"')""", timeout=300_000)
            found = json.loads(page.text_content("#out"))
            (want,) = Session(source).predict([image])
            assert found["scores"] == pytest.approx(want.scores, abs=1e-4)
            assert page.is_visible("#shown")
