"""The table of docs/methods.md, from the lines of its runs.

compress sweep examples/methods.yaml -o docs/results/methods.jsonl --seed 0
python benchmarks/methods_table.py docs/results/methods.jsonl docs/results/units-quality.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TASKS = ("sst2", "cola", "qnli")


def rows_of(path: Path, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Label of a method -> task -> its line."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        if row["seed"] == seed:
            found.setdefault(row["label"], {})[row["sweep_task"]] = row
    return found


def line_of(label: str, tasks: dict[str, dict[str, Any]]) -> str:
    """A method's metrics, zeros and coded kilobytes."""
    cells = [
        f"{tasks[name]['scores'][tasks[name]['metric']]:.4f}" if name in tasks else ""
        for name in TASKS
    ]
    last = next(iter(tasks.values()))
    zeros = f"{last['sparsity']:.1%}" if last["weights"] else ""
    coded = f"{last['coded_bytes'] / 1000:,.0f}"
    return f"| `{label}` | {' | '.join(cells)} | {zeros} | {coded} |"


def main() -> None:
    found = rows_of(Path(sys.argv[1]), seed=0)
    print(f"| method | {' | '.join(TASKS)} | zeros | coded, kB |\n|---|---|---|---|---|---|")
    for label, tasks in found.items():
        print(line_of(label, tasks))


if __name__ == "__main__":
    main()
