"""Texts of several windows of 14 tokens with entities behind the first window, for tests of several floors."""

from __future__ import annotations

import json

import numpy as np

from maskpack.tasks import find_task

KIND = "token-classification"
FILLER = ["the", "film", "was", "story", "very", "we", "it"]
PREFIX = "we : "
LENGTH, STRIDE = 14, 4
ROOM = LENGTH - 4  # without [CLS], the prefix and [SEP]


def document(rng, words, place):
    """A text of so many words with `good food` at a place and `bad` somewhere, and the spans of both."""
    own = [str(word) for word in rng.choice(FILLER, words)]
    own[place : place + 2] = "good", "food"
    free = [n for n in range(words) if not place - 1 <= n <= place + 2]
    blame = int(rng.choice(free))
    own[blame] = "bad"
    starts = np.cumsum([0, *(len(word) + 1 for word in own)]).tolist()
    praise = [starts[place], starts[place + 1] + len("food"), "praise"]
    spans = [praise, [starts[blame], starts[blame] + 3, "blame"]]
    return {"text": " ".join(own), "label": sorted(spans)}


def write_documents(folder):
    """Texts of up to four windows; `good food` is behind the first one in every text."""
    rng = np.random.default_rng(4)
    for name, count in (("train", 160), ("dev", 40)):
        lines = []
        for _ in range(count):
            words = int(rng.integers(16, 30))
            lines.append(document(rng, words, int(rng.integers(ROOM + 1, words - 1))))
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def task_for(**options):
    fields = {"text_field": "text", "label_field": "label", "kind": KIND}
    return find_task("names", **fields, **{"windows": True, "stride": STRIDE, **options})
