"""What a page downloads for its first task, and for a second one: plain files and files under gzip, embeddings of 8 and 3 bits.

    python benchmarks/downloads.py --modules node_modules --work WORK --out docs/results/downloads.json

Two sample tasks over the model `demo`, each learned in five steps: bytes hardly depend on more. `modules` holds onnxruntime-web and
@huggingface/tokenizers. MASKPACK_CHROMIUM, or a `chromium` on the path, opens the demo page of each export, whose own list says what was
downloaded. Archives are those of the target `ort`.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

PREPARE = Path(__file__).parents[1] / "examples" / "web" / "prepare.py"
TASKS = ("reviews", "tickets")
ARTIFACTS = {
    "8 bits": ("--bits", "8"),
    "4 bits": ("--bits", "4"),
    "4 bits, embeddings of 3": ("--bits", "4", "--embedding-bits", "3"),
}
EXPORTS = {"shared": (), "shared, --packed": ("--packed",)}


def compress(*words: object) -> None:
    """Run a command of maskpack."""
    command = [sys.executable, "-m", "maskpack.cli", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of the files of a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder that a server of plain files serves."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


def downloaded(site: Path, chromium: str) -> dict[str, object]:
    """Bytes of each file that the page lists for its first task, their sum, and that of a switch to the second."""
    with served(site) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page()
        page.set_default_timeout(300_000)
        page.goto(url)
        page.wait_for_selector(".bar.best")
        first = listed(page)
        page.select_option("#task", TASKS[1])
        page.wait_for_selector(".bar[data-label=billing]")
        second = sum(listed(page).values()) - sum(first.values())
        browser.close()
    return {"first": sum(first.values()), "switch": second, "files": first}


def listed(page: object) -> dict[str, int]:
    """File -> bytes, as the page says."""
    rows = page.query_selector_all(".file")  # type: ignore[attr-defined]
    return {row.get_attribute("data-file"): int(row.get_attribute("data-size")) for row in rows}


def measure(work: Path, modules: Path, chromium: str) -> Iterator[dict[str, object]]:
    """A line for each artifact, export and form."""
    for name, options in ARTIFACTS.items():
        artifact = work / name.replace(" ", "-")
        if not artifact.exists():
            for task in TASKS:
                compress("fit", "demo", "--task", task, "-o", artifact, "--steps", 5, *options)
        for export, flags in EXPORTS.items():
            if "--packed" in flags and name == "8 bits":
                continue
            graph, package, site = (work / part for part in ("graph", "package", "site"))
            for path in (graph, package, site, work / "all.tar.gz"):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)
            layout = ("--layout", "shared", "--no-verify")
            compress("export", artifact, "--onnx", *layout, *flags, "-o", graph)
            for form in ((), ("--gzip",)):
                shutil.rmtree(package, ignore_errors=True)
                shutil.rmtree(site, ignore_errors=True)
                compress("package", graph, "-o", package, "--target", "web", *form)
                made = ("-o", site, "--modules", modules)
                subprocess.run([sys.executable, PREPARE, package, *made], check=True)
                line = {"artifact": name, "export": export, "gzip": bool(form)}
                yield {**line, **downloaded(site, chromium), "package": sizes(package)}
            archive = work / "all.tar.gz"
            compress("package", graph, "-o", archive, "--target", "ort")
            folder = sum(sizes(graph).values())
            yield {
                "artifact": name,
                "export": export,
                "archive": archive.stat().st_size,
                "folder": folder,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modules", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    chromium = os.environ.get("MASKPACK_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        parser.error("there is no Chromium")
    given.work.mkdir(parents=True, exist_ok=True)
    lines = []
    for line in measure(given.work, given.modules, chromium):
        lines.append(line)
        print(json.dumps({key: value for key, value in line.items() if type(value) is not dict}))
        given.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
