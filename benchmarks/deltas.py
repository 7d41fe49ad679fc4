"""Deltas between releases of artifacts beside the packed task and the whole release under xz.

    python benchmarks/deltas.py --work WORK --out docs/results/deltas.json [--pair NAME OLD NEW]...

Releases of the sample task `tickets` over the model `demo` at 4 bits: other steps, another seed, and another quantiser of the backbone; `--pair` adds
artifacts that are there. Each line is one delta, applied again and compared.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from maskpack.formats import apply_delta, open_artifact, pack_task, write_delta

RELEASES: dict[str, tuple[str, ...]] = {
    "60 steps": ("--steps", "60"),
    "70 steps": ("--steps", "70"),
    "seed 1": ("--steps", "60", "--seed", "1"),
    "minmax": ("--steps", "60", "--quantizer", "minmax"),
    "gptq": ("--steps", "60", "--quantizer", "gptq"),
}
FIRST = "60 steps"


def made(work: Path) -> Iterator[tuple[str, Path, Path]]:
    """Pairs of releases, learned on first use."""
    for name, options in RELEASES.items():
        out = work / name.replace(" ", "-")
        if not out.exists():
            words = ["fit", "demo", "--task", "tickets", "--bits", "4", "-o", str(out), *options]
            command = [sys.executable, "-m", "maskpack.cli", *words]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        if name != FIRST:
            yield f"{FIRST} to {name}", work / FIRST.replace(" ", "-"), out


def measured(name: str, old: Path, new: Path) -> dict[str, object]:
    """Bytes of a delta and of what takes its place."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "x.delta")
        start = time.process_time()
        delta = write_delta(old, new, out)
        wrote, start = time.process_time() - start, time.process_time()
        apply_delta(old, out, Path(folder, "again"))
        applied = time.process_time() - start
        for file in delta.files:
            assert Path(folder, "again", file.name).read_bytes() == (new / file.name).read_bytes()
    artifact = open_artifact(new)
    return {
        "pair": name,
        "delta": delta.bytes,
        "release": delta.new_bytes,
        "release_xz": sum(len(lzma.compress((new / f.name).read_bytes())) for f in delta.files),
        "packed": {task: len(pack_task(artifact, task)) for task in artifact.manifest.tasks},
        "files": {
            f.name: {"way": str(f.way), "base": f.base, "bytes": f.bytes, "delta": f.delta_bytes}
            for f in delta.files
        },
        "seconds": {"write": round(wrote, 1), "apply": round(applied, 1)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pair", nargs=3, action="append", default=[])
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    pairs = [(name, Path(old), Path(new)) for name, old, new in given.pair]
    lines = []
    for name, old, new in (*pairs, *made(given.work)):
        lines.append(measured(name, old, new))
        print(name, lines[-1]["delta"], lines[-1]["packed"], lines[-1]["release_xz"])
        given.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
