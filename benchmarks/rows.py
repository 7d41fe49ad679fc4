"""Anonymous memory and seconds of a `fit` of a few steps over 10 thousand, 1 million and 5 million rows.

    python benchmarks/rows.py WORK docs/results/rows.json                    # this tree
    python benchmarks/rows.py WORK docs/results/rows.json --tree OLD --label before

WORK gets the tables, the model and the cache. Each run is a process of its own, which reads `RssAnon` of
`/proc/self/status` fifty times a second; what a run over 200 rows takes is the model's own and is taken off. With a
cache every run is done twice: the first makes the cache, the second takes it. A tenth of the rows is
held out from the same file, so that labels, the choice of rows and the evaluation are in the figures too. The encoder has
two layers of 32 and random weights, so that rows cost more than steps.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (10_000, 1_000_000, 5_000_000)
KINDS = ("csv", "parquet")
STEPS = 5
_PAGE = 10_000
_LEAST = 200  # rows of the run that shows what the model takes
_WORDS = [f"w{number}" for number in range(3000)]
_CLASSES = 4


def main() -> None:
    """Run every case that has no line in the result yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--tree", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--label", default="after")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = make_model(given.work / "model")
    lines = json.loads(given.out.read_text()) if given.out.is_file() else []
    for kind in given.kinds:
        for rows in (_LEAST, *given.rows):
            table = write_table(given.work / f"{rows}.{kind}", rows)
            done = {(line["label"], line["kind"], line["rows"]) for line in lines}
            if (given.label, kind, rows) in done:
                continue
            lines += measured(given, model, table, kind=kind, rows=rows)
            given.out.write_text(json.dumps(lines, indent=1) + "\n")
    show(lines)


def measured(
    given: argparse.Namespace, model: Path, table: Path, *, kind: str, rows: int
) -> Iterator[dict[str, Any]]:
    """Lines of one case: the run that makes the cache and, where there is one, the run that takes it."""
    cache, out = given.work / "cache", given.work / "out"
    shutil.rmtree(cache, ignore_errors=True)
    for run in ("first", "second"):
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, __file__, "child", str(model), str(table), str(out), str(cache)]
        environment = {**os.environ, "PYTHONPATH": str(given.tree.resolve() / ".types")}
        answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        figures = json.loads(answer.stdout.decode().strip().splitlines()[-1])
        size = sum(path.stat().st_size for path in cache.rglob("*.arrow")) if cache.exists() else 0
        yield {
            "label": given.label,
            "kind": kind,
            "rows": rows,
            "run": run,
            "table_bytes": table.stat().st_size,
            "cache_bytes": size,
            **figures,
        }
        if not size:
            return


def child(model: str, table: str, out: str, cache: str) -> None:
    """One fit; prints its peak of anonymous memory and its seconds."""
    from dataclasses import fields

    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.tasks import find_task

    task = find_task("rows", text_field="text", label_field="label")
    config = FitConfig(
        bits=8, group=32, steps=STEPS, max_length=32, teacher="none", precision="fp32"
    )
    options: dict[str, Any] = {"data": Path(table)}
    if "cache" in {each.name for each in fields(FitRequest)}:
        options["cache"] = cache
    stop, peak = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    began = time.perf_counter(), time.process_time()
    watcher.start()
    marks: list[float] = []
    result = fit_task(
        FitRequest(model, task, Path(out), config, **options),
        on_progress=lambda _: marks.append(time.perf_counter()),
    )
    seconds, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    stop.set()
    watcher.join()
    figures = {
        "peak_anonymous_bytes": peak[0],
        "seconds": round(seconds, 1),
        "processor_seconds": round(busy, 1),
        "seconds_until_first_step": round(marks[0] - began[0], 1),
        "accuracy": result.score,
    }
    print(json.dumps(figures))


def anonymous() -> int:
    """Bytes of this process that are no map of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not tell RssAnon")


def make_model(folder: Path) -> Path:
    """A BERT of two layers with random weights and a tokenizer of made-up words, the fastest kind there is."""
    if folder.is_dir():
        return folder
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    known = {word: number for number, word in enumerate(words)}
    bare = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bare.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    marks = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=bare, **marks).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def pages(rows: int) -> Iterator[dict[str, list[str]]]:
    """Texts of 4 to 16 words, and labels, some at a time."""
    rng = np.random.default_rng(rows)
    words = np.array(_WORDS)
    for start in range(0, rows, _PAGE):
        count = min(_PAGE, rows - start)
        lengths = rng.integers(4, 17, count)
        flat = words[np.minimum(rng.zipf(1.3, lengths.sum()), len(words)) - 1].tolist()
        ends = np.cumsum(lengths)
        texts = [
            f"{start + row} " + " ".join(flat[end - size : end])
            for row, (end, size) in enumerate(zip(ends, lengths, strict=True))
        ]
        labels = [f"class {number}" for number in rng.integers(0, _CLASSES, count)]
        yield {"text": texts, "label": labels}


def write_table(path: Path, rows: int) -> Path:
    """A table of made-up texts, written by pages."""
    if path.is_file():
        return path
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for page in pages(rows):
                writer.writerows(zip(*page.values(), strict=True))
        return path
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([("text", pa.string()), ("label", pa.string())])
    with parquet.ParquetWriter(path, schema) as file:
        for page in pages(rows):
            file.write_table(pa.table(page, schema))
    return path


def show(lines: list[dict[str, Any]]) -> None:
    """Print the table: what each run takes above the run over few rows, and the slope."""
    for line in lines:
        few = next(
            each
            for each in lines
            if all(each[key] == line[key] for key in ("label", "kind")) and each["rows"] == _LEAST
        )
        more = line["peak_anonymous_bytes"] - few["peak_anonymous_bytes"]
        print(
            f"{line['label']:8} {line['kind']:8} {line['rows']:>9,} {line['run']:7} "
            f"{more / 2**20:8.0f} MiB above the model's {few['peak_anonymous_bytes'] / 2**20:.0f}, "
            f"{more / line['rows']:7.0f} bytes a row, {line['seconds']:7.0f} s, "
            f"table {line['table_bytes'] / 1e6:.0f} MB, cache {line['cache_bytes'] / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        main()
