"""Time and memory of exporting BERT-base's shape: by us, by optimum-onnx, by torch's older exporter.

python benchmarks/export_cost.py --out docs/results/export-cost.json

A fresh process each, in turn; imports are not in the time, and memory is what came on top of them. Ours
starts from an artifact, the others from a transformers folder, all from the disk. What they write differs:
ours integers, theirs float32. Ours is not verified (`--no-verify`), optimum's is not validated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from base_shape import write_artifact, write_model

from maskpack.exporters.bench.result import load_average, this_machine

START = """
import json, logging, sys, time, warnings
from pathlib import Path
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
import onnx, onnxruntime, torch, transformers
from transformers import AutoModelForSequenceClassification
from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory
torch.set_num_threads(1)
source, out = Path(sys.argv[1]), Path(sys.argv[2])
"""
OURS = """
from maskpack.exporters.export import export_onnx, export_shared
from maskpack.exporters.arithmetic.base import Tolerance
from maskpack.exporters.options import Compute, ExportRequest, SharedRequest
tolerance = Tolerance.of(Compute.INT8)
"""
WAYS = {
    "ours, folded int8": (
        OURS,
        "export_onnx(ExportRequest(source, 't0', out, Compute.INT8, tolerance, verify=False))",
    ),
    "ours, shared int8, 1 task": (
        OURS,
        "export_shared(SharedRequest(source, ('t0',), out, Compute.INT8, tolerance, verify=False))",
    ),
    "optimum-onnx, fp32": (
        "from optimum.exporters.onnx import main_export\n",
        "main_export(str(source), output=str(out), task='text-classification', do_validation=False)",
    ),
    "torch.onnx, dynamo=False, fp32": (
        """
out.mkdir()
names = ["input_ids", "attention_mask", "token_type_ids"]
axes = {0: "batch", 1: "sequence"}
""",
        """
model = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
ids = torch.randint(5, 1000, (2, 128))
torch.onnx.export(
    model, (ids, torch.ones_like(ids), torch.zeros_like(ids)), str(out / "model.onnx"), dynamo=False,
    input_names=names, output_names=["logits"], opset_version=18,
    dynamic_axes={name: axes for name in names} | {"logits": {0: "batch"}},
)
""",
    ),
}
MEASURE = """
before = memory_now()
forget_peak()
worked, started = time.process_time(), time.perf_counter()
{work}
print(json.dumps({{
    "seconds": time.perf_counter() - started,
    "cpu_seconds": time.process_time() - worked,
    "peak_mib": peak_memory() - before.rss,
    "before_mib": before.rss,
    "bytes": sum(path.stat().st_size for path in out.iterdir() if path.suffix in {{".onnx", ".bin"}}),
}}))
"""


def export(way: str, source: Path, out: Path) -> dict[str, float]:
    """Run one exporter in a process of its own."""
    prepare, work = WAYS[way]
    code = START + prepare + MEASURE.format(work=work)
    command = [sys.executable, "-c", code, str(source), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    load_before = load_average()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as root:
        artifact, model = Path(root) / "artifact", Path(root) / "model"
        write_artifact(artifact, bits=arguments.bits, tasks=1)
        write_model(model)
        for repeat in range(arguments.repeats):
            for way, told in runs.items():
                out = Path(root) / f"{repeat}{len(told)}{abs(hash(way))}"
                told.append(export(way, artifact if way.startswith("ours") else model, out))
                print(way, told[-1], file=sys.stderr)
    medians = {
        way: {key: statistics.median(run[key] for run in told) for key in told[0]}
        for way, told in runs.items()
    }
    for way, row in medians.items():
        print(
            f"{way}: {row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s of processor time), "
            f"peak {row['peak_mib']:.0f} MiB over {row['before_mib']:.0f} MiB of imports, "
            f"{row['bytes'] / 1e6:.1f} MB"
        )
    machine = this_machine(load_before)
    tree = {"bits": arguments.bits, "machine": machine.__dict__, "median": medians, "runs": runs}
    if arguments.out:
        arguments.out.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
