"""Kill writers at random moments: the artifact must be the old or the new one, the packed file too.

python benchmarks/kill_format.py --kills 600 --out docs/results/kill-format.json

For each action a child process is started on a copy of the same artifact and killed after a random
time, up to a little more than the action takes. Then everything is read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fuzz_format import build, entry_of

from maskpack.formats import (
    add_task,
    check_artifact,
    create_artifact,
    merge_tasks,
    open_artifact,
    pack_task,
    remove_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.writer import write_bytes


def create(root: Path) -> None:
    old = open_artifact(root / "a")
    create_artifact(
        root / "new",
        old.backbone,
        source=old.manifest.source,
        scheme=old.manifest.scheme,
        files={"config.json": old.file("config.json")},
        first=(old.entry("a"), old.patch("a")),
    )


def add(root: Path) -> None:
    patch = open_artifact(root / "a").patch("b")
    add_task(root / "a", entry_of("c", patch), patch)


def replace(root: Path) -> None:
    patch = open_artifact(root / "a").patch("b")
    add_task(root / "a", entry_of("a", patch), patch, replacing=True)


def pack(root: Path) -> None:
    write_bytes(root / "out.patch", pack_task(open_artifact(root / "a"), "a"))


def unpack(root: Path) -> None:
    unpack_task(root / "a", (root / "a" / "b.patch").read_bytes(), name="d")


ACTIONS: dict[str, Callable[[Path], object]] = {
    "create": create,
    "add a task": add,
    "replace a task": replace,
    "pack": pack,
    "unpack": unpack,
    "remove": lambda root: remove_task(root / "a", "a"),
    "rename": lambda root: rename_task(root / "a", "a", "z"),
    "merge": lambda root: merge_tasks(root / "a", open_artifact(root / "b")),
}


def state_of(root: Path) -> object:
    """What readers find; fails if anything they find is not sound."""
    found: dict[str, object] = {}
    for name in ("a", "new"):
        if (root / name).exists():
            findings = check_artifact(root / name)
            assert not findings, findings
            entries = open_artifact(root / name).manifest.tasks.values()
            found[name] = sorted((entry.name, entry.sha256) for entry in entries)
    packed = root / "out.patch"
    found["packed"] = hashlib.sha256(packed.read_bytes()).hexdigest() if packed.exists() else None
    return found


def lay(root: Path) -> None:
    """Artifacts `a`, and `b` with one task under another name."""
    build(root / "a")
    shutil.copytree(root / "a", root / "b")
    remove_task(root / "b", "a")
    rename_task(root / "b", "b", "y")


def attempt(action: Callable[[Path], object], root: Path, after: float) -> bool:
    """Start, wait, kill; whether it was still running."""
    child = os.fork()
    if child == 0:
        action(root)
        os._exit(0)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=600)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rng, counts = random.Random(0), {name: Counter() for name in ACTIONS}
    with tempfile.TemporaryDirectory() as base:
        sound = Path(base) / "sound"
        sound.mkdir()
        lay(sound)
        old, new, spent = state_of(sound), {}, {}
        for name, action in ACTIONS.items():
            root = shutil.copytree(sound, Path(base) / "dry")
            started = time.perf_counter()
            action(root)
            spent[name], new[name] = time.perf_counter() - started, state_of(root)
            assert new[name] != old, name
            shutil.rmtree(root)
        while (
            sum(sum(row[key] for key in ("old", "new")) for row in counts.values())
            < arguments.kills
        ):
            name = rng.choice(list(ACTIONS))
            root = shutil.copytree(sound, Path(base) / "try")
            killed = attempt(ACTIONS[name], root, rng.uniform(0, 1.3 * spent[name]))
            found = state_of(root)
            kind = "old" if found == old else "new" if found == new[name] else "NEITHER"
            counts[name][kind if killed else "too late"] += 1
            assert kind != "NEITHER", (name, found)
            ACTIONS[name](root) if kind == "old" else None  # left-over files do no harm
            assert state_of(root) == new[name]
            shutil.rmtree(root)
    print("| action | killed: old found | killed: new found | neither | ended before the kill |")
    print("|---|---|---|---|---|")
    for name, row in counts.items():
        print(f"| {name} | {row['old']} | {row['new']} | {row['NEITHER']} | {row['too late']} |")
    if arguments.out:
        arguments.out.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
