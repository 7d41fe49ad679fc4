"""Folders of `train` and `test` rows for `types.yaml` and `e5.yaml`, from the original files of four data sets.

    python benchmarks/types_data.py DATA OUT

| folder of OUT | from | rows |
|---|---|---|
| BANKING | banking77 (77 intents of bank customers) | as they are |
| INTENTS | banking77 | pairs of two texts of one intent; each text finds the next one of its intent, in a seeded order |
| XQUAD | XQuAD, English | 36 articles to learn from, 12 to be asked about |
| TATOEBA | Tatoeba, five languages | 800 sentences of each language to learn from, which find their English; 200 to be scored |
| SIB | SIB-200, five languages | as they are, the languages together; SIB-eng and the like hold the test rows of one |
"""

from __future__ import annotations

import csv
import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

LANGUAGES = ("eng_Latn", "deu_Latn", "spa_Latn", "rus_Cyrl", "zho_Hans")
PAIRED = ("cmn", "deu", "fra", "rus", "spa")


def write(path: Path, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A CSV file with a row of names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        table.writerows(rows)


def banking(source: Path, out: Path) -> None:
    """Intents as classes, and pairs of texts of one intent."""
    for split in ("train", "test"):
        with (source / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
        write(out / f"BANKING/{split}.csv", ("text", "label"), rows)
        write(out / f"INTENTS/{split}.csv", ("query", "positive"), pairs(rows))


def pairs(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each text with the next one of its label, in a seeded order; the last finds the first.

    >>> pairs([("a", "x"), ("b", "y"), ("c", "x")])
    [('a', 'c'), ('c', 'a')]
    """
    texts = defaultdict(list)
    for place in np.random.default_rng(7).permutation(len(rows)):
        text, label = rows[place]
        texts[label].append(text)
    found = {
        text: after
        for some in texts.values()
        for text, after in zip(some, [*some[1:], some[0]], strict=True)
    }
    return [(text, found[text]) for text, _ in rows if found[text] != text]


def xquad(source: Path, out: Path) -> None:
    """Three articles in four to learn from: no article is on both sides."""
    articles = json.loads(gzip.decompress((source / "xquad.en.json.gz").read_bytes()))["data"]
    order = np.random.default_rng(7).permutation(len(articles))
    (out / "XQUAD").mkdir(parents=True, exist_ok=True)
    for split, some in (("train", order[:36]), ("test", order[36:])):
        text = json.dumps({"version": "1.1", "data": [articles[place] for place in np.sort(some)]})
        (out / f"XQUAD/{split}.json").write_text(text, encoding="utf-8")


def tatoeba(source: Path, out: Path) -> None:
    """Sentences that find their English."""
    learned, scored = [], []
    for language in PAIRED:
        sides = [
            (source / f"tatoeba.{language}-eng.{side}").read_text(encoding="utf-8").split("\n")
            for side in (language, "eng")
        ]
        rows = [pair for pair in zip(*sides, strict=True) if all(pair)]
        order = np.random.default_rng(7).permutation(len(rows))
        learned += [rows[place] for place in order[:800]]
        scored += [rows[place] for place in order[800:]]
    write(out / "TATOEBA/train.csv", ("query", "positive"), learned)
    write(out / "TATOEBA/test.csv", ("query", "positive"), scored)


def sib(source: Path, out: Path) -> None:
    """Topics in five languages, together and each for itself."""
    rows = {}
    for split in ("train", "test"):
        for language in LANGUAGES:
            lines = (
                (source / f"{language}.{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
            )
            rows[split, language] = [(line.split("\t")[2], line.split("\t")[1]) for line in lines]
        together = [row for language in LANGUAGES for row in rows[split, language]]
        write(out / f"SIB/{split}.csv", ("text", "label"), together)
    for language in LANGUAGES:
        write(out / f"SIB-{language[:3]}/test.csv", ("text", "label"), rows["test", language])


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    banking(data / "banking77", out)
    xquad(data / "XQuAD", out)
    tatoeba(data / "Tatoeba", out)
    sib(data / "SIB-200", out)


if __name__ == "__main__":
    main()
