"""Exported graphs in old releases of ONNX Runtime: do they load, and are the logits the same?

python benchmarks/old_runtimes.py ARTIFACT... --python ENV/bin/python --python ENV/bin/python [--keep DIR]

Each ENV is a throw-away environment with one release, such as `pip install onnxruntime==1.17.3 "numpy<2"`.
Every task of every artifact is exported folded and shared, in every arithmetic, and run here and there on
the same tokens. Prints a line of JSON for each graph and runtime, and exits with 1 if a graph does not load or
its logits are further off than --atol.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.options import Compute, ExportRequest, SharedRequest
from maskpack.formats import open_artifact
from maskpack.runtime.task import find_tasks

SHAPES = ((1, 1), (1, 16), (4, 48), (2, 128))

THERE = """
import json, sys
import numpy as np
import onnxruntime
from pathlib import Path

options = onnxruntime.SessionOptions()
options.log_severity_level = 3
options.intra_op_num_threads = 1
found = {"runtime": onnxruntime.__version__, "graphs": {}}
for graph in sys.argv[2:]:
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        logits = []
        for feeds in json.loads(Path(sys.argv[1]).read_text()):
            batch = {name: np.array(feeds[name], dtype=np.int64) for name in names}
            logits.append(session.run(["logits"], batch)[0].tolist())
        found["graphs"][graph] = logits
    except Exception as error:
        found["graphs"][graph] = str(error).splitlines()[0]
print(json.dumps(found))
"""


def export_all(artifacts: list[Path], root: Path) -> list[Path]:
    """Every task in both layouts and either arithmetic; those already there are kept."""
    graphs = []
    for artifact in artifacts:
        bits = open_artifact(artifact).manifest.scheme.bits
        for compute in Compute:
            if compute is Compute.NBITS and bits == 8:
                continue  # old releases have kernels for blocks of 4 bits only
            if compute is Compute.FP16:
                continue  # its graphs are for GPUs, and share no weights
            tolerance = Tolerance.of(compute)
            out = root / f"{artifact.name}-shared-{compute}"
            if not out.exists():
                export_shared(SharedRequest(artifact, (), out, compute, tolerance, verify=False))
            graphs += [place.graph for place in find_tasks(out).values()]
            for task in open_artifact(artifact).manifest.tasks:
                out = root / f"{artifact.name}-folded-{compute}-{task}"
                if not out.exists():
                    request = ExportRequest(artifact, task, out, compute, tolerance, verify=False)
                    export_onnx(request)
                graphs.append(out / "model.onnx")
    return graphs


def tokens() -> list[dict[str, list[list[int]]]]:
    """Batches of random tokens, the second half of the last row padded."""
    rng, found = np.random.default_rng(0), []
    for rows, width in SHAPES:
        ids, mask = rng.integers(1000, 20000, (rows, width)), np.ones((rows, width), dtype=int)
        if rows > 1:
            mask[-1, width // 2 :] = 0
        types = np.zeros_like(ids)
        feeds = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}
        found.append({name: value.tolist() for name, value in feeds.items()})
    return found


def run(python: str, graphs: list[Path], feeds: Path) -> dict:
    """Logits of every graph in the ONNX Runtime of a Python, or the error's first line."""
    done = subprocess.run(
        [python, "-c", THERE, str(feeds), *map(str, graphs)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def compare(here: dict, there: dict, graph: Path, root: Path) -> dict:
    """One line: how far the logits of a graph are from those of this runtime."""
    wanted, found = here["graphs"][str(graph)], there["graphs"][str(graph)]
    line = {"graph": str(graph.relative_to(root)), "runtime": there["runtime"]}
    if isinstance(found, str):
        return {**line, "error": found, "difference": float("inf")}
    pairs = [(np.array(a), np.array(b)) for a, b in zip(wanted, found, strict=True)]
    agree = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in pairs)
    rows = sum(len(a) for a, _ in pairs)
    largest = max(float(np.abs(a - b).max()) for a, b in pairs)
    return {**line, "difference": largest, "same_class": f"{agree}/{rows}"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--python", action="append", required=True)
    parser.add_argument(
        "--keep", type=Path, help="folder for the exports; used again if it has them"
    )
    parser.add_argument("--atol", type=float, default=0.06)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        graphs = export_all(options.artifacts, root)
        feeds = Path(scratch) / "feeds.json"
        feeds.write_text(json.dumps(tokens()))
        here = run(sys.executable, graphs, feeds)
        lines = [
            compare(here, there, graph, root)
            for there in (run(python, graphs, feeds) for python in options.python)
            for graph in graphs
        ]
    for line in lines:
        print(json.dumps(line))
    return int(any(line["difference"] > options.atol for line in lines))


if __name__ == "__main__":
    sys.exit(main())
