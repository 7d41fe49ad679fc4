"""Bytes of folded graphs with and without rows of positions behind the task's longest text.

    python benchmarks/positions.py --work WORK --out docs/results/positions.json

The sample task `tickets` over the model `demo` at 4 bits with embeddings of 3, learned in five steps with several `--max-length`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from pathlib import Path

LENGTHS = (16, 64, 128)
FORMS = {"all": "--all-positions", "cut": "--cut-positions"}


def compress(*words: object) -> None:
    """Run a command of maskpack."""
    command = [sys.executable, "-m", "maskpack.cli", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines = []
    for length in LENGTHS:
        artifact, line = given.work / f"a{length}", {"max_length": length}
        bits = ("--bits", "4", "--embedding-bits", "3", "--max-length", length, "--steps", "5")
        if not artifact.exists():
            compress("fit", "demo", "--task", "tickets", "-o", artifact, "--teacher", "none", *bits)
        for name, flag in FORMS.items():
            out = given.work / f"g{length}-{name}"
            if not out.exists():
                compress("export", artifact, "--onnx", "-o", out, flag, "--max-drop", "100")
            data = (out / "model.onnx").read_bytes()
            line |= {name: len(data), f"{name}_gzip": len(gzip.compress(data, mtime=0))}
            graph = json.loads((out / "maskpack_report.json").read_text(encoding="utf-8"))["graph"]
            line |= {f"{name}_told": graph["cut_bytes"]}
        lines.append(line)
        print(json.dumps(line))
    given.out.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
