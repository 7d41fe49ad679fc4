"""Token embeddings of 2 bits whose rows are learned on text (`compress quantize --embedding-bits 2 --refine N`), beside those of least squared error.

    python benchmarks/embedding_refine.py --data DATA --steps 40 --out docs/results/embedding-refine.json
    python benchmarks/embedding_refine.py --data DATA --scales --out docs/results/embedding-scales.json

The demo model with linears of 4 bits, refined on 2,000 paragraphs of the corpus's first half; texts and errors as in `embedding_rows.py`, of the whole
quantised encoder. `dense` is the refined one with the table that it had before: what biases and LayerNorm parameters do alone. `--scales`: tables of 2 bits in the float model whose scales are chosen otherwise: by least squares
for the codes that the search has found, so that a row keeps its length, between the two, and with errors of columns weighted by the squared gains of the
LayerNorm behind the table.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from embedding_rows import Judge, texts_of
from numpy.typing import NDArray

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.calibration import Calibration
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
from maskpack.compressor.quantization.refine import refine
from maskpack.compressor.quantization.rounding import best_levels, encode, quantize_mse
from maskpack.formats import Backbone
from maskpack.models.load import load_pretrained
from maskpack.models.placement import CpuPlacement
from maskpack.tasks.context import ModelContext

SEEN, UNSEEN = "corpus, 2,000 lines", ("corpus", "SST-2", "banking77", "SIB-200 deu_Latn")


def errors(judge: Judge, backbone: Backbone) -> dict[str, dict[str, float]]:
    """Of the encoder with a backbone's weights."""
    own = {name: value.detach().clone() for name, value in judge.model.named_parameters()}
    with torch.no_grad():
        parameters = dict(judge.model.named_parameters())
        for name, tensor in {**backbone.linears, **backbone.embeddings}.items():
            parameters[name].copy_(torch.from_numpy(tensor.dequantize()))
        for name, value in backbone.dense.items():
            parameters[name].copy_(torch.from_numpy(value.astype("f4")))
        found = judge.errors(None)
        for name, value in own.items():
            parameters[name].copy_(value)
    return found


def scale_choices(weight: NDArray[np.float32], gains: NDArray[np.float32]) -> Any:
    """Name of a way to choose scales, and the table of 2 bits that it gives."""
    table, levels = quantize_mse(weight, 2, None), best_levels(2)
    yield "searched", table
    codes = table.codes.astype(np.float32)
    squares = (weight * codes).sum(axis=1) / np.square(codes).sum(axis=1)
    lengths = np.linalg.norm(weight, axis=1) / np.linalg.norm(codes, axis=1)
    for name, scales in (
        ("least squares", squares),
        ("length", lengths),
        ("between", (squares + lengths) / 2),
    ):
        yield name, replace(table, scales=scales[:, None].astype(np.float16))
    full = np.abs(weight).max(axis=1, keepdims=True) / np.float32(levels.limit)
    best, least = full.copy(), np.full_like(full, np.inf)
    for share in np.linspace(1.0, 0.1, 91, dtype=np.float32):
        scale = full * share
        lost = levels.round(weight / np.where(scale > 0, scale, 1)) * scale - weight
        error = (np.square(lost) @ gains**2)[:, None]
        best, least = np.where(error < least, scale, best), np.minimum(error, least)
    yield "gains", encode(weight, best, levels, weight.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--scales", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pretrained = load_pretrained("demo")
    base = pretrained.model.float().eval()
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    seen, unseen = texts_of(args.data)
    judge = Judge(base, preprocessor, {name: unseen[name] for name in UNSEEN})
    if args.scales:
        parameters = {name: value.detach().numpy() for name, value in base.named_parameters()}
        weight = parameters["embeddings.word_embeddings.weight"].copy()
        choices = scale_choices(weight, parameters["embeddings.LayerNorm.weight"])
        found = {name: judge.errors(table) for name, table in choices}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    before = quantize_model(base, scheme_of(BackboneConfig(bits=4, embedding_bits=2)))
    start, losses = time.perf_counter(), []
    after = refine(
        base,
        before,
        Calibration.of(preprocessor, seen[SEEN], pairs=True),
        steps=args.steps,
        placement=CpuPlacement.of("cpu", "fp32"),
        on_progress=lambda news: losses.append(round(float(news.loss), 4)),
    )
    tree: dict[str, Any] = {"steps": args.steps, "seconds": round(time.perf_counter() - start)}
    tree["losses"] = losses
    wide = quantize_model(base, scheme_of(BackboneConfig(bits=4, embedding_bits=3)))
    for name, backbone in (
        ("2 bits", before),
        ("2 bits, refined", after),
        ("2 bits, dense", replace(after, embeddings=before.embeddings)),
        ("3 bits", wide),
    ):
        tree[name] = errors(judge, backbone)
        args.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
