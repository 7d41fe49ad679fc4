"""`compress bench` of MiniLM and of BERT-base's shape: all layouts, two widths, many tasks.

python benchmarks/latency_base.py --bits 4 8 --out docs/results
python benchmarks/latency_base.py --artifact ARTIFACT --task sst2 --name minilm-4bit --out docs/results

Without an artifact: random weights of BERT-base's shape and random masks of 1 % flips (`base_shape.py`).
Each gives DIR/bench-NAME.json. Where an artifact has fewer tasks than `--tasks`, graphs are repeated under other
names: what a process holds for a task does not depend on what its mask says.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from base_shape import write_artifact

from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.bench.run import BenchRequest, bench
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.options import Compute, ExportRequest, Layout, SharedRequest
from maskpack.formats import open_artifact
from maskpack.runtime.task import find_tasks


def repeat_tasks(folder: Path, wanted: int) -> None:
    """Copies of a shared folder's graphs under other names, until there are enough."""
    places = list(find_tasks(folder).values())
    for number in range(wanted - len(places)):
        place, name = places[number % len(places)], f"copy{number}"
        shutil.copy(place.graph, folder / f"{name}.onnx")
        config = replace(place.read_config(), name=name)
        (folder / f"{name}.json").write_text(config.to_json())


def measure(artifact: Path, task: str, work: Path, arguments: argparse.Namespace) -> str:
    """Export all layouts and measure them; the result as JSON."""
    folded, shared = work / "folded", work / "shared"
    tolerance = Tolerance.of(Compute.INT8)
    export_onnx(ExportRequest(artifact, task, folded, Compute.INT8, tolerance, verify=False))
    several = SharedRequest(artifact, (), shared, Compute.INT8, tolerance, verify=False)
    export_shared(several)
    swap = replace(several, out=work / "swap", layout=Layout.SWAP)
    export_shared(swap)
    repeat_tasks(shared, arguments.tasks)
    request = BenchRequest(
        folder=shared,
        task=task,
        beside=(folded, swap.out),
        artifact=artifact,
        texts=arguments.texts,
        threads=tuple(arguments.threads),
        runs=arguments.runs,
        seconds=arguments.seconds,
    )
    return bench(request, say=lambda words: print(words, file=sys.stderr)).to_json()


def summary(text: str) -> None:
    """The figures that the goals are about."""
    tree = json.loads(text)
    print("load average", tree["machine"]["load"])
    for variant in tree["variants"]:
        cells = {f"{c['threads']}: {c['batch']}x{c['length']}": c for c in variant["cells"]}
        one = cells["1: 1x128"]
        cost = variant["footprint"]
        print(
            f"{variant['name']}: 1 x 128 {one['speedup']:.2f}x (cpu {one['cpu_speedup']:.2f}x), "
            f"error {variant['error']['relative']:.2%}, load {cost['load_ms']:.0f} ms, "
            f"peak {cost['peak']:.0f} MiB, loaded {cost['loaded']['rss']:.0f} MiB"
        )
    for row in tree["tasks"]:
        print(f"{row['tasks']} tasks: {row['process']['rss']:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--artifact", type=Path)
    parser.add_argument("--task")
    parser.add_argument("--name", default="minilm")
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, required=True, help="folder for bench-NAME.json")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    names = [f"base-{bits}bit" for bits in arguments.bits]
    if arguments.artifact:
        names = [arguments.name]
    for name, bits in zip(names, arguments.bits, strict=False):
        with tempfile.TemporaryDirectory() as root:
            artifact, task = arguments.artifact, arguments.task
            if artifact is None:
                artifact, task = Path(root) / "artifact", "t0"
                write_artifact(artifact, bits=bits, tasks=1)
            task = task or min(open_artifact(artifact).manifest.tasks)
            text = measure(artifact, task, Path(root), arguments)
        print(name)
        summary(text)
        (arguments.out / f"bench-{name}.json").write_text(text)


if __name__ == "__main__":
    main()
