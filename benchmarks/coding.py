"""Bytes of real masks under every coding, and the time that a mask of BERT-base's size takes.

python benchmarks/coding.py ARTIFACT:TASK ... --out docs/results/coding.json

Times are processor time of one thread, so that a busy machine does not matter.
"""

from __future__ import annotations

import argparse
import json
import lzma
import time
from collections import Counter
from pathlib import Path

import numpy as np
import zstandard

from maskpack.formats import BitMask, MaskCount, QuantTensor, open_artifact, pack_task
from maskpack.formats.coded import _plain, decode_masks, encode_masks
from maskpack.formats.packed import decode_packed


def row_of(artifact, task: str) -> dict:
    """Sizes and times of one task."""
    patch, linears = artifact.patch(task), artifact.backbone.linears
    started = time.process_time()
    coded = encode_masks(patch.masks, linears)
    written = time.process_time()
    found = decode_masks(coded, linears)
    read = time.process_time()
    assert all(np.array_equal(found[n].packed, m.packed) for n, m in patch.masks.items())
    packed = pack_task(artifact, task)
    decode_packed(packed, backbone=artifact.backbone, manifest=artifact.manifest)
    raw = b"".join(mask.packed.tobytes() for _, mask in sorted(patch.masks.items()))
    plain = [_plain(m.removed(linears[n]), linears[n]) for n, m in patch.masks.items()]
    biases = sum(tensor.size for tensor in artifact.backbone.dense.values())
    width = {name: tensor.shape for name, tensor in linears.items()}
    factors = sum(8 * sum(s) for n, s in width.items() if "query" in n or "value" in n)
    return {
        "task": task,
        "bits": artifact.manifest.scheme.bits,
        "zeros": patch.count.sparsity,
        "raw": len(raw),
        "xz": len(lzma.compress(raw, preset=9)),
        "zstd": len(zstandard.ZstdCompressor(level=19).compress(raw)),
        "gaps": sum(0 if mask.data is None else mask.data.nbytes for mask in plain),
        "entropy": patch.count.entropy_bytes,
        "coded": coded.size,
        "codings": Counter(str(mask.coding) for mask in coded.masks.values()),
        "file": len(packed),
        "lora8_fp16": 2 * factors,
        "dense_fp16": 2 * biases,
        "write_s": written - started,
        "read_s": read - written,
    }


def large(share: float) -> dict:
    """A made-up mask over linears of BERT-base's shapes, in the manner of learned ones."""
    rng = np.random.default_rng(0)
    linears, masks = {}, {}
    for layer in range(12):
        for part, shape in (
            *((name, (768, 768)) for name in ("q", "k", "v", "o")),
            ("up", (3072, 768)),
            ("down", (768, 3072)),
        ):
            name = f"layer.{layer:02d}.{part}.weight"
            codes = np.clip(np.rint(rng.normal(size=shape) * 35), -127, 127).astype(np.int8)
            linears[name] = QuantTensor(
                codes, np.full((shape[0], 1), 0.01, np.float16), 8, shape[1]
            )
            lines = np.outer(*(np.exp(rng.normal(size=size) / 2) for size in shape))
            chance = share * lines * np.exp(-np.abs(codes) / 60)
            removed = rng.random(shape) < chance * share / chance.mean()
            masks[name] = BitMask.from_bool(~removed | (codes == 0))
    count = MaskCount.of(masks)
    started = time.process_time()
    coded = encode_masks(masks, linears)
    written = time.process_time()
    found = decode_masks(coded, linears)
    read = time.process_time()
    assert all(np.array_equal(found[name].packed, mask.packed) for name, mask in masks.items())
    return {
        "weights": count.weights,
        "zeros": count.sparsity,
        "entropy": count.entropy_bytes,
        "coded": coded.size,
        "lanes": coded.lanes,
        "write_s": written - started,
        "read_s": read - written,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", metavar="ARTIFACT:TASK")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for told in arguments.tasks:
        folder, _, task = told.rpartition(":")
        rows.append(row_of(open_artifact(Path(folder)), task))
    print(
        "| task, bits | zeros | raw | xz -9 | zstd -19 | gaps | entropy | **coded** | coded / entropy | file with head | write, read s |"
    )
    print("|" + "---|" * 11)
    for row in rows:
        cells = (
            f"{row[key] / 1e3:,.1f}" for key in ("raw", "xz", "zstd", "gaps", "entropy", "coded")
        )
        print(
            f"| {row['task']}, {row['bits']} | {row['zeros']:.2%} | {' | '.join(cells)} "
            f"| {row['coded'] / row['entropy']:.3f} | {row['file'] / 1e3:,.1f} "
            f"| {row['write_s']:.2f}, {row['read_s']:.2f} |"
        )
    print(f"LoRA r=8 on query and value, fp16: {rows[0]['lora8_fp16'] / 1e3:,.1f}; ", end="")
    print(f"all biases and LayerNorm, fp16: {rows[0]['dense_fp16'] / 1e3:,.1f}")
    base = [large(share) for share in (0.006, 0.2, 0.5)]
    print(
        "| BERT-base's shapes, zeros | entropy | coded | write s | read s |\n|---|---|---|---|---|"
    )
    for row in base:
        print(
            f"| {row['zeros']:.2%} of {row['weights']:,} | {row['entropy'] / 1e3:,.1f} "
            f"| {row['coded'] / 1e3:,.1f} | {row['write_s']:.1f} | {row['read_s']:.1f} |"
        )
    if arguments.out:
        tree = {"tasks": rows, "bert-base": base}
        arguments.out.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
