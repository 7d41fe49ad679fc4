"""Split QNLI's dev file by rows into train and dev, for places that lack its training file.

    python benchmarks/split_qnli.py QNLI/dev.tsv.gz OUT

By a seeded permutation, 4,000 rows go to train and the rest, 1,463, to dev.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

TRAIN_ROWS = 4_000


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    header, *rows = gzip.decompress(source.read_bytes()).decode().rstrip("\n").split("\n")
    order = np.random.default_rng(7).permutation(len(rows))
    out.mkdir(parents=True, exist_ok=True)
    for name, places in (("train", order[:TRAIN_ROWS]), ("dev", order[TRAIN_ROWS:])):
        lines = [header, *(rows[place] for place in np.sort(places))]
        (out / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
