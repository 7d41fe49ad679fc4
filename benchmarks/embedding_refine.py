"""Token embeddings of 2 bits whose rows are learned on text (`compress quantize --embedding-bits 2 --refine N`), beside those of least squared error.

    python benchmarks/embedding_refine.py --data DATA --steps 40 --out docs/results/embedding-refine.json

The demo model with linears of 4 bits, refined on 2,000 paragraphs of the corpus's first half; texts and errors as in `embedding_rows.py`, of the whole
quantised encoder. `dense` is the refined one with the table that it had before: what biases and LayerNorm parameters do alone.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from embedding_rows import Judge, texts_of

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.calibration import Calibration
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
from maskpack.compressor.quantization.refine import refine
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pretrained = load_pretrained("demo")
    base = pretrained.model.float().eval()
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    seen, unseen = texts_of(args.data)
    judge = Judge(base, preprocessor, {name: unseen[name] for name in UNSEEN})
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
