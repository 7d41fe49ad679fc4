"""The demo page in a real browser: its answers are those of the runtime, and a switch is a small download.

Skipped unless a Chromium (`chromium` on the path, or the environment variable MASKPACK_CHROMIUM) and
MASKPACK_NODE_MODULES are there, as in tests/exporters/test_package_web.py.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from devtools import Page, browsing

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import Compute, PackageRequest, SharedRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.runtime import Session
from maskpack.tasks import find_task

CHROMIUM = os.environ.get("MASKPACK_CHROMIUM") or shutil.which("chromium") or ""
MODULES = os.environ.get("MASKPACK_NODE_MODULES", "")
PREPARE = Path(__file__).parents[2] / "examples" / "web" / "prepare.py"
TASKS = ("reviews", "tickets")
TEXTS = {
    "reviews": ("A wonderful evening, we were so happy.", "cold food and a rude waiter", "zwölf €"),
    "tickets": ("you charged my card twice", "The parcel never came.", "reset my password " * 40),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (Path(CHROMIUM).is_file() and Path(MODULES, "onnxruntime-web").is_dir()),
        reason="needs Chromium, and MASKPACK_NODE_MODULES",
    ),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Both sample tasks on the real model, 8 bits, learned for a moment; one shared export."""
    root = tmp_path_factory.mktemp("demo")
    config = FitConfig(bits=8, steps=60, batch_size=16, max_length=32)
    for name in TASKS:
        fit_task(FitRequest("demo", find_task(name), root / "artifact", config))
    tolerance = Tolerance.of(Compute.INT8)
    request = SharedRequest(
        root / "artifact", (), root / "all", Compute.INT8, tolerance, verify=False
    )
    export_shared(request)
    return root / "all"


@dataclass
class Site:
    """A served demo page: where it lies and answers, what was asked of it, what it refuses."""

    folder: Path
    url: str = ""
    paths: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


class Handler(SimpleHTTPRequestHandler):
    """Serves a site and keeps a log."""

    def __init__(self, *args, site: Site) -> None:
        self.site = site
        super().__init__(*args, directory=str(site.folder))

    def do_GET(self) -> None:
        self.site.paths.append(self.path)
        if self.path in self.site.refused:
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(exported, tmp_path_factory):
    spec = importlib.util.spec_from_file_location("prepare", PREPARE)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    root = tmp_path_factory.mktemp("site")
    package = write_package(PackageRequest(exported, root / "package", Target.WEB)).out
    prepare.main(package, root / "site", Path(MODULES))
    made = Site(root / "site")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site=made))
    made.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def page(site, tmp_path):
    """The page, opened anew, with the answer of its first task on it."""
    site.paths.clear()
    site.refused.clear()
    with browsing(CHROMIUM, tmp_path / "profile") as tab:
        tab.size(1180, 800)
        tab.call("Page.navigate", url=site.url)
        tab.until("document.querySelector('.bar.best')")
        yield tab


def choose(page: Page, task: str) -> None:
    page.run(f"document.getElementById('task').value = {task!r}")
    page.run("document.getElementById('task').dispatchEvent(new Event('change'))")


def shown(page: Page) -> dict[str, float]:
    """The bars: label -> score."""
    rows = page.run("[...document.querySelectorAll('.bar')].map((bar) => ({...bar.dataset}))")
    return {row["label"]: float(row["score"]) for row in rows}


def typed(page: Page, text: str) -> dict[str, float]:
    """The bars after a text was typed; no button is pressed."""
    page.run("document.getElementById('status').textContent = 'typing'")
    page.run(f"document.getElementById('text').value = {text!r}")
    page.run("document.getElementById('text').dispatchEvent(new Event('input'))")
    page.until("document.getElementById('status').textContent.startsWith('answered')")
    return shown(page)


def test_answers_are_those_of_the_runtime(page, exported):
    session = Session(exported)
    for task in TASKS:
        choose(page, task)
        labels = session.config(task).labels
        page.until(f"document.querySelectorAll('.bar').length === {len(labels)}")
        for text in TEXTS[task]:
            (want,) = session.predict([text], task=task, batch_size=1)
            found = typed(page, text)
            assert found == pytest.approx(dict(want.scores), abs=0.05)
            best, second = sorted(want.scores.values(), reverse=True)[:2]
            if best - second > 0.1:  # else both classes are within the tolerance
                assert max(found, key=found.get) == want.label
                assert page.run("document.querySelector('.best').dataset.label") == want.label


def test_a_switch_downloads_the_task_and_no_second_backbone(page, site):
    first, second = TASKS
    before = len(site.paths)
    assert site.paths.count("/package/backbone.bin") == 1
    choose(page, second)
    page.until("document.querySelector('.bar[data-label=billing]')")
    assert sorted(site.paths[before:]) == [f"/package/{second}.json", f"/package/{second}.onnx"]
    choose(page, first)
    page.until("document.querySelector('.bar[data-label=positive]')")
    assert len(site.paths) == before + 2
    files = [site.folder / "package" / f"{second}.{kind}" for kind in ("json", "onnx")]
    size = sum(path.stat().st_size for path in files)
    assert size < 300_000
    assert page.run("document.getElementById('switch').textContent") == f"{size / 1e6:.2f} MB"


def test_the_page_tells_the_bytes_of_every_file(page, site):
    rows = page.run("[...document.querySelectorAll('.file')].map((row) => ({...row.dataset}))")
    found = {row["file"]: int(row["size"]) for row in rows}
    own = {path.name: path.stat().st_size for path in site.folder.rglob("*") if path.is_file()}
    names = {"backbone.bin", "tokenizer.json", "reviews.onnx", "ort-wasm-simd-threaded.wasm"}
    assert {name: found[name] for name in names} == {name: own[name] for name in names}
    total = sum(found.values())
    assert page.run("document.getElementById('total').textContent") == f"{total / 1e6:.1f} MB"


def test_nothing_is_asked_of_any_other_server(page, site):
    asked = page.requested()
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((site.url, "data:", "blob:"))] == []


def test_a_task_that_cannot_be_loaded_is_told_and_can_be_tried_again(page, site):
    site.refused.add("/package/tickets.onnx")
    choose(page, "tickets")
    page.until("document.querySelector('.failed')")
    told = page.run("document.getElementById('status').textContent")
    assert told == "tickets: cannot load tickets.onnx: 503"
    assert shown(page) == {}, "the answers of another task stay"
    site.refused.clear()
    choose(page, "tickets")
    page.until("document.querySelector('.bar[data-label=billing]')")


def test_an_answer_on_its_way_is_not_shown_under_another_task(page, site):
    site.refused.add("/package/tickets.onnx")
    page.run(
        "document.querySelector('.chip:last-child').click(),"  # in one turn: nothing is answered between
        "document.getElementById('task').value = 'tickets',"
        "document.getElementById('task').dispatchEvent(new Event('change'))"
    )
    page.until("document.querySelector('.failed')")
    page.run("new Promise((done) => setTimeout(done, 500))")
    assert shown(page) == {}


def test_a_first_task_that_cannot_be_loaded_leaves_the_others_to_choose(page, site):
    site.refused.add("/package/reviews.onnx")
    page.call("Page.navigate", url=site.url)
    page.until("document.querySelector('.failed')")
    assert not page.run("document.getElementById('task').disabled")
    choose(page, "tickets")
    page.until("document.querySelector('.bar[data-label=billing]')")
    assert page.run("document.querySelector('.bar .name').title") in shown(page)


@pytest.mark.parametrize("width", [320, 390, 1180])
def test_nothing_sticks_out_of_a_narrow_screen(page, width):
    page.size(width, 800)
    assert page.run("document.documentElement.scrollWidth") <= width
