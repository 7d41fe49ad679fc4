"""Time of one training step, in alternation, and peak memory: mask, dense, LoRA r=8, BitFit.

python benchmarks/fit_step.py --out docs/results/fit-step.json

Time: one process, the methods take turns step by step, medians. Memory: one process a method.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

METHODS = ("dense", "mask8", "mask4", "lora8", "bitfit")
BATCH = 32
WARM_UP = 3


def build(method: str, model_name: str):
    """A callable that takes one step."""
    import torch

    from maskpack.compressor.config import FitConfig
    from maskpack.compressor.hub import load_classifier, load_pretrained
    from maskpack.compressor.optimizer import FlooredAdam
    from maskpack.compressor.quantize import quantize_model, scheme_of
    from maskpack.compressor.restore import (
        base_of,
        build_classifier,
        classifier_config,
        head_parameters,
    )
    from maskpack.compressor.surgery import mask_linears
    from maskpack.compressor.train import take_step

    torch.manual_seed(0)
    if method.startswith("mask"):
        pretrained = load_pretrained(model_name)
        backbone = quantize_model(pretrained.model, scheme_of(FitConfig(bits=int(method[4:]))))
        config = classifier_config(pretrained.files["config.json"], ("a", "b"), outputs=2)
        model = build_classifier(backbone, config, seed=0)
        masked = mask_linears(base_of(model), backbone.linears, start=0.01)
        groups = [
            {"params": [layer.score for layer in masked.values()], "lr": 3e-4, "floor": 1.0},
            {"params": list(head_parameters(model).values()), "lr": 1e-3},
        ]
    else:
        model = load_classifier(model_name, outputs=2)
        if method == "lora8":
            import peft

            config = peft.LoraConfig(
                r=8, target_modules=["query", "value"], task_type="SEQ_CLS", lora_alpha=16
            )
            model = peft.get_peft_model(model, config)
        elif method == "bitfit":
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("bias" in name or "classifier" in name)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [{"params": trained, "lr": 1e-4}]
    optimizer = FlooredAdam(groups)
    model.train()

    def step(feeds, labels):
        return take_step(model, optimizer, feeds, labels, bf16=ARGS.bf16)

    return step


def batch(length: int):
    ids = np.random.default_rng(0).integers(1000, 20000, (BATCH, length), dtype=np.int64)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    return feeds, np.arange(BATCH, dtype=np.int64) % 2


def timings() -> dict:
    steps = {method: build(method, ARGS.model) for method in METHODS}
    result = {}
    for length in ARGS.lengths:
        feeds, labels = batch(length)
        spent = {method: [] for method in METHODS}
        for run in range(ARGS.runs + WARM_UP):
            for method, step in steps.items():
                started = time.perf_counter()
                step(feeds, labels)
                if run >= WARM_UP:
                    spent[method].append(time.perf_counter() - started)
        result[str(length)] = {
            method: {
                "median_ms": 1e3 * float(np.median(times)),
                "ratio_to_dense": float(np.median(np.array(times) / np.array(spent["dense"]))),
                "ratio_to_lora8": float(np.median(np.array(times) / np.array(spent["lora8"]))),
            }
            for method, times in spent.items()
        }
    return result


def peak_mb(method: str) -> float:
    command = [sys.executable, __file__, "--memory", method, "--model", ARGS.model]
    command += [] if ARGS.bf16 else ["--fp32"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def main() -> None:
    if ARGS.memory:
        step = build(ARGS.memory, ARGS.model)
        for _ in range(4):
            step(*batch(64))
        # not getrusage: its peak would include the parent before exec
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return
    tree = {
        "model": ARGS.model,
        "batch": BATCH,
        "bf16": ARGS.bf16,
        "runs": ARGS.runs,
        "time": timings(),
        "peak_rss_mib": {method: peak_mb(method) for method in METHODS},
    }
    for length, found in tree["time"].items():
        print(f"batch {BATCH} x {length} tokens")
        print("| method | ms | x dense | x LoRA r=8 | peak MiB (64 tokens) |")
        print("|---|---|---|---|---|")
        for method, row in found.items():
            print(
                f"| {method} | {row['median_ms']:.0f} | {row['ratio_to_dense']:.2f} "
                f"| {row['ratio_to_lora8']:.2f} | {tree['peak_rss_mib'][method]:.0f} |"
            )
    if ARGS.out:
        ARGS.out.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--lengths", type=int, nargs="+", default=[24, 64])
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--fp32", dest="bf16", action="store_false")
    parser.add_argument("--memory", choices=METHODS, help="internal: measure one method")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    ARGS = arguments()
    main()
