"""Models with fewer layers, each trained whole against a dense teacher: what units are compared with at the same time a text.

python benchmarks/small_models.py DATA TEACHERS OUT --seed 4

DATA has the folders of units.yaml (`GLUE/...`); TEACHERS is the folder of kept runs beside the results of
`compress sweep`, with `demo-TASK-dense-SEED` in it. `cut-N` is the demo model's lowest N layers, `random-N` has N layers of
random weights (but the same token embeddings' shape and vocabulary), distilled from the same teacher. OUT gets one line a run; runs that
it has are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import BertModel

from maskpack.compressor import BaselineConfig, BaselineRequest, run_baseline
from maskpack.models.load import load_pretrained
from maskpack.tasks import find_task

TASKS = {
    "sst2": ("GLUE/SST-2", {"train_rows": 6000}),
    "cola": ("GLUE/CoLA", {}),
    "qnli": ("GLUE/QNLI-split", {}),
}
CUT, RANDOM = "cut", "random"
MODELS = ((CUT, 3), (CUT, 1), (RANDOM, 3))


def write_model(folder: Path, kind: str, layers: int) -> None:
    """The demo model's lowest layers, or as many of random weights, with its tokenizer."""
    demo = load_pretrained("demo")
    config = copy.deepcopy(demo.model.config)
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    model = BertModel(config)
    if kind == CUT:
        state = {k: v for k, v in demo.model.state_dict().items() if k in model.state_dict()}
        model.load_state_dict(state)
    model.save_pretrained(folder)
    for name, data in demo.files.items():
        if name != "config.json":
            (folder / name).write_bytes(data)


def run(folder: Path, task: str, data: Path, teacher: Path, seed: int) -> dict[str, Any]:
    """One model, trained on one task."""
    where, options = TASKS[task]
    config = BaselineConfig(
        max_length=64, batch_size=32, epochs=3, seed=seed, teacher=str(teacher), **options
    )
    found = run_baseline(BaselineRequest(str(folder), find_task(task), config, data=data / where))
    return {
        "model": folder.name,
        "task": task,
        "seed": seed,
        "metric": found.metric,
        "value": found.scores[found.metric],
        "steps": found.steps,
        "seconds": found.seconds,
        "options": config.record() | {"teacher": "dense"},
    }


def main() -> None:
    """Make the models, train what OUT lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("teachers", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    text = args.out.read_text() if args.out.exists() else ""
    done = {(r["model"], r["task"], r["seed"]) for r in map(json.loads, text.splitlines())}
    models = args.teachers / "small"
    for kind, layers in MODELS:
        folder = models / f"{kind}-{layers}"
        if not folder.exists():
            write_model(folder, kind, layers)
        for task in TASKS:
            if (folder.name, task, args.seed) in done:
                continue
            teacher = args.teachers / f"demo-{task}-dense-{args.seed}"
            row = run(folder, task, args.data, teacher, args.seed)
            with args.out.open("a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
