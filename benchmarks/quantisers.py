"""Relative error of weights and of layer outputs: every quantiser at every width.

    python benchmarks/quantisers.py --text corpus.txt --out docs/results/quantisers.json

Weights: `||w - w'||^2 / ||w||^2`. Outputs: `||X (w - w')||^2 / ||X w||^2` on sentences that no
quantiser has seen; X are inputs of the float model. Means over all linears.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

WIDTHS = (8, 4, 2, 1)
QUANTIZERS = ("minmax-tensor", "dorefa", "minmax", "mse", "hqq", "gptq")


def main() -> None:
    from maskpack.compressor.config import FitConfig
    from maskpack.compressor.quantization.calibration import (
        Calibration,
        Calibrator,
        calibration_texts,
    )
    from maskpack.compressor.quantization.gptq import output_error
    from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
    from maskpack.models.load import load_pretrained
    from maskpack.tasks.context import ModelContext

    args = arguments()
    pretrained = load_pretrained(args.model)
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    texts = calibration_texts(args.text)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(texts))
    cut = len(texts) * 4 // 5
    seen, unseen = (
        Calibration.of(preprocessor, [texts[i] for i in part])
        for part in (order[:cut], order[cut:])
    )
    parameters = {n: p.detach().numpy() for n, p in pretrained.model.named_parameters()}
    names = [n for n, w in parameters.items() if w.ndim == 2 and "embeddings" not in n]
    judge = Calibrator(pretrained.model, unseen)
    grams = {name: gram for block in judge.blocks(names) for name, gram in block.items()}
    rows = []
    for bits in args.bits or WIDTHS:
        for quantizer in args.quantizer or QUANTIZERS:
            scheme = scheme_of(FitConfig(bits=bits, quantizer=quantizer))
            backbone = quantize_model(pretrained.model, scheme, seen)
            weights, outputs, zeros, size = [], [], 0, 0
            for name, tensor in backbone.linears.items():
                weight = parameters[name]
                lost = np.square(weight - tensor.dequantize()).sum()
                weights.append(float(lost / np.square(weight).sum()))
                outputs.append(output_error(weight, tensor, grams[name]))
                zeros += int((tensor.codes == 0).sum())
                size += tensor.codes.size
            rows.append(
                {
                    "bits": bits,
                    "quantizer": quantizer,
                    "group": scheme.group,
                    "weight_error": float(np.mean(weights)),
                    "output_error": float(np.mean(outputs)),
                    "zero_codes": zeros / size,
                }
            )
            row = rows[-1]
            print(
                f"| {bits} | {quantizer} | {row['weight_error']:.4f} | {row['output_error']:.4f} "
                f"| {row['zero_codes']:.1%} |",
                flush=True,
            )
            if args.out:  # after each: GPTQ takes minutes
                text = args.text.name if args.text else None
                tree = {"model": args.model, "text": text, "rows": rows}
                args.out.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, help="sentences, one a line; default: shipped samples")
    parser.add_argument("--bits", type=int, action="append", choices=WIDTHS, help="default: all")
    parser.add_argument("--quantizer", action="append", choices=QUANTIZERS, help="default: all")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
