"""Time of one training step, in alternation, and peak memory: mask, dense, LoRA r=8, BitFit.

The baselines run as transformers and peft make them; `-quick` gives them the dropout of
`compressor/training/callbacks.py`, which masks (and `compress baseline`) train with. `-taught` follows the hidden
states of a dense teacher, which runs along; `-kept` follows the same states from the disk.

python benchmarks/fit_step.py --out docs/results/fit-step.json

Time: one process, the methods take turns step by step, medians. Memory: one process a method.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from maskpack.exporters.bench.memory import peak_memory

METHODS = (
    *("dense", "mask8", "mask4", "mask8-taught", "mask8-kept", "lora8", "bitfit"),
    *("dense-quick", "lora8-quick"),
)
BASELINES = {"dense": "full", "lora8": "lora", "bitfit": "bitfit"}
BATCH = 32
WARM_UP = 22  # the optimiser looks at the gradients' size in each of its first 20 steps


def build(method: str, model_name: str):
    """A callable that takes one step; what may stand behind a method's name is told above."""
    import torch

    from maskpack.compressor.config import BaselineConfig, FitConfig
    from maskpack.compressor.mask_config import PATTERNS
    from maskpack.compressor.masking.model import build_masked_model
    from maskpack.compressor.quantization.backbone import prepare_backbone
    from maskpack.compressor.trained_parts import trained_groups
    from maskpack.compressor.training.callbacks import Noise, use_fast_dropout
    from maskpack.compressor.training.loss import HiddenStateTeacher, TaskLoss
    from maskpack.compressor.training.step import StepRunner
    from maskpack.compressor.training.train import FlooredAdam, Plan
    from maskpack.formats.schema import CONFIG
    from maskpack.models.build import build_classifier, parameter_shapes
    from maskpack.models.load import load_classifier, load_pretrained
    from maskpack.models.placement import placement_of
    from maskpack.tasks.context import described
    from maskpack.tasks.types import TASK_TYPES

    torch.manual_seed(0)
    noise = Noise(0)
    name, _, addition = method.partition("-")
    labels = np.arange(BATCH, dtype=np.int64) % 2
    kind = TASK_TYPES["classification"]
    task_loss, placement = (
        TaskLoss(kind, labels),
        placement_of(None, "bf16" if ARGS.bf16 else "fp32"),
    )
    if name.startswith("mask"):
        config = FitConfig(bits=int(name[4:]), quantizer="minmax" if name == "mask8" else "mse")
        prepared = prepare_backbone(load_pretrained(model_name), config)
        tree = described(prepared.context.files[CONFIG], kind, ("a", "b"))
        masked = build_masked_model(
            build_classifier(prepared.backbone, tree, seed=0),
            parameter_shapes(tree),
            config,
            pattern=PATTERNS["weight"],
            plan=Plan(1000, BATCH, 0.1, 0),
            rows=None,
            task_loss=task_loss,
            sparsity=None,
        )
        model, groups, noise = masked.model, masked.groups, masked.callbacks[0]
    else:
        model = load_classifier(model_name, outputs=2)
        groups = trained_groups(model, BaselineConfig(method=BASELINES[name]))
        if addition == "quick":
            use_fast_dropout(model, noise)
    optimizer = FlooredAdam(group.settings() for group in groups)
    state_teacher = None
    if addition in {"taught", "kept"}:
        state_teacher = HiddenStateTeacher(load_classifier(model_name, outputs=2).eval(), 3.0)
    model.train()
    rows, count = np.arange(BATCH), [0]
    kept_states = lru_cache(partial(states_on_disk, state_teacher, labels))

    class Loss:
        """The labels' loss, with the teacher's states where there is one."""

        def __init__(self, feeds) -> None:
            width = feeds["input_ids"].shape[1]
            self.state_teacher = kept_states(width) if addition == "kept" else state_teacher

        def __call__(self, logits, rows):
            return task_loss(logits, rows)

    def step(feeds):
        noise.on_step_begin(count[0])
        count[0] += 1
        rows_as_given = SimpleNamespace(feeds=lambda _: feeds)
        return StepRunner(model, optimizer, rows_as_given, Loss(feeds), placement).take(rows)[0]

    return step


def states_on_disk(teacher, labels, length: int):
    """The teacher's states of the batch of a length, as a run keeps them."""
    from maskpack.compressor.training.kept_states import answers_and_states
    from maskpack.tasks.batches import EncodedTokens

    encoded = EncodedTokens([*batch(length)["input_ids"]], None, labels, pad=0)
    return answers_and_states(teacher, encoded, folder=Path(tempfile.gettempdir()))[1]


def batch(length: int):
    ids = np.random.default_rng(0).integers(1000, 20000, (BATCH, length), dtype=np.int64)
    return {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }


def timings() -> dict:
    steps = {method: build(method, ARGS.model) for method in METHODS}
    result = {}
    for length in ARGS.lengths:
        feeds = batch(length)
        spent = {method: [] for method in METHODS}
        for run in range(ARGS.runs + WARM_UP):
            for method, step in steps.items():
                started = time.perf_counter()
                step(feeds)
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
        feeds = batch(64)
        for _ in range(4):
            step(feeds)
        print(peak_memory())  # not getrusage: its peak would include the parent before exec
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
