"""The page of a web package itself, in a real browser: a menu of tasks over one graph, and what a switch downloads.

Needs Chromium and MASKPACK_NODE_MODULES, as test_web_demo.py.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
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


def test_a_switch_of_tasks_downloads_the_tasks_inputs_alone(packed):
    folder, source = packed
    session = Session(source)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.wait_for_selector("#out:text('ready')", timeout=60_000)
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
            page.fill("#text", TEXT)
            page.dispatch_event("#text", "change")
            found = {}
            for task in ("first", "second"):
                page.select_option("#task", task)
                page.wait_for_selector(f"""#out:text('"task":"{task}"')""", timeout=60_000)
                found[task] = json.loads(page.text_content("#out"))
            browser.close()
    finally:
        server.shutdown()
        server.server_close()
    assert sorted(asked) == ["second.json", "second.safetensors"]
    for task, answer in found.items():
        (want,) = session.predict([TEXT], task=task)
        assert answer["scores"] == pytest.approx(want.scores, abs=1e-4)
