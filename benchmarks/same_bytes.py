"""Do two commits write the same bytes? Artifacts, packed patches and graphs of both, file by file.

python benchmarks/same_bytes.py 08dfb30 HEAD --work /tmp/same --out docs/results/same_bytes.json

Both commits run on this machine, with the same libraries and one thread, each from a worktree of its
own. The model is `demo`; at 4 and at 8 bits two sample tasks are learned into one artifact in 60
steps with fixed seeds, packed, and exported in every layout. `README.md` of an artifact is left
out: it is prose for people. What a commit wrote stays in the work folder and is not made again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

TASKS = ("reviews", "tickets")
PROSE = "README.md"
LOOSE = (
    "--max-drop",
    "100",
    "--rtol",
    "10",
)  # 60 steps learn little, and a failed export has another name


def commands(bits: int, out: Path) -> list[list[str]]:
    """The command lines that make everything at one width, in their order."""
    artifact = str(out / "artifact")
    fit = ["--steps", "60", "--batch-size", "16", "--max-length", "48", "--precision", "fp32"]
    made = [
        ["fit", "demo", "--task", task, "-o", artifact, "--bits", str(bits), "--seed", "3", *fit]
        for task in TASKS
    ]
    for task in TASKS:
        made.append(["pack", artifact, "-t", task, "-o", str(out / f"{task}.maskpack")])
        export = ["export", artifact, "--onnx", "--task", task, "-o", str(out / task)]
        made.append([*export, *LOOSE])
    first = ["export", artifact, "--onnx", "--task", TASKS[0], "--no-verify"]
    made += [[*first, "--compute", one, "-o", str(out / one)] for one in ("fp32", "nbits")]
    several = ["export", artifact, "--onnx", "--layout"]
    made += [
        [*several, "shared", "-o", str(out / "shared"), *LOOSE],
        [*several, "swap", "-o", str(out / "swap"), *LOOSE],
        [*several, "shared", "--packed", "--no-verify", "-o", str(out / "narrow")],
        [*several, "shared", "--compute", "nbits", "--no-verify", "-o", str(out / "blocks")],
    ]
    return made


def commit_of(name: str) -> str:
    done = subprocess.run(["git", "rev-parse", name], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make(commit: str, work: Path) -> Path:
    """Run all commands with the code of a commit; returns the folder that holds what they wrote."""
    tree, out = work / f"tree-{commit[:12]}", work / f"out-{commit[:12]}"
    done = out / "done"
    if done.is_file():
        return out
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / ".types"),
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
    }
    run = [sys.executable, "-c", "from maskpack.cli.app import main; main()", "--quiet"]
    for bits in (4, 8):
        folder = out / f"{bits}-bit"
        folder.mkdir(parents=True, exist_ok=True)
        for command in commands(bits, folder):
            print(commit[:12], *command, file=sys.stderr, flush=True)
            subprocess.run([*run, *command], check=True, env=environment, cwd=work)
    done.write_text(commit + "\n")
    return out


def digests(folder: Path) -> dict[str, str]:
    """Path below the folder -> SHA-256 of every file but prose."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {PROSE, "done"}
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--work", type=Path, default=Path("/tmp/same-bytes"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    before, after = (commit_of(name) for name in (args.before, args.after))
    left, right = (digests(make(commit, args.work)) for commit in (before, after))
    differ = sorted(
        name for name in left.keys() | right.keys() if left.get(name) != right.get(name)
    )
    result = {
        "before": before,
        "after": after,
        "files": len(left),
        "bytes": sum((args.work / f"out-{before[:12]}" / name).stat().st_size for name in left),
        "differ": differ,
        "sha256": left,
    }
    if args.out is not None:
        args.out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    for name in differ:
        print(f"differs: {name}")
    print(f"{len(left)} files of {before[:12]}, {len(right)} of {after[:12]}: {len(differ)} differ")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
