"""Read a task's masked weights without torch: numpy and safetensors are enough.

python examples/read_with_numpy.py ARTIFACT TASK
"""

from __future__ import annotations

import sys
from pathlib import Path

from maskpack.formats import open_artifact


def main(path: str, task: str) -> None:
    """Print the zeros of each linear and the norm of its masked weights, then units that stay."""
    artifact = open_artifact(Path(path))
    patch = artifact.patch(task)
    for name, mask in patch.masks.items():
        masked = mask.apply(artifact.backbone.linears[name])
        norm = float((masked.dequantize() ** 2).sum() ** 0.5)
        print(
            f"{name}: {masked.bits} bits, {mask.zeros} of {masked.codes.size} removed, |W| {norm:.2f}"
        )
    for group in () if patch.units is None else patch.units.counts():
        print(f"layer {group.layer}: {group.kept} of {group.count} {group.kind} stay")
    print(f"{task}: {patch.count.sparsity:.2%} of {patch.count.weights:,} weights removed")


if __name__ == "__main__":
    main(*sys.argv[1:3])
