"""The demo page in a real browser: its answers are those of the runtime, and a switch is a small download.

Playwright drives the Chromium of this machine: `chromium` on the path, or what the environment variable
MASKPACK_CHROMIUM names. Skipped unless one is there, and MASKPACK_NODE_MODULES as in
tests/exporters/test_package_web.py. MASKPACK_WEB_PICTURE names a PNG to write.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

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
    """A served demo page.

    Attributes:
        folder: where it lies.
        url: where it answers.
        paths: what was asked of it, in order.
        refused: paths that it answers with an error.
        asked: all addresses that the page asked for, of this server or another.
    """

    folder: Path
    url: str = ""
    paths: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


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

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # what is asked for again is seen here
        super().end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(exported, tmp_path_factory):
    spec = importlib.util.spec_from_file_location("prepare", PREPARE)
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    root = tmp_path_factory.mktemp("site")
    request = PackageRequest(exported, root / "package", Target.WEB, gzip=True)
    package = write_package(request).out
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


@pytest.fixture(scope="module")
def browser():
    """Chromium, which finds no server but those of this machine."""
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[rules])
        yield opened
        opened.close()


@pytest.fixture
def page(site, browser):
    """The page in a fresh profile, with the answer of its first task on it."""
    site.paths.clear()
    site.refused.clear()
    site.asked.clear()
    tab = browser.new_page(viewport={"width": 1180, "height": 800})
    tab.set_default_timeout(60_000)
    tab.on("request", lambda request: site.asked.append(request.url))
    tab.goto(site.url)
    tab.wait_for_selector(".bar.best")
    yield tab
    tab.context.close()


def choose(page: Page, task: str, label: str) -> None:
    """Choose a task in the menu and wait for the bar of one of its labels."""
    page.select_option("#task", task)
    page.wait_for_selector(f".bar[data-label={label}]")


def shown(page: Page) -> dict[str, float]:
    """The bars: label -> score."""
    bars = page.query_selector_all(".bar")
    return {bar.get_attribute("data-label"): float(bar.get_attribute("data-score")) for bar in bars}


def typed(page: Page, text: str) -> dict[str, float]:
    """The bars after a text was typed; no button is pressed."""
    page.evaluate("document.getElementById('status').textContent = 'typing'")
    page.fill("#text", text)
    page.wait_for_selector("#status:text('answered')")
    return shown(page)


def test_answers_are_those_of_the_runtime(page, exported):
    session = Session(exported)
    for task in TASKS:
        choose(page, task, session.config(task).labels[0])
        for text in TEXTS[task]:
            (want,) = session.predict([text], task=task, batch_size=1)
            found = typed(page, text)
            assert found == pytest.approx(dict(want.scores), abs=0.05)
            best, second = sorted(want.scores.values(), reverse=True)[:2]
            if best - second > 0.1:  # else both classes are within the tolerance
                assert max(found, key=found.get) == want.label
                assert page.get_attribute(".best", "data-label") == want.label


def test_a_switch_downloads_the_task_and_no_second_backbone(page, site):
    before = len(site.paths)
    assert site.paths.count("/package/backbone.bin.gz") == 1
    choose(page, "tickets", "billing")
    assert sorted(site.paths[before:]) == ["/package/tickets.json", "/package/tickets.onnx.gz"]
    choose(page, "reviews", "positive")
    assert len(site.paths) == before + 2
    files = [site.folder / "package" / f"tickets.{kind}" for kind in ("json", "onnx.gz")]
    size = sum(path.stat().st_size for path in files)
    assert size < 300_000
    assert page.text_content("#switch") == f"{size / 1e6:.2f} MB"


def test_the_page_tells_the_bytes_of_every_file(page, site):
    rows = page.query_selector_all(".file")
    found = {row.get_attribute("data-file"): int(row.get_attribute("data-size")) for row in rows}
    own = {path.name: path.stat().st_size for path in site.folder.rglob("*") if path.is_file()}
    plain = {"backbone.bin", "tokenizer.json", "reviews.onnx", "ort-wasm-simd-threaded.wasm"}
    names = {f"{name}.gz" for name in plain}
    assert {name: found[name] for name in names} == {name: own[name] for name in names}
    assert page.text_content("#total") == f"{sum(found.values()) / 1e6:.1f} MB"


def test_nothing_is_asked_of_any_other_server(page, site):
    assert len(site.asked) > 10
    assert [url for url in site.asked if not url.startswith((site.url, "data:", "blob:"))] == []


def test_a_task_that_cannot_be_loaded_is_told_and_can_be_tried_again(page, site):
    site.refused.add("/package/tickets.onnx.gz")
    page.select_option("#task", "tickets")
    page.wait_for_selector(".failed")
    assert page.text_content("#status") == "tickets: cannot load tickets.onnx.gz: 503"
    assert shown(page) == {}, "the answers of another task stay"
    site.refused.clear()
    page.dispatch_event("#task", "change")
    page.wait_for_selector(".bar[data-label=billing]")


def test_an_answer_on_its_way_is_not_shown_under_another_task(page, site):
    site.refused.add("/package/tickets.onnx.gz")
    page.evaluate(
        "document.querySelector('.chip:last-child').click(),"  # in one turn: nothing is answered between
        "document.getElementById('task').value = 'tickets',"
        "document.getElementById('task').dispatchEvent(new Event('change'))"
    )
    page.wait_for_selector(".failed")
    page.wait_for_timeout(500)
    assert shown(page) == {}


def test_a_first_task_that_cannot_be_loaded_leaves_the_others_to_choose(page, site):
    site.refused.add("/package/reviews.onnx.gz")
    page.goto(site.url)
    page.wait_for_selector(".failed")
    assert page.is_enabled("#task")
    choose(page, "tickets", "billing")
    assert page.get_attribute(".bar .name", "title") in shown(page)


@pytest.mark.parametrize("width", [320, 390, 1180])
def test_nothing_sticks_out_of_a_narrow_screen(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_picture_of_the_page_is_as_wide_as_its_window(page, tmp_path):
    """`docs/web-demo.png` is such a picture."""
    picture = Path(os.environ.get("MASKPACK_WEB_PICTURE", tmp_path / "page.png"))
    choose(page, "tickets", "billing")
    typed(page, "The parcel came late and I was charged twice for it.")
    page.screenshot(path=picture, full_page=True)
    width, height = struct.unpack_from(">II", picture.read_bytes(), 16)  # of the PNG's header
    assert (width, height > 500) == (1180, True)
