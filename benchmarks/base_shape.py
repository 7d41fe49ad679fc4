"""An artifact of BERT-base's shape with random weights and masks: speed and memory need no others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from maskpack.compressor.quantization.quantize import quantize_model
from maskpack.formats import BitMask, Patch, Scheme, Source, TaskEntry, add_task, create_artifact
from maskpack.models.load import load_pretrained

FLIPS = 0.01  # share of weights that each mask removes, at random
LABELS = ("no", "yes")
LENGTH = 128


def random_classifier() -> BertForSequenceClassification:
    """12 layers of width 768, 30,522 tokens: 109.5 million random parameters."""
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_labels=len(LABELS))).eval()


def tokenizer_files() -> dict[str, bytes]:
    """BERT's uncased vocabulary, which the demo model brings."""
    return dict(load_pretrained("demo").files)


def write_artifact(folder: Path, *, bits: int, tasks: int) -> None:
    """Quantise the random encoder and add tasks `t0`, `t1`, ... with random masks and heads."""
    model = random_classifier()
    scheme = Scheme(bits, None if bits == 8 else 64, "minmax", 8)
    backbone = quantize_model(model.bert, scheme)
    tree = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    config = json.dumps(tree, indent=2, sort_keys=True) + "\n"
    files = tokenizer_files() | {"config.json": config.encode()}
    source = Source("random/bert-base-shape", None, "bert", "12" * 32)
    create_artifact(folder, backbone, source=source, scheme=scheme, files=files)
    rng = np.random.default_rng(0)
    for number in range(tasks):
        masks = {
            name: BitMask.from_bool(rng.random(tensor.shape, dtype=np.float32) >= FLIPS)
            for name, tensor in backbone.linears.items()
        }
        head = {
            "classifier.weight": rng.normal(0, 0.05, (2, 768)).astype(np.float16),
            "classifier.bias": np.zeros(2, np.float16),
        }
        patch = Patch(masks, head)
        entry = TaskEntry(
            name=f"t{number}",
            file=f"tasks/t{number}.safetensors",
            sha256="0" * 64,
            kind="classification",
            labels=LABELS,
            metric="accuracy",
            scores={"accuracy": 0.5},
            zeros=patch.count.zeros,
            weights=patch.count.weights,
            max_length=LENGTH,
            data={"texts": ["text"]},
        )
        add_task(folder, entry, patch)


def write_model(folder: Path) -> None:
    """The same random classifier as other exporters read it."""
    random_classifier().save_pretrained(folder)
    for name, data in tokenizer_files().items():
        if name != "config.json":
            (folder / name).write_bytes(data)
