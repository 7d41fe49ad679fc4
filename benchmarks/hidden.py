"""Hidden networks: a mask over weights that nobody trained, beside dense nets of the same shape (Ramanujan et al. 2019; Malach et al. 2020).

    python benchmarks/hidden.py digits --work /tmp/hidden --out docs/results/hidden-digits.json
    python benchmarks/hidden.py sst2 --data GLUE/SST-2 --work /tmp/hidden --out docs/results/hidden-sst2.json

`digits`: a small ViT on scikit-learn's `load_digits`, all ten, three tenths of each for evaluation. `sst2`: a small BERT with the demo's
tokenizer. Each seed draws a backbone of its own (`random`). Over it are learned: masks by edge-popup and by the default estimator, the
head alone, and all weights from the same start (`full`, codes of 8 bits); and all weights from transformers' own initialisation
(`full, usual start`); `full, rate 0.003` and `edge-popup, signs, rate 0.001` are at other peak rates. Bytes are those of files: the backbone (seed, shapes), and the task as `compress pack` sends it (mask, head).
A line is written to the file as soon as it is measured; lines that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from maskpack.compressor import (
    BaselineConfig,
    BaselineRequest,
    FitConfig,
    FitRequest,
    fit_task,
    run_baseline,
)
from maskpack.formats import open_artifact, pack_task
from maskpack.models.locate import resolve
from maskpack.tasks import Task, find_task

HALF = {"estimator": "edge-popup", "sparsity": 0.5}
MASKS: dict[str, dict[str, Any]] = {
    "edge-popup, signs": {**HALF, "bits": 1},
    "edge-popup, 8 bits": {**HALF, "bits": 8},
    "threshold, signs": {"bits": 1, "margin": 0.3},
}


@dataclass(frozen=True)
class Field:
    """What is learned: a task, its rows, a shape, and a budget."""

    task: Task
    data: Path
    shape: Any
    usual: dict[str, Any]
    score_lr: float
    dense_lr: float


def write_digits(place: Path) -> None:
    """`train` and `validation`, each with a folder for each digit."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8)
    for digit in range(10):
        own = pixels[labels == digit]
        cut = round(len(own) * 0.7)
        for split, some in (("train", own[:cut]), ("validation", own[cut:])):
            home = place / split / str(digit)
            home.mkdir(parents=True, exist_ok=True)
            for number, each in enumerate(some):
                Image.fromarray(each).save(home / f"{number:03}.png")


def digits(work: Path, arguments: argparse.Namespace) -> Field:
    data = work / "digits"
    if not data.exists():
        write_digits(data)
    shape = ViTConfig(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=8,
        patch_size=2,
    )
    task = find_task("digits", text_field="image", label_field="label", kind="image-classification")
    usual = {"epochs": arguments.epochs or 12, "head_lr": 1e-2, "precision": "fp32"}
    return Field(task, data, shape, usual, 1e-2, 1e-3)


def sst2(work: Path, arguments: argparse.Namespace) -> Field:
    del work
    shape = BertConfig(
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=128,
    )
    usual = {"epochs": arguments.epochs or 6, "train_rows": 6000, "max_length": 64}
    return Field(
        find_task("sst2"), arguments.data, shape, {**usual, "precision": "fp32"}, 1e-2, 3e-4
    )


FIELDS = {"digits": digits, "sst2": sst2}


def write_configuration(shape: Any, out: Path) -> None:
    """A folder without weights."""
    if isinstance(shape, ViTConfig):
        ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(out)
    else:
        AutoTokenizer.from_pretrained(resolve("demo")).save_pretrained(out)
    shape.save_pretrained(out)


def write_usual(shape: Any, configuration: Path, out: Path, *, seed: int) -> None:
    """The same with the weights of transformers' initialisation."""
    shutil.copytree(configuration, out, dirs_exist_ok=True)
    torch.manual_seed(seed)
    kind = ViTModel if isinstance(shape, ViTConfig) else BertModel
    kind(shape).save_pretrained(out)


def mask(how: str, field: Field, model: Path, work: Path, *, seed: int) -> dict[str, Any]:
    """A line of a mask over drawn weights."""
    out = work / how.replace(", ", "-").replace(" ", "-")
    shutil.rmtree(out, ignore_errors=True)
    name, _, rate = how.partition(", rate ")
    options = {"lr": float(rate or field.score_lr)} if "edge" in name else {}
    config = FitConfig(**field.usual, **options, **MASKS[name], seed=seed, random=seed)
    run = fit_task(FitRequest(str(model), field.task, out, config, data=field.data))
    packed = len(pack_task(open_artifact(out), field.task.name))
    sizes = {
        "backbone_bytes": run.backbone_bytes,
        "task_bytes": packed,
        "zeros": run.count.sparsity,
    }
    return line(how, run, seed) | sizes


def dense(how: str, field: Field, model: Path, *, seed: int) -> dict[str, Any]:
    """A line of a baseline."""
    method, _, rate = how.partition(",")[0], *how.partition(", rate ")[1:]
    config = BaselineConfig(
        **field.usual,
        seed=seed,
        method=method,
        lr=float(rate or field.dense_lr) if method == "full" else None,
        random=None if "usual" in how else seed,
    )
    run = run_baseline(BaselineRequest(str(model), field.task, config, data=field.data))
    return line(how, run, seed) | {"task_bytes": run.patch_bytes, "weights": run.patch_bytes // 4}


def line(how: str, run: Any, seed: int) -> dict[str, Any]:
    facts = {name: getattr(run, name) for name in ("steps", "seconds", "threads", "train_rows")}
    majority = run.majority[run.metric]
    return {"how": how, "seed": seed, "value": run.score, "majority": majority, **facts}


def table(lines: list[dict[str, Any]]) -> str:
    """Mean and standard deviation of each way over seeds."""
    rows = ["| way | value | seeds | backbone, bytes | task, bytes |", "|---|---|---|---|---|"]
    for how in dict.fromkeys(each["how"] for each in lines):
        own = [each for each in lines if each["how"] == how]
        values = [each["value"] for each in own]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        told = f"{statistics.mean(values):.3f}{spread} | {len(values)}"
        bytes_ = [
            f"{round(statistics.mean(e[k] for e in own)):,}" if k in own[0] else "-"
            for k in ("backbone_bytes", "task_bytes")
        ]
        rows.append(f"| {how} | {told} | {' | '.join(bytes_)} |")
    return "\n".join([*rows, f"| majority class | {lines[0]['majority']:.3f} | | | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("field", choices=FIELDS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--ways", nargs="+", default=[*MASKS, "full", "full, usual start", "head"])
    arguments = parser.parse_args()
    work = arguments.work / arguments.field
    field = FIELDS[arguments.field](work, arguments)
    write_configuration(field.shape, work / "configuration")
    lines = json.loads(arguments.out.read_bytes())["lines"] if arguments.out.exists() else []
    for seed in arguments.seeds:
        usual = work / f"usual-{seed}"
        write_usual(field.shape, work / "configuration", usual, seed=seed)
        for how in arguments.ways:
            if any((each["how"], each["seed"]) == (how, seed) for each in lines):
                continue
            model = usual if "usual" in how else work / "configuration"
            masked = how.partition(", rate ")[0] in MASKS
            run = mask if masked else dense
            more = {"work": work / f"seed-{seed}"} if masked else {}
            lines.append(run(how, field, model, **more, seed=seed))
            print(
                f"seed {seed}, {how}: {lines[-1]['value']:.3f}, {lines[-1]['seconds']:.0f} s",
                flush=True,
            )
            tree = {"field": arguments.field, **field.usual, "lines": lines}
            arguments.out.write_bytes((json.dumps(tree, indent=1) + "\n").encode())
    print(table(lines))


if __name__ == "__main__":
    main()
