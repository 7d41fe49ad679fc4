"""Artifacts of known shapes with random weights and masks: speed and memory need no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from maskpack.compressor.quantization.quantize import quantize_model
from maskpack.formats import (
    Backbone,
    BitMask,
    Patch,
    Scheme,
    Source,
    TaskEntry,
    add_task,
    create_artifact,
)
from maskpack.formats.units import UnitGroup, Units
from maskpack.models.linears import layer_of
from maskpack.models.load import load_pretrained

_DEMO = {"hidden_size": 384, "intermediate_size": 1536}
SHAPES: dict[str, dict[str, int]] = {
    "demo": {"num_hidden_layers": 6, **_DEMO},
    "demo-3": {"num_hidden_layers": 3, **_DEMO},
    "demo-1": {"num_hidden_layers": 1, **_DEMO},
    "base": {},
}
FLIPS = 0.01  # share of weights that each mask removes beside the units, at random
LABELS = ("no", "yes")
LENGTH = 128


def random_classifier(shape: str = "base") -> BertForSequenceClassification:
    """Random parameters; of BERT-base's shape 12 layers of width 768 and 30,522 tokens, 109.5 million of them."""
    torch.manual_seed(0)
    config = BertConfig(num_labels=len(LABELS), **SHAPES[shape])
    return BertForSequenceClassification(config).eval()


def tokenizer_files() -> dict[str, bytes]:
    """BERT's uncased vocabulary, which the demo model brings."""
    return dict(load_pretrained("demo").files)


def write_encoder(folder: Path, shape: str, *, bits: int) -> tuple[Backbone, BertConfig]:
    """Quantise a random encoder into an artifact without tasks."""
    model = random_classifier(shape)
    scheme = Scheme(bits, None if bits == 8 else 64, "minmax", 8)
    backbone = quantize_model(model.bert, scheme)
    tree = {k: v for k, v in model.config.to_dict().items() if not k.startswith("_")}
    config = json.dumps(tree, indent=2, sort_keys=True) + "\n"
    files = tokenizer_files() | {"config.json": config.encode()}
    source = Source(f"random/{shape}-shape", None, "bert", "12" * 32)
    create_artifact(folder, backbone, source=source, scheme=scheme, files=files)
    return backbone, model.config


def random_patch(
    rng: np.random.Generator,
    backbone: Backbone,
    width: int,
    groups: Sequence[UnitGroup] = (),
    *,
    kept: float = 1.0,
    above: int = 0,
) -> Patch:
    """A mask that flips some weights and keeps a share of every group's units, and a head, all at random.

    Args:
        rng: of all choices.
        backbone: of the encoder.
        width: of its hidden states.
        groups: of units.
        kept: share of their units that stays.
        above: layers from below that get no mask, with all that lies in no layer; 0: every linear has one.
    """
    alive = []
    for group in groups:
        bits = np.zeros(group.count, dtype=np.bool_)
        bits[rng.permutation(group.count)[: round(kept * group.count)]] = True
        alive.append(bits)
    units = Units(tuple(groups), tuple(alive)) if groups else None
    shapes = {n: one.shape for n, one in backbone.linears.items() if (layer_of(n) or 0) >= above}
    masks = {n: rng.random(shape, dtype=np.float32) >= FLIPS for n, shape in shapes.items()}
    if units is not None:
        masks |= {name: masks[name] & keep for name, keep in units.masks(shapes).items()}
    head = {
        "classifier.weight": rng.normal(0, 0.05, (len(LABELS), width)).astype(np.float16),
        "classifier.bias": np.zeros(len(LABELS), np.float16),
    }
    packed = {name: BitMask.from_bool(keep) for name, keep in masks.items()}
    return Patch(packed, head, units=units if units is not None and units.removed else None)


def add_random_task(folder: Path, name: str, patch: Patch) -> None:
    """Add a patch to an artifact."""
    entry = TaskEntry(
        name=name,
        file=f"tasks/{name}.safetensors",
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


def write_artifact(folder: Path, *, bits: int, tasks: int) -> None:
    """An artifact of BERT-base's shape with tasks `t0`, `t1`, ..."""
    backbone, config = write_encoder(folder, "base", bits=bits)
    rng = np.random.default_rng(0)
    for number in range(tasks):
        add_random_task(folder, f"t{number}", random_patch(rng, backbone, config.hidden_size))


def write_model(folder: Path) -> None:
    """The same random classifier as other exporters read it."""
    random_classifier().save_pretrained(folder)
    for name, data in tokenizer_files().items():
        if name != "config.json":
            (folder / name).write_bytes(data)
