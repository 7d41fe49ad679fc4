"""Learn two tasks on one 4-bit backbone and show what each of them costs.

python examples/two_tasks.py [MODEL] [STEPS]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from maskpack.compressor import FitConfig, FitRequest, find_task, fit_task
from maskpack.formats import open_artifact
from maskpack.formats.schema import BACKBONE


def main(model: str = "demo", steps: int = 300) -> None:
    """Fit the two sample tasks into one artifact."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "artifact"
        config = FitConfig(bits=4, steps=steps, batch_size=16, max_length=48)
        for name in ("reviews", "tickets"):
            result = fit_task(FitRequest(model, find_task(name), out, config))
            print(
                f"{name}: {result.metric} {result.score:.3f} "
                f"(majority {result.majority[result.metric]:.3f}), "
                f"{result.count.sparsity:.2%} of the weights removed, "
                f"mask {result.count.entropy_bytes:,} bytes of entropy"
            )
        artifact = open_artifact(out)
        print(f"backbone, shared: {artifact.size(BACKBONE):,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
