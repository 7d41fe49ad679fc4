"""What the code is made of, and what one verified export builds: two commits beside each other.

python benchmarks/house.py 08dfb30 HEAD --artifact ARTIFACT --out docs/results/house.json

ARTIFACT holds the sample task `reviews`, for example as `benchmarks/same_bytes.py` makes it. Lines and files
are counted as git tracks them. One export of each commit runs under a profile that counts calls; others run
without it, by turns, for the seconds of the whole command.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOTS = ("cli", "compressor", "exporters", "formats", "hub", "models", "report", "runtime", "tasks")
COUNTED = {
    "family_of": "families.py",
    "decode_patch": "codec.py",
    "PreTrainedTokenizerBase.__init__": "tokenization_utils_base.py",
}
"""Function -> end of the file that it stands in."""

_PROFILED = """
import json, sys
counted, found = json.loads(sys.argv.pop(1)), {}
def look(frame, event, arg):
    code = frame.f_code
    if event == "call" and code.co_filename.endswith(counted.get(code.co_qualname, "?")):
        found[code.co_qualname] = found.get(code.co_qualname, 0) + 1
sys.setprofile(look)
from maskpack.cli.app import main
try:
    main()
finally:
    sys.setprofile(None)
    print(json.dumps(found))
"""
_PLAIN = "from maskpack.cli.app import main; main()"


def static(tree: Path) -> dict[str, int]:
    """Lines and files of the product, and the imports from one of its floors to another."""
    files = [path for root in ROOTS for path in sorted((tree / root).rglob("*.py"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    crossing = re.compile(r"^\s*(?:from|import) maskpack\.(\w+)", re.MULTILINE)
    pairs = [
        (path.relative_to(tree).parts[0], name)
        for path, text in texts.items()
        for name in crossing.findall(text)
    ]
    return {
        "modules with one importer": len(single_importers(tree, files)),
        "lines": sum(len(text.splitlines()) for text in texts.values()),
        "files": len(files),
        "imports from exporters to compressor": pairs.count(("exporters", "compressor")),
        "imports from compressor to exporters": pairs.count(("compressor", "exporters")),
    }


def single_importers(tree: Path, files: list[Path]) -> list[str]:
    """Modules that one other module imports; entries of registries and commands are not counted.

    An entry is named by a text such as `maskpack.exporters.layouts.folded:FOLDED`, or imported by the registry in its
    package's `__init__`; a command is imported by `cli/app.py`.
    """
    names = {
        "maskpack." + ".".join(path.relative_to(tree).with_suffix("").parts): path for path in files
    }
    importers: dict[str, set[str]] = {name: set() for name in names}
    for importer, path in names.items():
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            parts: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                parts = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                parts = [name.name for name in node.names]
            for name in set(parts) & importers.keys() - {importer}:
                importers[name].add(importer)
    left_out = {"maskpack.cli.app"}
    return sorted(
        name
        for name, by in importers.items()
        if len(by) == 1 and not by & left_out and not next(iter(by)).endswith("__init__")
    )


def export(tree: Path, artifact: Path, *, profiled: bool) -> tuple[float, dict[str, int]]:
    """One verified export with the code of a tree: its seconds, and its calls if they are counted."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / ".types"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        options = ["--onnx", "--task", "reviews", "-o", f"{folder}/out", "--max-drop", "100"]
        command = [sys.executable, "-c", _PROFILED if profiled else _PLAIN]
        command += [json.dumps(COUNTED)] if profiled else []
        command += ["--quiet", "export", str(artifact), *options]
        began = time.perf_counter()
        done = subprocess.run(
            command, env=environment, cwd=folder, check=True, capture_output=True, text=True
        )
        spent = time.perf_counter() - began
    calls = json.loads(done.stdout.splitlines()[-1]) if profiled else {}
    return spent, {name: calls.get(name, 0) for name in COUNTED} if profiled else {}


def checkout(name: str, work: Path) -> tuple[str, Path]:
    """A commit's digest and a worktree of it."""
    asked = ["git", "rev-parse", name]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    tree = work / f"tree-{commit[:12]}"
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], check=True)
    return commit, tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/house"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    trees = {
        side: checkout(name, args.work)
        for side, name in (("before", args.before), ("after", args.after))
    }
    artifact = args.artifact.resolve()
    found = {
        side: {"commit": commit, **static(tree), "calls": export(tree, artifact, profiled=True)[1]}
        for side, (commit, tree) in trees.items()
    }
    spent: dict[str, list[float]] = {side: [] for side in trees}
    for _ in range(args.runs):
        for side, (_, tree) in trees.items():
            spent[side].append(round(export(tree, artifact, profiled=False)[0], 2))
    for side, seconds in spent.items():
        found[side] |= {"seconds": seconds, "median seconds": statistics.median(seconds)}
    text = json.dumps(found, indent=2)
    if args.out is not None:
        args.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
