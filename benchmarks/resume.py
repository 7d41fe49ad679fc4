"""`kill -9` in the middle of a second fit, then `--resume`: is the result the uninterrupted one?

python benchmarks/resume.py --out docs/results/resume.json

An artifact with one task is made; a second fit runs once to its end in a copy, and once with kills
at random moments after a checkpoint, after each of which the artifact is checked and the run resumed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fit(task: str, out: Path, args: argparse.Namespace, *extra: str) -> list[str]:
    return [
        *("compress", "fit", args.model, "--task", task, "-o", str(out), "--quiet", "--json"),
        *("--steps", str(args.steps), "--checkpoint-every", str(args.every)),
        *("--batch-size", "16", "--max-length", "48", *extra),
    ]


def is_sound(artifact: Path) -> bool:
    return (
        subprocess.run(["compress", "check", artifact], capture_output=True, check=False).returncode
        == 0
    )


def wait_for_checkpoint(file: Path) -> None:
    """Return when the file is there and newer than at the call."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    for _ in range(3000):
        if file.exists() and file.stat().st_mtime_ns > before:
            return
        time.sleep(0.1)
    raise TimeoutError(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng = random.Random(0)
    work = Path(tempfile.mkdtemp())
    try:
        start, smooth, killed = work / "start", work / "smooth", work / "killed"
        subprocess.run(fit("reviews", start, args, "--bits", "4"), check=True, capture_output=True)
        before = digest(start)
        shutil.copytree(start, smooth)
        shutil.copytree(start, killed)
        subprocess.run(fit("tickets", smooth, args), check=True, capture_output=True)
        sound, unchanged = [], []
        for _ in range(args.kills):
            run = subprocess.Popen(fit("tickets", killed, args, "--resume"), stdout=-3, stderr=-3)
            wait_for_checkpoint(work / ".killed.tickets.unfinished" / "state.safetensors")
            time.sleep(rng.uniform(0.0, 0.5))
            run.kill()
            run.wait()
            sound.append(is_sound(killed))
            unchanged.append(digest(killed) == before)
        subprocess.run(fit("tickets", killed, args, "--resume"), check=True, capture_output=True)
        tree = {
            "steps": args.steps,
            "checkpoint_every": args.every,
            "kills": args.kills,
            "artifact_sound_after_each_kill": sound,
            "artifact_unchanged_after_each_kill": unchanged,
            "same_bytes_as_uninterrupted": digest(killed) == digest(smooth),
            "backbone_unchanged": digest(killed)["backbone.safetensors"]
            == before["backbone.safetensors"],
        }
    finally:
        shutil.rmtree(work)
    print(json.dumps(tree, indent=2))
    if args.out:
        args.out.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
