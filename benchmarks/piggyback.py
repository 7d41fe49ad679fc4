"""Piggyback's own field in small: a ViT that knows some digits learns others through a mask (Mallya et al. 2018, arXiv 1801.06519).

    python benchmarks/piggyback.py --work /tmp/piggyback --out docs/results/piggyback.json

For each seed a small ViT is trained from random weights on the digits 0 to 4 of scikit-learn's `load_digits` (8 x 8 pixels), in plain
torch. On the digits 5 to 9 then are learned: a mask over its integers at 4 and 8 bits, without a teacher and with the dense model as
teacher; its head alone; and all of its weights. Three tenths of each digit are for evaluation. Prints a table with mean and
standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    run_baseline,
)
from maskpack.exporters import ExportRequest, Tolerance, export_onnx
from maskpack.tasks import find_task

OLD, NEW = range(5), range(5, 10)
SIZE, PATCH, WIDTH, LAYERS, HEADS = 8, 2, 64, 4, 4
EVALUATED = 0.3
HEAD_LR, LR = 1e-2, 1e-3
NAMES = ("zero", "one", "two", "three", "four")


def write_folders(place: Path) -> None:
    """`old` and `new`, each with `train` and `validation` and a folder for each digit."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, SIZE, SIZE) * 255 / 16).round().astype(np.uint8)
    for name, digits in (("old", OLD), ("new", NEW)):
        for digit in digits:
            own = pixels[labels == digit]
            cut = round(len(own) * (1 - EVALUATED))
            for split, some in (("train", own[:cut]), ("validation", own[cut:])):
                home = place / name / split / str(digit)
                home.mkdir(parents=True, exist_ok=True)
                for number, each in enumerate(some):
                    Image.fromarray(each).save(home / f"{number:03}.png")


def read_all(folder: Path, processor: ViTImageProcessor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and labels of a split of the old digits."""
    paths = sorted(folder.glob("*/*.png"))
    pictures = [Image.open(path).convert("RGB") for path in paths]
    values = processor(pictures, return_tensors="pt")["pixel_values"]
    return values, torch.tensor([int(path.parent.name) for path in paths])


def pretrain(data: Path, out: Path, *, seed: int, epochs: int) -> float:
    """Train a ViT on the old digits, shifted by up to a pixel; its accuracy on those for evaluation."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    shape |= {"intermediate_size": 2 * WIDTH, "image_size": SIZE, "patch_size": PATCH}
    named = dict(enumerate(NAMES))  # else a head of as many labels would be taken over
    model = ViTForImageClassification(ViTConfig(**shape, id2label=named))
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    values, labels = read_all(data / "train", processor)
    steps = epochs * -(-len(values) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.from_numpy(rng.permutation(len(values)))
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            shift = tuple(int(each) for each in rng.integers(-1, 2, 2))
            found = model(torch.roll(values[rows], shift, dims=(2, 3)), labels=labels[rows])
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
            rate.step()
    model.eval().save_pretrained(out)
    processor.save_pretrained(out)
    values, labels = read_all(data / "validation", processor)
    with torch.no_grad():
        right = model(values).logits.argmax(dim=1) == labels
    return float(right.float().mean())


def compare(model: Path, data: Path, work: Path, *, seed: int, epochs: int) -> list[dict]:
    """A line for each method on the new digits."""
    task = find_task("digits", text_field="image", label_field="label", kind="image-classification")
    usual = {"epochs": epochs, "seed": seed, "head_lr": HEAD_LR, "precision": "fp32"}
    lines = []
    dense = work / "dense"
    for method in ("head", "full"):
        config = BaselineConfig(**usual, method=method, lr=LR if method == "full" else None)
        out = dense if method == "full" else None
        lines.append(
            line(method, run_baseline(BaselineRequest(str(model), task, config, out, data=data)))
        )
    for bits in (4, 8):
        for teacher in ("none", "dense"):
            named = str(dense) if teacher == "dense" else "none"
            config = FitConfig(**usual, bits=bits, teacher=named)
            out = work / f"mask-{bits}-{teacher}"
            run = fit_task(FitRequest(str(model), task, out, config, data=data))
            lines.append(
                line(f"mask, {bits} bits, teacher {teacher}", run) | graph(out, data, work)
            )
    return lines


def line(how: str, run) -> dict:
    kept = ("steps", "seconds", "mask_bytes", "head_bytes", "zeros", "weights")
    facts = {name: getattr(run, name) for name in kept}
    return {"how": how, "accuracy": run.score, "majority": run.majority[run.metric], **facts}


def graph(artifact: Path, data: Path, work: Path) -> dict:
    """What int8 rounding of the graph changes."""
    out = work / f"{artifact.name}-onnx"
    tolerance = Tolerance(None, 100.0)
    report = export_onnx(ExportRequest(artifact, "digits", out, "int8", tolerance, data=data))
    return {"int8_accuracy": report.accuracy.graph, "int8_agreement": report.accuracy.agreement}


def table(lines: list[dict]) -> str:
    """Mean and standard deviation of each method over seeds."""
    rows = ["| method | accuracy | int8 graph | same answers | mask, KB |", "|---|---|---|---|---|"]
    for how in dict.fromkeys(line["how"] for line in lines):
        own = [each for each in lines if each["how"] == how]
        told = [spread([each[name] for each in own if name in each]) for name in _FIGURES]
        mask = statistics.mean(each["mask_bytes"] or 0 for each in own) / 1000
        rows.append(f"| {how} | {' | '.join(told)} | {f'{mask:.1f}' if mask else '-'} |")
    return "\n".join(rows)


_FIGURES = ("accuracy", "int8_accuracy", "int8_agreement")


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretraining-epochs", type=int, default=60)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    write_folders(args.work / "data")
    lines, known = [], {}
    for seed in args.seeds:
        began, work = time.perf_counter(), args.work / f"seed-{seed}"
        old = args.work / "data" / "old"
        known[seed] = pretrain(old, work / "vit", seed=seed, epochs=args.pretraining_epochs)
        print(
            f"seed {seed}: {known[seed]:.3f} on the old digits, {time.perf_counter() - began:.0f} s"
        )
        new = args.work / "data" / "new"
        found = compare(work / "vit", new, work, seed=seed, epochs=args.epochs)
        lines += [{"seed": seed, **each} for each in found]
        for each in found:
            print(f"  {each['how']}: {each['accuracy']:.3f} in {each['seconds']:.0f} s", flush=True)
    print(table(lines))
    majority = lines[0]["majority"]
    print(f"majority class: {majority:.3f}")
    facts = {"epochs": args.epochs, "pretraining_epochs": args.pretraining_epochs}
    tree = {**facts, "old_accuracy": known, "majority": majority, "lines": lines}
    args.out.write_bytes((json.dumps(tree, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
