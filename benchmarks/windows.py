"""How the answers of windows become that of a document: rules compared on documents whose windows are known sentences.

    python benchmarks/windows.py --sst2 SST-2 --sib SIB-200 --neutral LINES.txt --out docs/results/windows.json

A window is a sentence. A linear classifier learns single sentences, on vectors of the frozen `demo` model, and documents are made of held-out
ones: of one label; of one sentence of a label among plain ones; or of several topics, one sentence each. A rule joins what the classifier
says of the sentences of a document. Prints and writes accuracy, or micro F1 where a document has several labels.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from maskpack.models.locate import resolve

RULES = {
    "mean of probabilities": lambda logits: np.log(softmax(logits).mean(axis=0)),
    "mean of logits": lambda logits: logits.mean(axis=0),
    "highest probability": lambda logits: softmax(logits).max(axis=0),
}
BINARY = {
    "mean of probabilities": lambda logits: sigmoid(logits).mean(axis=0) > 0.5,
    "mean of logits": lambda logits: logits.mean(axis=0) > 0,
    "highest": lambda logits: logits.max(axis=0) > 0,
}


FOUND: list[dict[str, object]] = []
"""What was told."""


def tell(what, rule, metric, value):
    FOUND.append(
        {"documents": what, "rule": rule, "metric": metric, "value": round(float(value), 4)}
    )
    print(f"{what}: {rule}: {metric} {value:.3f}")


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def vectors(texts):
    folder = resolve("demo")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    order, found = sorted(range(len(texts)), key=lambda n: len(texts[n])), {}
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        batch = tokenizer(
            [texts[n] for n in some], padding=True, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
        kept = batch["attention_mask"][..., None]
        means = (states * kept).sum(1) / kept.sum(1)
        found.update(zip(some, torch.nn.functional.normalize(means).numpy(), strict=True))
    return np.stack([found[n] for n in range(len(texts))])


def linear(inputs, labels, *, several):
    """Weights and bias of a classifier of single sentences."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(inputs.shape[1], labels.shape[1])
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.01)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    loss = torch.nn.BCEWithLogitsLoss() if several else torch.nn.CrossEntropyLoss()
    for _ in range(400):
        optimizer.zero_grad()
        loss(layer(x), y).backward()
        optimizer.step()
    return lambda some: some @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def one_label(sst2, neutral, rng, count=1500):
    def rows(name):
        with gzip.open(sst2 / name, "rt", encoding="utf-8") as file:
            return [
                (row["sentence"], int(row["label"]))
                for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            ]

    train, dev = [one for one in rows("train.tsv.gz") if len(one[0]) > 30], rows("dev.tsv.gz")
    train = [train[n] for n in rng.choice(len(train), count, replace=False)]
    plain = vectors(neutral)
    inputs, held = vectors([text for text, _ in train]), vectors([text for text, _ in dev])
    say = linear(inputs, np.eye(2, dtype="f4")[[label for _, label in train]], several=False)
    of = [np.flatnonzero([label == one for _, label in dev]) for one in (0, 1)]
    labels = rng.integers(0, 2, 1000)
    alone = np.mean(say(held).argmax(1) == [label for _, label in dev])
    tell("one sentence", "none", "accuracy", alone)
    for size in (3, 8):
        alike = [say(held[rng.choice(of[label], size)]) for label in labels]
        report(f"{size} sentences of one label", alike, labels)
        mixed = [
            np.concatenate(
                [say(held[rng.choice(of[label], 1)]), say(plain[rng.choice(len(plain), size - 1)])]
            )
            for label in labels
        ]
        report(f"1 sentence of a label among {size - 1} plain ones", mixed, labels)
        odd = [
            say(held[np.append(rng.choice(of[label], size - 1), rng.choice(of[1 - label], 1))])
            for label in labels
        ]
        report(f"{size - 1} sentences of a label and 1 of the other", odd, labels)


def report(what, documents, labels):
    for name, rule in RULES.items():
        right = [rule(one).argmax() == label for one, label in zip(documents, labels, strict=True)]
        tell(what, name, "accuracy", np.mean(right))


def several_labels(sib, rng):
    def rows(split):
        with (sib / f"eng_Latn.{split}.tsv").open(encoding="utf-8") as file:
            return [(row["text"], row["category"]) for row in csv.DictReader(file, delimiter="\t")]

    train, test = rows("train"), rows("test")
    names = sorted({name for _, name in train})
    inputs, held = vectors([text for text, _ in train]), vectors([text for text, _ in test])
    targets = np.eye(len(names), dtype="f4")[[names.index(name) for _, name in train]]
    say, topic = (
        linear(inputs, targets, several=True),
        np.array([names.index(name) for _, name in test]),
    )
    for size in (3, 6):
        for topics in (1, 2, 3):
            counts = {name: np.zeros(3) for name in BINARY}
            for _ in range(1000):
                own = rng.choice(len(names), topics, replace=False)
                places = [rng.choice(np.flatnonzero(topic == own[n % topics])) for n in range(size)]
                wanted = np.isin(np.arange(len(names)), own)
                for name, rule in BINARY.items():
                    found = rule(say(held[places]))
                    counts[name] += [(found & wanted).sum(), found.sum(), wanted.sum()]
            for name, (right, given, all_) in counts.items():
                score = 2 * right / (given + all_)
                tell(f"{size} sentences of {topics} topics", name, "micro F1", score)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sst2", "sib", "neutral", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    opened = lzma.open if given.neutral.suffix == ".xz" else open
    with opened(given.neutral, "rt", encoding="utf-8") as lines:
        plain = [line.strip() for line in lines if 40 < len(line) < 200][:600]
    one_label(given.sst2, plain, np.random.default_rng(0))
    several_labels(given.sib, np.random.default_rng(0))
    given.out.write_text(json.dumps(FOUND, indent=1) + "\n", encoding="utf-8")
