"""Time of folded int8 graphs that lost a share of their heads and neurons, beside the whole one. Speed only: nothing is learned.

python benchmarks/units.py --out docs/results/units.json
python benchmarks/units.py --memory --out docs/results/units-speed.json
python benchmarks/units.py --shape base --kept 0.5 0.25

The encoder has the demo model's shape, or BERT-base's, and random weights; random units of every layer are removed. The
graphs take turns in one process and one thread; a ratio is the median over rounds of one ratio a round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from base_shape import SHAPES, add_random_task, random_patch, write_encoder
from session_memory import session_memory

from maskpack.exporters import make_session
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.export import export_shared, write_folder
from maskpack.exporters.options import SharedRequest
from maskpack.exporters.session import quantile, speedup, take_turns, token_feeds
from maskpack.formats import open_artifact
from maskpack.models.units import unit_groups
from maskpack.tasks.context import ModelContext

INPUTS = ((1, 128), (8, 128))
EIGHT = 8  # tasks over one file of weights


def name_of(kept: float, number: int = 0) -> str:
    """Name of a task that keeps a share of the units."""
    return f"kept{kept:g}n{number}".replace(".", "_")


def write_artifact(folder: Path, shape: str, shares: Sequence[float], each: int = 1) -> None:
    """Quantise a random encoder and add some tasks for every share."""
    backbone, config = write_encoder(folder, shape, bits=8)
    groups = unit_groups(config)
    for share, number in itertools.product(shares, range(each)):
        rng = np.random.default_rng(number)
        patch = random_patch(rng, backbone, config.hidden_size, groups, kept=share)
        add_random_task(folder, name_of(share, number), patch)


def graphs_of(folder: Path, shares: Sequence[float]) -> dict[float, Path]:
    """The folded int8 graph of every share."""
    artifact, graphs = open_artifact(folder), {}
    context = ModelContext.of_artifact(artifact)
    for share in shares:
        out = folder.parent / name_of(share)
        out.mkdir()
        write_folder(artifact, context, name_of(share), out, compute="int8")
        graphs[share] = out / "model.onnx"
    return graphs


def measure(graphs: dict[float, Path], runs: int) -> list[dict[str, Any]]:
    """Milliseconds of every graph and its speed against the whole one, for every size of input."""
    sessions = {str(share): make_session(path, threads=1) for share, path in graphs.items()}
    rows = []
    for batch, length in INPUTS:
        feeds = {
            name: token_feeds(session, batch=batch, length=length)
            for name, session in sessions.items()
        }
        spent = take_turns(sessions, feeds, runs=runs)
        whole = spent[str(1.0)].wall
        rows += [
            {
                "batch": batch,
                "length": length,
                "kept": share,
                "ms": quantile(spent[str(share)].wall, 0.5),
                "ms_10": quantile(spent[str(share)].wall, 0.1),
                "ratio": speedup(whole, spent[str(share)].wall),
                "bytes": path.stat().st_size,
            }
            for share, path in graphs.items()
        ]
    return rows


def memory(root: Path, shape: str, shares: Sequence[float]) -> list[dict[str, Any]]:
    """MiB that sessions of eight shared tasks add to a process before their first answer, for every share."""
    write_artifact(root / "eight", shape, shares, EIGHT)
    rows = []
    for share in shares:
        names = tuple(name_of(share, number) for number in range(EIGHT))
        out, usual = root / f"shared{share}", Tolerance.of("int8")
        export_shared(SharedRequest(root / "eight", names, out, "int8", usual, verify=False))
        places = [(str(out / f"{name}.onnx"), None) for name in names]
        rows.append({"kept": share, "tasks": EIGHT, **session_memory(places, answer=False)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="demo")
    parser.add_argument("--kept", type=float, nargs="+", default=[0.5, 0.25, 0.125])
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--memory", action="store_true", help="measure sessions of eight tasks too")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    shares, before = list(dict.fromkeys([1.0, *args.kept])), load_average()
    with tempfile.TemporaryDirectory() as root:
        write_artifact(Path(root) / "artifact", args.shape, shares)
        rows = measure(graphs_of(Path(root) / "artifact", shares), args.runs)
        eight = memory(Path(root), args.shape, shares) if args.memory else []
    print("| kept | input | ms | x | bytes |\n|---|---|---|---|---|")
    for row in rows:
        size = f"{row['batch']} x {row['length']}"
        print(
            f"| {row['kept']:.1%} | {size} | {row['ms']:.2f} | {row['ratio']:.2f} | {row['bytes']:,} |"
        )
    tree = {
        "shape": args.shape,
        "runs": args.runs,
        "machine": vars(this_machine(before)),
        "rows": rows,
        "memory": eight,
    }
    for each in eight:
        print(f"{each['tasks']} shared tasks, {each['kept']:.1%} kept: {each['anon_mib']:.1f} MiB")
    if args.out:
        args.out.write_text(json.dumps(tree, indent=2, sort_keys=True, default=str) + "\n")


if __name__ == "__main__":
    main()
