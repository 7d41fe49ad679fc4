"""Latency of an exported graph beside the dense twin's float32 graph and quantize_dynamic's.

python benchmarks/latency.py --twin DIR --graph DIR --out docs/results/latency.json

All sessions live in one process and take turns; medians; one thread unless told otherwise. Besides
latency: file bytes. `compress bench` measures more; this script takes several graphs of one twin.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import onnxruntime

from maskpack.exporters import make_session
from maskpack.exporters.bench.reference import dense_graph, write_peers
from maskpack.exporters.session import interleaved

SHAPES = ((1, 16), (1, 128), (8, 128))


def peers(twin: Path, folder: Path) -> dict[str, Path]:
    """The dense graph and the ordinary ways to make it smaller and faster."""
    dense = folder / "dense.onnx"
    dense.write_bytes(dense_graph(str(twin)))
    return {"dense fp32": dense, **write_peers(dense, folder)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--twin", type=Path, required=True, help="dense fine-tuned model folder")
    parser.add_argument("--graph", type=Path, nargs="+", required=True, help="exported folders")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=61)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        files = peers(args.twin, Path(folder))
        files |= {f"maskpack {graph.name}": graph / "model.onnx" for graph in args.graph}
        sessions = {name: make_session(path, threads=args.threads) for name, path in files.items()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        times = {
            f"{batch}x{length}": interleaved(sessions, batch=batch, length=length, runs=args.runs)
            for batch, length in SHAPES
        }
    tree = {
        "onnxruntime": onnxruntime.__version__,
        "threads": args.threads,
        "runs": args.runs,
        "bytes": sizes,
        "ms": times,
    }
    print("| graph | bytes | " + " | ".join(f"{shape} ms (x)" for shape in times) + " |")
    print("|---|---|" + "---|" * len(times))
    for name, size in sizes.items():
        cells = [
            f"{found[name]:.2f} ({found['dense fp32'] / found[name]:.2f}x)"
            for found in times.values()
        ]
        print(f"| {name} | {size:,} | " + " | ".join(cells) + " |")
    if args.out:
        args.out.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
