"""Tiny models that read images, and folders of images that they can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

KINDS = ("vit", "deit", "dinov2")
GATED = "dinov2-gated"
"""The form of DINOv2 whose feed-forward layers are gated, as `dinov2-giant` has them."""
SIZE = 8
COLOURS = {"cat": (200, 60, 40), "dog": (60, 200, 40)}
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 2,
    "initializer_range": 0.1,
}


def make_image_model(kind: str, folder: Path, size: int = SIZE) -> Path:
    """Save a two-layer random encoder that reads images, with its image processor, into `folder`."""
    torch.manual_seed(0)
    square = {"height": size, "width": size}
    larger = {"height": size + 2, "width": size + 2}
    if kind == "vit":
        model = transformers.ViTModel(
            transformers.ViTConfig(**_SIZES, intermediate_size=64, image_size=size)
        )
        processor = transformers.ViTImageProcessor(size=square)
    elif kind == "deit":
        model = transformers.DeiTModel(
            transformers.DeiTConfig(**_SIZES, intermediate_size=64, image_size=size)
        )
        processor = transformers.DeiTImageProcessor(size=larger, crop_size=square)
    else:  # with positions for larger images, which it interpolates
        own = {"image_size": size + 4, "use_swiglu_ffn": kind == GATED, "layerscale_value": 0.7}
        model = transformers.Dinov2Model(transformers.Dinov2Config(**_SIZES, **own))
        processor = transformers.BitImageProcessor(
            size={"shortest_edge": size + 2}, crop_size=square
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(label: str, rng: np.random.Generator) -> Image.Image:
    """A noisy image of a label's colour, wider than high."""
    noise = rng.integers(-30, 30, (10, 12, 3))
    return Image.fromarray(np.clip(noise + np.array(COLOURS[label]), 0, 255).astype(np.uint8))


def write_images(folder: Path, *, train: int = 24, dev: int = 8) -> Path:
    """`train/cat/0.png`, ... and `validation/...`; without `dev` the classes alone."""
    rng = np.random.default_rng(0)
    splits = {"train": train, "validation": dev} if dev else {".": train}
    for split, count in splits.items():
        for label in COLOURS:
            home = folder / split / label
            home.mkdir(parents=True)
            for number in range(count):
                ending = "jpg" if number % 3 == 2 else "png"
                picture(label, rng).save(home / f"{number}.{ending}")
    return folder
