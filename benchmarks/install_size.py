"""What an installation costs, and what runs without an extra.

python benchmarks/install_size.py --work /tmp/install --out docs/results/install_size.json

Builds the wheel and installs it into a fresh environment for each extra, with the pins of constraints.txt. Each
gets its MB on disk (files below site-packages, those of pip left out) and its number of packages. Where
everything is installed `compress demo` runs; in the base environment its artifact and its export are then
read, changed and asked, and seconds and memory of fresh processes are measured. `--demo FOLDER` takes what an
earlier `compress demo -o FOLDER` kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("", "fit", "export", "demo", "all")
PROCESSES = 7  # of each probe that count; one more comes first, for files to be read once
MB = 1e6

_MEASURE = """
import json, sys, time
began, worked = time.perf_counter(), time.process_time()
{code}
seconds, cpu = time.perf_counter() - began, time.process_time() - worked
line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(json.dumps([seconds, cpu, int(line.split()[1]) * 1024, len(sys.modules)]))
"""
PROBES = {
    "nothing": "",
    "import maskpack.runtime": "import maskpack.runtime",
    "from maskpack.runtime import Session": "from maskpack.runtime import Session",
    "a Session that answered one text": "from maskpack.runtime import Session\n"
    "Session('tickets-onnx', threads=1).predict(['where is my parcel'])",
}
COMMANDS = """
    --help
    tasks
    inspect artifact
    check artifact
    pack artifact -t tickets -o tickets.patch
    remove other -t tickets
    unpack tickets.patch other
    rename other -t tickets --name renamed
    diff artifact artifact
    overlap artifact
    remove third -t tickets
    remove third -t reviews
    merge third artifact
    push artifact me/demo --dry-run
    predict tickets-onnx --texts texts.txt
    materialize tickets-onnx -o ready
    package tickets-onnx -o tickets-ort --target ort
    package tickets-onnx -o tickets-web.zip --target web
    fit demo -t tickets -o new
    eval artifact -t tickets
    export artifact --onnx -t tickets -o new
    demo
"""
"""Run in the base environment; the last four need an extra and say which."""


def run(*command: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )


def must(*command: str | Path, **options) -> str:
    done = run(*command, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def python_of(environment: Path) -> Path:
    return environment / "bin/python"


def disk(environment: Path) -> dict[str, int]:
    """Bytes of each folder or file directly below site-packages, pip and what venv brings left out."""
    (site,) = environment.glob("lib/python*/site-packages")
    passed_over = ("pip", "setuptools", "_distutils_hack", "distutils-precedence", "pkg_resources")
    return {
        path.name: sum(f.lstat().st_size for f in [path, *path.rglob("*")] if f.is_file())
        for path in site.iterdir()
        if not path.name.startswith(passed_over)
    }


def install(wheel: Path, extra: str, work: Path) -> dict[str, object]:
    """An environment with the wheel and an extra, and what it takes; one that is there is measured as it is."""
    environment = work / (extra or "base")
    pip = [python_of(environment), "-m", "pip", "--disable-pip-version-check"]
    if not environment.is_dir():
        must(sys.executable, "-m", "venv", environment)
        what = f"{wheel}[{extra}]" if extra else wheel
        must(*pip, "install", "-c", ROOT / "constraints.txt", what)
    must(*pip, "check")
    held = json.loads(must(*pip, "list", "--format", "json"))
    versions = {
        one["name"]: one["version"] for one in held if one["name"] not in {"pip", "setuptools"}
    }
    sizes = disk(environment)
    heaviest = sorted(sizes, key=lambda name: -sizes[name])[:8]
    return {
        "mb": round(sum(sizes.values()) / MB, 1),
        "packages": len(versions),
        "heaviest_mb": {name: round(sizes[name] / MB, 1) for name in heaviest},
        "torch": versions.get("torch"),  # all others are those of constraints.txt
    }


def probe(environment: Path, code: str, folder: Path) -> dict[str, float]:
    """Medians over fresh processes: seconds by the clock and of the processor, resident memory, modules."""
    found = [
        json.loads(must(python_of(environment), "-c", _MEASURE.format(code=code), cwd=folder))
        for _ in range(PROCESSES + 1)
    ][1:]
    seconds, cpu, memory, modules = zip(*found, strict=True)
    return {
        "seconds": round(statistics.median(seconds), 3),
        "cpu_seconds": round(statistics.median(cpu), 3),
        "rss_mb": round(statistics.median(memory) / MB, 1),
        "modules": modules[0],
    }


def try_commands(environment: Path, folder: Path) -> list[dict[str, object]]:
    """Exit code and last line of each command."""
    found = []
    for line in COMMANDS.strip().splitlines():
        done = run(environment / "bin/compress", *line.split(), cwd=folder)
        said = (done.stderr or done.stdout).strip().splitlines()
        found.append({"command": line.strip(), "code": done.returncode, "last": said[-1].strip()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for environments")
    parser.add_argument("--demo", type=Path, help="what `compress demo -o` kept before")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    dist = args.work / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    source = args.work / "source"  # a build leaves files beside what it builds
    shutil.rmtree(source, ignore_errors=True)
    unwanted = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info", "tests")
    shutil.copytree(ROOT, source, ignore=unwanted, symlinks=True)
    must(sys.executable, "-m", "build", "--outdir", dist, source)
    (wheel,) = dist.glob("*.whl")
    result: dict[str, object] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "dist_mb": {path.suffix: round(path.stat().st_size / MB, 2) for path in dist.iterdir()},
    }
    result["environments"] = {extra or "base": install(wheel, extra, args.work) for extra in EXTRAS}
    folder = args.work / "try"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    demo = args.demo
    if demo is None:
        demo = args.work / "kept"
        shutil.rmtree(demo, ignore_errors=True)
        must(args.work / "all/bin/compress", "demo", "-q", "-o", demo, cwd=folder)
    for name in ("artifact", "other", "third"):
        shutil.copytree(demo / "artifact", folder / name)
    shutil.copytree(demo / "tickets-onnx", folder / "tickets-onnx")
    (folder / "texts.txt").write_text("where is my parcel\n", encoding="utf-8")
    base = args.work / "base"
    result["probes"] = {name: probe(base, code, folder) for name, code in PROBES.items()}
    result["commands"] = try_commands(base, folder)
    args.out.write_text(json.dumps(result, indent=2) + os.linesep, encoding="utf-8")
    for name, one in result["environments"].items():
        print(f"{name:8} {one['mb']:8} MB {one['packages']:4} packages")
    for name, one in result["probes"].items():
        print(
            f"{one['seconds']:.2f} s, of the processor {one['cpu_seconds']:.2f} s {one['rss_mb']:6} MB  {name}"
        )
    for one in result["commands"]:
        print(one["code"], one["command"], "|", one["last"])


if __name__ == "__main__":
    main()
