"""Adopt the five fine-tunings of `fine_tunings.py` at 4 bits, from texts alone and with labels; compare with the originals.

    python benchmarks/adopt.py OUT docs/results/adopt.jsonl --seeds 0 1 2

OUT is the folder that `fine_tunings.py` wrote. For each seed and mode, one `compress adopt` makes OUT/adopted-MODE-SEED;
a task is one line of JSON. Tasks whose line is there already are skipped, and a stopped run goes on with its checkpoint.
Without labels a task is learned from the texts of its training rows, and the evaluation rows with their labels only
measure. `--summary` prints the table of docs/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np

TASKS = ("tickets", "qnli", "sst2", "cola", "banking77")
METRICS = {"cola": "matthews"}  # of the others accuracy
MODES = ("texts", "labels")


def rows_for(task: str, out: Path, mode: str) -> tuple[Path, Path]:
    """Training rows of a mode, and evaluation rows, as `compress adopt` reads them."""
    folder = out / "rows" / task
    files = {}
    for split in ("train", "dev"):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        for row in rows:
            if "pair" in row:
                row["text_pair"] = row.pop("pair")
            if split == "train" and mode == "texts":
                del row["label"]
        files[split] = folder / f"{split}-{mode}.jsonl"
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[split].write_text(lines, encoding="utf-8")
    return files["train"], files["dev"]


def run(seed: int, mode: str, task: str, out: Path, options: dict) -> dict:
    from maskpack.compressor import AdoptRequest, FitConfig, adopt_models
    from maskpack.exporters import ExportRequest, Tolerance, export_onnx

    train, dev = rows_for(task, out, mode)
    model = str(out / f"{task}-{seed}")
    request = AdoptRequest(
        {task: model},
        out / "-".join(("adopted", mode, str(seed), *map(str, sum(options.items(), ())))),
        "demo",
        FitConfig(**{"bits": 4, "max_length": 64, "seed": seed, **options}),
        data={task: train},
        eval_data={task: dev},
        resume=True,
    )

    def watch(now) -> None:
        if now.step % 50 == 0:
            print(f"{mode} {task} {seed}: {now.step}/{now.steps} {now.loss:.3f}", flush=True)

    result = adopt_models(request, on_progress=lambda _: watch)
    (adopted,) = result.tasks
    with TemporaryDirectory() as scratch:
        report = export_onnx(
            ExportRequest(
                request.out,
                task,
                Path(scratch) / "graph",
                "int8",
                Tolerance.of("int8"),
                reference=model,
                data=dev,
            )
        )
    metric = METRICS.get(task, "accuracy")
    run = adopted.result or learned_before(request.out, task, model, dev)
    return {
        "seed": seed,
        "mode": mode,
        **({"options": options} if options else {}),
        "task": task,
        "metric": metric,
        "original": run.original[metric],
        "mask": run.scores[metric],
        "same_mask": run.same_answers,
        "graph_accuracy": report.accuracy.graph,
        "mask_accuracy": report.accuracy.torch,
        "same_graph": report.accuracy.reference_agreement,
        "rows": report.accuracy.rows,
        "steps": run.steps,
        "seconds": run.seconds,
        "zeros": run.zeros,
        "distance": adopted.ancestry.distance,
        "model_bytes": adopted.model_bytes,
        "packed_bytes": adopted.packed_bytes,
        "backbone_bytes": result.backbone_bytes,
    }


def learned_before(artifact: Path, task: str, model: str, dev: Path) -> SimpleNamespace:
    """The figures of a task whose learning was finished when a run was interrupted, from artifact and checkpoint."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from maskpack.formats import open_artifact
    from maskpack.tasks.evaluation.evaluate import predict_split

    opened = open_artifact(artifact)
    entry, found = opened.entry(task), predict_split(opened, task, data=dev)
    tokenizer = AutoTokenizer.from_pretrained(model)
    original = AutoModelForSequenceClassification.from_pretrained(model).eval()
    texts, answers = found.split.texts, []
    for start in range(0, len(texts), 32):
        columns = [list(column) for column in zip(*texts[start : start + 32], strict=True)]
        options = {"padding": True, "truncation": True, "max_length": 64, "return_tensors": "pt"}
        with torch.inference_mode():
            logits = original(**tokenizer(*columns, **options)).logits
        answers.append(logits.argmax(1).numpy())
    same = np.concatenate(answers) == found.logits.argmax(1)
    last = entry.training["history"]["steps"].split()[-1]
    return SimpleNamespace(
        original=entry.data["original"],
        scores=entry.scores,
        same_answers=float(same.mean()),
        steps=int(last),
        seconds=None,
        zeros=opened.patch(task).count.zeros,
    )


def summary(lines: list[dict]) -> None:
    for mode in MODES:
        print(f"\n{mode}")
        gaps, same = {}, {}
        for task in TASKS:
            found = [line for line in lines if (line["mode"], line["task"]) == (mode, task)]
            if not found:
                continue
            cells = []
            for key in ("original", "mask", "same_mask", "graph_accuracy", "same_graph"):
                values = np.array([line[key] for line in found])
                cells.append(
                    f"{values.mean():.4f} ± {values.std(ddof=min(1, len(values) - 1)):.4f}"
                )
            packed = np.mean([line["packed_bytes"] for line in found])
            print(f"| {task} ({len(found)}) | {' | '.join(cells)} | {packed / 1e3:.0f} KB |")
            for line in found:
                gaps.setdefault(line["seed"], []).append(line["mask"] - line["original"])
                same.setdefault(line["seed"], []).append(line["same_mask"])
        for name, by_seed in (("mean metric, mask - original", gaps), ("same answers", same)):
            means = np.array([np.mean(values) for values in by_seed.values()])
            if len(means):
                print(f"{name}: {means.mean():.4f}, each seed {np.round(means, 4).tolist()}")
        told_of_rows([line for line in lines if line["mode"] == mode])
        totals = [
            found[0]["backbone_bytes"] + sum(line["packed_bytes"] for line in found)
            for seed in {line["seed"] for line in lines}
            if len(found := [x for x in lines if (x["mode"], x["seed"]) == (mode, seed)])
            == len(TASKS)
        ]
        if totals:
            print(f"backbone and five packed tasks: {max(totals) / 1e6:.2f} MB at most")


def told_of_rows(rows: list[dict]) -> None:
    """Print shares of all rows of one mode, and of each seed."""
    for key in ("same_mask", "same_graph") if rows else ():
        per_task = np.mean([line[key] for line in rows])
        print(f"{key}: mean of tasks {per_task:.4f}, of all rows {pooled(rows, key):.4f}")
    for seed in sorted({line["seed"] for line in rows}):
        own = [line for line in rows if line["seed"] == seed]
        print(
            f"seed {seed}: {len(own)} tasks, same_mask of all rows {pooled(own, 'same_mask'):.4f}"
        )
    if rows:
        both = (np.mean([line[key] for line in rows]) for key in ("original", "mask"))
        print("mean of tasks: original {:.4f}, mask {:.4f}".format(*both))


def pooled(lines: list[dict], key: str) -> float:
    """The mean over rows of a share of rows."""
    return np.average([line[key] for line in lines], weights=[line["rows"] for line in lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument(
        "--option", nargs=2, action="append", default=[], help="NAME VALUE of FitConfig"
    )
    parser.add_argument("--summary", action="store_true")
    args = parser.parse_args()
    lines = []
    if args.results.exists():
        lines = [json.loads(line) for line in args.results.read_text().splitlines()]
    done = {(line["seed"], line["mode"], line["task"]) for line in lines if not args.option}
    if args.summary:
        summary(lines)
        sys.exit()
    options = {name: json.loads(value) for name, value in args.option}
    for seed in args.seeds:
        for mode in args.modes:
            for task in args.tasks:
                ready = (args.out / f"{task}-{seed}" / "rows.json").exists()
                if ready and (seed, mode, task) not in done:
                    line = json.dumps(run(seed, mode, task, args.out, options), sort_keys=True)
                    with args.results.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")
                    print(line, flush=True)


if __name__ == "__main__":
    main()
