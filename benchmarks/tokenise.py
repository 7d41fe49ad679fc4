"""Seconds to turn rows into tokens: one thread, threads of the tokenizer, and processes of `datasets`.

    python benchmarks/tokenise.py --out docs/results/tokenise.json

Each way is a process of its own, because a tokenizer reads TOKENIZERS_PARALLELISM once. Rows are words of the sample tasks,
drawn at random. `encode` is what training does: tokens as arrays; `tokenizer` is the tokenizer alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WAYS = {"one thread": "false", "threads": "true", "datasets, two processes": "false"}
"""Name -> TOKENIZERS_PARALLELISM of its process."""


def rows(count: int, words: int) -> list[tuple[str, ...]]:
    """Texts of about so many words, the same in every process."""
    from maskpack.tasks import find_task, load_data

    texts = [
        row[0] for name in ("reviews", "tickets") for row in load_data(find_task(name)).train.texts
    ]
    known = sorted({word for text in texts for word in text.split()})
    rng = np.random.default_rng(0)
    lengths = rng.integers(words // 2, words * 3 // 2 + 1, count)
    return [(" ".join(rng.choice(known, length)),) for length in lengths]


def measure(way: str, count: int, words: int) -> dict[str, float]:
    """Seconds of one way, by the clock on the wall, and of `encode` over all cores."""
    from maskpack.models.load import load_pretrained
    from maskpack.tasks.context import ModelContext
    from maskpack.tasks.data.splits import Split

    preprocessor = ModelContext.of_pretrained(load_pretrained("demo")).preprocessor()
    texts = rows(count, words)
    preprocessor.encode(Split(tuple(texts[:1000]), np.zeros(1000)), max_length=64)  # warms up
    if way.startswith("datasets"):
        import datasets

        datasets.disable_progress_bars()
        table = datasets.Dataset.from_dict({"text": [text for (text,) in texts]})
        began = time.perf_counter()
        table.map(
            lambda some: preprocessor.tokenizer(some["text"], truncation=True, max_length=64),
            batched=True,
            num_proc=2,
        )
        return {"tokenizer": time.perf_counter() - began}
    began = time.perf_counter()
    preprocessor.tokenizer([text for (text,) in texts], truncation=True, max_length=64)
    alone, busy = time.perf_counter() - began, time.process_time()
    began = time.perf_counter()
    preprocessor.encode(Split(tuple(texts), np.zeros(count)), max_length=64)
    both = {"encode": time.perf_counter() - began, "encode, all cores": time.process_time() - busy}
    return {"tokenizer": alone, **both}


def main() -> None:
    """Measure every way in turn; print and write the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=20)
    parser.add_argument("--way", choices=WAYS, help="measure this one in this process")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.rows, args.words)))
        return
    found = {}
    for way, parallel in WAYS.items():
        command = [sys.executable, __file__, "--way", way]
        command += ["--rows", str(args.rows), "--words", str(args.words)]
        env = {**os.environ, "TOKENIZERS_PARALLELISM": parallel}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        shown = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found[way].items())
        print(f"{way}: {shown}")
    if args.out is not None:
        result = {"rows": args.rows, "words": args.words, "seconds": found}
        args.out.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
