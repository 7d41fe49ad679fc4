"""Make tests/golden/v1-packed: an artifact and its tasks as packed patches, every coding among them.

Run once: `python tests/golden/make_v1_packed.py`. Do not run it again: the files are the promise, and
`tests/formats/test_packed.py` holds their digests.
"""

from __future__ import annotations

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

FOLDER = Path(__file__).with_name("v1-packed")
SOURCE = Source("example/packed", None, "bert", "ef" * 32)
SCHEME = Scheme(2, 64, "mse", 8, {"b": 8, "c": 4, "d": 1})


def golden_backbone() -> Backbone:
    """Linears of four widths; one is large enough for the model to pay."""
    rng = np.random.default_rng(7)

    def tensor(rows: int, width: int, bits: int, group: int, *, free: bool) -> QuantTensor:
        limit = 2**bits - 1 if free else 2 ** (bits - 1) - 1
        codes = rng.integers(-limit, limit + 1, size=(rows, width))
        codes = np.where(codes % 2 == 0, codes + 1, codes) if free else codes
        scales = np.exp(rng.normal(size=(rows, -(-width // group)))) / 8
        return QuantTensor(codes.astype(np.int8), scales.astype(np.float16), bits, group, free)

    linears = {
        "a": tensor(220, 402, 2, 64, free=True),
        "b": tensor(12, 24, 8, 24, free=False),
        "c": tensor(20, 30, 4, 8, free=False),
        "d": tensor(9, 17, 1, 5, free=True),
        "e": tensor(70, 130, 8, 130, free=False),
    }
    return Backbone(linears, {}, {"bias": rng.normal(size=12).astype(np.float16)})


def golden_patches() -> dict[str, Patch]:
    """Task -> its patch: one whose masks follow the backbone, one with a mask of each other kind."""
    rng, linears = np.random.default_rng(8), golden_backbone().linears
    head = {"out.weight": rng.normal(size=(2, 4)).astype(np.float16)}

    def small(name: str, quantile: float) -> np.ndarray:
        size = np.abs(linears[name].dequantize()) * np.exp(
            rng.normal(size=linears[name].shape) / 32
        )
        columns = np.exp(rng.normal(size=linears[name].shape[1]) / 16)
        return size * columns > np.quantile(size * columns, quantile)

    def chance(name: str, share: float) -> np.ndarray:
        return rng.random(linears[name].shape) > share

    follows = {"a": small("a", 0.3), "d": chance("d", 0.0), "e": small("e", 0.1)}
    plain = {
        "a": chance("a", 0.0),
        "b": chance("b", 0.5),
        "c": chance("c", 0.02),
        "d": chance("d", 0.1),
    }

    def masks(keep: dict[str, np.ndarray]) -> dict[str, BitMask]:
        """Bits over a code of 0 are set, as writers should."""
        return {n: BitMask.from_bool(bits | (linears[n].codes == 0)) for n, bits in keep.items()}

    gains = {"c": rng.uniform(0.5, 2, size=20).astype(np.float16)}
    return {
        "follows": Patch(masks(follows), head),
        "plain": Patch(masks(plain), head, {"bias": np.ones(12, np.float16)}, gains),
    }


def golden_entry(name: str, patch: Patch) -> TaskEntry:
    """The task's entry, as handed to the writer."""
    return TaskEntry(
        name=name,
        file=f"tasks/{name}.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("no", "sí"),
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
