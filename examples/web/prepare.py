"""Put a demo page together: this folder's page, a web package, and two libraries from npm.

    compress export ARTIFACT --onnx --layout shared -o all
    compress package all -o package --target web --gzip
    python examples/web/prepare.py package -o site
    python -m http.server --bind 127.0.0.1 --directory site

`npm` fetches the libraries, once and here; the page then asks its own server alone. With `--modules` they
are taken from a `node_modules` that is there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

PAGE = Path(__file__).parent
NAMES = ("index.html", "style.css", "app.js", "files.js", "texts.json")
WASM = "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"
VENDORED = (
    "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "@huggingface/tokenizers/dist/tokenizers.min.mjs",
)


def main(package: Path, out: Path, modules: Path | None = None) -> None:
    """Write the folder `out`, which any server of files can serve; it is there whole or not at all."""
    wanted = json.loads((package / "package.json").read_text(encoding="utf-8"))["dependencies"]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        modules = modules or fetch(wanted, folder)
        site = Path(folder, "site")
        (site / "vendor").mkdir(parents=True)
        shutil.copytree(package, site / "package", ignore=shutil.ignore_patterns("node_modules"))
        for name in NAMES:
            shutil.copy(PAGE / name, site / name)
        for name in VENDORED:
            if not name.startswith(tuple(wanted)):  # a package of images needs no tokenizer
                continue
            shutil.copy(modules / name, site / "vendor" / Path(name).name)
        # 14 MB that few servers compress; the page unpacks them (app.js)
        packed = gzip.compress((modules / WASM).read_bytes(), mtime=0)
        (site / "vendor" / f"{Path(WASM).name}.gz").write_bytes(packed)
        site.replace(out)


def fetch(wanted: dict[str, str], folder: str) -> Path:
    """The libraries, fetched by npm into `folder`; their `node_modules`."""
    npm = shutil.which("npm")  # a .cmd on Windows, which is found by its whole name only
    if npm is None:
        raise SystemExit("there is no npm: install Node.js, or give --modules")
    libraries = [f"{name}@{version}" for name, version in wanted.items()]
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]
    subprocess.run([npm, "install", *options, *libraries], check=True)  # noqa: S603
    return Path(folder, "node_modules")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, help="folder of `compress package --target web`")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--modules", type=Path, help="a node_modules with both libraries")
    given = parser.parse_args()
    if not (given.package / "predict.mjs").is_file():
        parser.error(f"{given.package} is no folder of `compress package --target web`")
    if given.out.exists():
        parser.error(f"{given.out} already exists")
    main(given.package, given.out, given.modules)
