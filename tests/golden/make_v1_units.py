"""Make tests/golden/v1-units: tasks with whole units, as patches and packed.

Run once: `python tests/golden/make_v1_units.py`. Do not run it again: the files are the promise, and
`tests/formats/test_golden_units.py` holds their digests.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from maskpack.formats import (
    Backbone,
    BitMask,
    Patch,
    QuantTensor,
    Scheme,
    Source,
    TaskEntry,
    add_task,
    create_artifact,
    open_artifact,
    pack_task,
)
from maskpack.formats.units import COLUMNS, ROWS, UnitGroup, UnitPart, Units

FOLDER = Path(__file__).with_name("v1-units")
SOURCE = Source("example/units", None, "bert", "ab" * 32)
SCHEME = Scheme(2, 60, "mse", 8, {"out": 8})

HIDDEN, HEADS, WIDTH = 120, 4, 4
NEURONS = {0: 40, 1: 500}
KEPT_HEADS = {0: [1, 0, 1, 1], 1: [0, 0, 0, 0]}
SHAPES = {
    "layer.0.qkv.weight": (3 * HEADS * WIDTH, HIDDEN),
    "layer.1.qkv.weight": (3 * HEADS * WIDTH, HIDDEN),
    "layer.0.out.weight": (HIDDEN, HEADS * WIDTH),
    "layer.1.out.weight": (HIDDEN, HEADS * WIDTH),
    "layer.0.up.weight": (NEURONS[0], HIDDEN),
    "layer.1.up.weight": (NEURONS[1], HIDDEN),
    "layer.0.down.weight": (HIDDEN, NEURONS[0]),
    "layer.1.down.weight": (HIDDEN, NEURONS[1]),
    "pooler.weight": (24, HIDDEN),
}


def golden_backbone() -> Backbone:
    """Linears of two widths; those of 8 bits have codes of 0, which units remove too."""
    rng = np.random.default_rng(17)

    def tensor(name: str) -> QuantTensor:
        rows, width = SHAPES[name]
        bits = 8 if ".out." in name else 2
        limit = 3 if bits == 2 else 127
        codes = rng.integers(-limit, limit + 1, size=(rows, width))
        codes = np.where(codes % 2 == 0, codes + 1, codes) if bits == 2 else codes
        group = min(width, 60)
        scales = np.exp(rng.normal(size=(rows, -(-width // group)))) / 8
        return QuantTensor(
            codes.astype(np.int8), scales.astype(np.float16), bits, group, zero_free=bits == 2
        )

    linears = {name: tensor(name) for name in SHAPES}
    return Backbone(linears, {}, {"bias": rng.normal(size=12).astype(np.float16)})


def golden_units() -> Units:
    """Heads in a fused linear, none left in layer 1; neurons of other numbers by layer."""
    groups, kept, rng = [], [], np.random.default_rng(18)
    for layer in (0, 1):
        fused, size = f"layer.{layer}.qkv.weight", HEADS * WIDTH
        parts = [UnitPart(fused, ROWS, first, WIDTH) for first in (0, size, 2 * size)]
        parts.append(UnitPart(f"layer.{layer}.out.weight", COLUMNS, 0, WIDTH))
        groups.append(UnitGroup("heads", layer, HEADS, tuple(parts)))
        kept.append(np.array(KEPT_HEADS[layer], dtype=bool))
        parts = [
            UnitPart(f"layer.{layer}.up.weight", ROWS, 0, 1),
            UnitPart(f"layer.{layer}.down.weight", COLUMNS, 0, 1),
        ]
        groups.append(UnitGroup("neurons", layer, NEURONS[layer], tuple(parts)))
        kept.append(rng.random(NEURONS[layer]) > 0.2 + 0.2 * layer)
    return Units(tuple(groups), tuple(kept))


def golden_patches() -> dict[str, Patch]:
    """Task -> its patch: units alone; units, single weights, and linears of units without a mask."""
    rng, linears, units = np.random.default_rng(19), golden_backbone().linears, golden_units()
    head = {"out.weight": rng.normal(size=(2, 4)).astype(np.float16)}
    alone = units.masks(SHAPES)
    whole = np.ones(SHAPES["pooler.weight"], dtype=bool)
    only = {
        name: BitMask.from_bool(bits) for name, bits in {**alone, "pooler.weight": whole}.items()
    }
    size = np.abs(linears["layer.1.up.weight"].dequantize())
    size *= np.exp(rng.normal(size=size.shape) / 32)
    beside = {
        "layer.1.up.weight": size > np.quantile(size, 0.4),
        "layer.0.out.weight": rng.random(SHAPES["layer.0.out.weight"]) > 0.6,
        "layer.0.qkv.weight": rng.random(SHAPES["layer.0.qkv.weight"]) > 0.01,
        "pooler.weight": rng.random(SHAPES["pooler.weight"]) > 0.5,
    }
    both = dict(only)
    for name, bits in beside.items():
        own = (bits | (linears[name].codes == 0)) & alone.get(name, True)
        both[name] = BitMask.from_bool(own)
    every = {("neurons", 0): np.ones(NEURONS[0], dtype=bool)}
    kept = [every.get((g.kind, g.layer), k) for g, k in zip(units.groups, units.kept, strict=True)]
    for name in ("layer.0.up.weight", "layer.0.down.weight"):
        del both[name]
    return {
        "both": Patch(both, head, units=replace(units, kept=tuple(kept))),
        "only": Patch(only, head, units=units),
    }


def golden_entry(name: str, patch: Patch) -> TaskEntry:
    """The task's entry, as handed to the writer, which adds the feature."""
    return TaskEntry(
        name=name,
        file=f"tasks/{name}.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("no", "yes"),
        metric="accuracy",
        scores={"accuracy": 0.75},
        zeros=patch.count.zeros,
        weights=patch.count.weights,
        max_length=64,
        data={"task": name},
        training={"seed": 1},
    )


def make_golden(folder: Path) -> None:
    """Write the artifact, and beside its manifest each task packed."""
    create_artifact(folder, golden_backbone(), source=SOURCE, scheme=SCHEME, files={})
    for name, patch in golden_patches().items():
        add_task(folder, golden_entry(name, patch), patch)
    for name in golden_patches():
        (folder / f"{name}.patch").write_bytes(pack_task(open_artifact(folder), name))


if __name__ == "__main__":
    make_golden(FOLDER)
