"""Token embeddings of one width beside rows of two (`embedding_bits` auto): bytes, and errors of hidden states on texts that nothing was made for.

    python benchmarks/embedding_rows.py --data DATA --out docs/results/embedding-rows.json
    python benchmarks/embedding_rows.py --data DATA --model E5 --out docs/results/embedding-rows-e5.json

    python benchmarks/embedding_rows.py --data DATA --shares --out docs/results/embedding-row-shares.json

DATA holds the folders plain-english-corpus, SST-2, banking77 and SIB-200, E5 is a folder of multilingual-e5-small. Only the table of tokens is quantised: the
error is `||h - h'||^2 / ||h||^2` of the last hidden states of all tokens, and one minus the cosine of their mean. Calibration texts are of the first half of
the corpus's documents, or training rows of SIB-200 in all its languages, or the shipped samples; the others are unseen. `--shares` says which share of the error between 2 and 4
bits is left when the most frequent rows of the corpus have 4 bits: measured, and as occurrences, plain or weighted as SIF does, predict it from the errors of the rows.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import lzma
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskpack.compressor.quantization.calibration import calibration_texts
from maskpack.compressor.quantization.rare_rows import (
    FREQUENT_BITS,
    frequent_rows,
    quantize_rows,
    token_counts,
)
from maskpack.compressor.quantization.rounding import quantize_mse
from maskpack.formats import QuantTensor
from maskpack.models.load import load_pretrained
from maskpack.tasks.batches import evaluation_batches
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split

LENGTH, BATCH, SIF = 48, 32, 1e-3
SHARED = ("corpus", "SST-2", "banking77")
LANGUAGES = ("eng_Latn", "deu_Latn", "rus_Cyrl", "zho_Hans")
Texts = Mapping[str, Sequence[str]]


def some(texts: Sequence[str], count: int) -> list[str]:
    """Some texts in their order, the same in every run."""
    chosen = np.random.default_rng(0).permutation(len(texts))[:count]
    return [texts[index] for index in sorted(chosen.tolist())]


def sib(data: Path, language: str, part: str) -> list[str]:
    rows = (data / "SIB-200" / f"{language}.{part}.tsv").read_text(encoding="utf-8").splitlines()
    return [row.split("\t")[2] for row in rows[1:]]


def texts_of(data: Path) -> tuple[Texts, Texts]:
    """Texts to calibrate on, and unseen ones."""
    packed = data / "plain-english-corpus" / "corpus.txt.xz"
    with lzma.open(packed, "rt", encoding="utf-8") as file:
        corpus = [line.strip() for line in file if line.strip()]
    middle = len(corpus) // 2
    with gzip.open(data / "SST-2" / "train.tsv.gz", "rt", encoding="utf-8") as file:
        films = [line.split("\t")[0].strip() for line in file][1:]
    with (data / "banking77" / "test.csv").open(encoding="utf-8", newline="") as file:
        bank = [row[0] for row in csv.reader(file)][1:]
    codes = sorted({path.name.split(".")[0] for path in (data / "SIB-200").glob("*.train.tsv")})
    seen = {
        "samples": calibration_texts(None),
        "corpus, 2,000 lines": some(corpus[:middle], 2_000),
        "corpus, 20,000 lines": some(corpus[:middle], 20_000),
        "eight languages": [text for code in codes for text in sib(data, code, "train")],
    }
    unseen = {
        "corpus": some(corpus[middle:], 100),
        "SST-2": some(films, 200),
        "banking77": some(bank, 150),
        **{f"SIB-200 {code}": sib(data, code, "test")[:60] for code in LANGUAGES},
    }
    return seen, unseen


class Judge:
    """Hidden states of unseen texts with a table in place of the model's own."""

    def __init__(self, model: Any, preprocessor: Any, unseen: Texts) -> None:
        self.model, self.feeds = model, {}
        for name, texts in unseen.items():
            split = Split(tuple((text,) for text in texts), np.zeros(len(texts), dtype=np.int64))
            rows = preprocessor.encode(split, max_length=LENGTH)
            batches = evaluation_batches(rows.lengths, batch_size=BATCH)
            self.feeds[name] = [rows.feeds(batch) for batch in batches]
        self.right = {name: self.states(name) for name in self.feeds}

    @torch.no_grad()
    def states(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Last states of all tokens, and their mean for each text."""
        states, means = [], []
        for feeds in self.feeds[name]:
            inputs = {key: torch.from_numpy(value) for key, value in feeds.items()}
            last, here = self.model(**inputs).last_hidden_state, inputs["attention_mask"] == 1
            states.append(last[here])
            means.append((last * here[..., None]).sum(1) / here.sum(1, keepdim=True))
        return torch.cat(states), torch.cat(means)

    def errors(self, table: QuantTensor | None) -> dict[str, dict[str, float]]:
        """Errors in percent on each kind of text, with a table in place of the model's; None: with its own."""
        weight = self.model.get_input_embeddings().weight
        own = weight.data
        if table is not None:
            weight.data = torch.from_numpy(table.dequantize())
        found = {}
        for name, (states, means) in self.right.items():
            other, others = self.states(name)
            lost = (states - other).square().sum() / states.square().sum()
            angle = 1 - torch.nn.functional.cosine_similarity(means, others).mean()
            found[name] = {
                "states": round(100 * float(lost), 3),
                "cosine": round(100 * float(angle), 3),
            }
        weight.data = own
        return found


def tables(
    weight: NDArray[np.float32], preprocessor: Any, special: Sequence[int], seen: Texts
) -> Any:
    """Name of a table, the table, and how many of its rows are wide."""
    for bits in (4, 3, 2):
        yield f"{bits} bits", quantize_mse(weight, bits, None), None
    for name, texts in seen.items():
        chosen = frequent_rows(weight, token_counts(preprocessor, texts, len(weight)), special)
        table = quantize_rows(weight, chosen, FREQUENT_BITS, lambda one: one)
        yield f"auto, {name}", table, int(chosen.sum())


def shares(
    weight: NDArray[np.float32], preprocessor: Any, texts: Sequence[str], judge: Judge
) -> Any:
    """Share of the error between 2 and 4 bits that is left, for several numbers of wide rows."""
    counts = token_counts(preprocessor, texts, len(weight)).sum(axis=0)
    narrow, wide = (quantize_mse(weight, bits, None) for bits in (2, 4))
    gain = np.square(weight - narrow.dequantize()).sum(1) - np.square(
        weight - wide.dequantize()
    ).sum(1)
    worst, best = judge.errors(narrow), judge.errors(wide)
    order = np.argsort(-counts, kind="stable")
    for share in (0.03, 0.1, 0.2, 0.35):
        chosen = np.zeros(len(weight), dtype=np.bool_)
        chosen[order[: int(share * len(weight))]] = True
        found = judge.errors(quantize_rows(weight, chosen, FREQUENT_BITS, lambda one: one))
        for name in SHARED:
            own = np.zeros(len(weight))
            for feeds in judge.feeds[name]:
                np.add.at(own, feeds["input_ids"][feeds["attention_mask"] == 1], 1)
            sif = own * SIF / (SIF + counts / counts.sum())
            left, low, high = (one[name]["states"] for one in (found, best, worst))
            yield {
                "wide": share,
                "texts": name,
                "measured": round((left - low) / (high - low), 3),
                "sif": round(float((sif * gain)[~chosen].sum() / (sif * gain).sum()), 3),
                "plain": round(float((own * gain)[~chosen].sum() / (own * gain).sum()), 3),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", action="store_true")
    args = parser.parse_args()
    pretrained = load_pretrained(args.model)
    model = pretrained.model.float().eval()
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    seen, unseen = texts_of(args.data)
    if args.shares:
        unseen = {name: unseen[name] for name in SHARED}
    judge = Judge(model, preprocessor, unseen)
    weight = model.get_input_embeddings().weight.detach().numpy().copy()
    if args.shares:
        found = list(shares(weight, preprocessor, seen["corpus, 20,000 lines"], judge))
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    special, rows = pretrained.tokenizer.all_special_ids, []
    for name, table, wide in tables(weight, preprocessor, special, seen):
        row = {"table": name, "bytes": table.code_bytes, "wide_rows": wide}
        rows.append({**row, "errors": judge.errors(table)})
        print(rows[-1], flush=True)
        tree = {"model": Path(args.model).name, "shape": list(weight.shape), "rows": rows}
        args.out.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
