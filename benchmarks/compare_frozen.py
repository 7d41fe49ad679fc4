"""Two ways to many tasks that train no encoder, on the rows of `compare.py`: a frozen encoder, and a static model.

    pip install "model2vec[distill]" scikit-learn
    python benchmarks/compare_frozen.py WORK --glue GLUE --out docs/results/compare-frozen.json
    python benchmarks/compare_frozen.py WORK --out docs/results/compare-frozen.json --summary

One vector a text comes from the encoder as it was published (mean of its last states, by Optimum's graphs), or from a static model
that model2vec distilled of it: a table of token vectors and their mean. On these vectors a logistic regression is learned for each
task; C is the best of `CHOICES` on a tenth of the training rows, and then all rows are learned. Of a pair of texts it reads
`[u, v, |u - v|, u * v]` (Conneau & Kiela 2018, arXiv 1803.05449). Nothing is drawn at random, so that there is one figure a task. Texts are
cut to 64 tokens, as those of the other routes.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from compare import MAX_LENGTH, megabytes, print_table, short
from compare_routes import COUNTS, DATA

from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.session import make_session, quantile
from maskpack.models.load import load_tokenizer
from maskpack.models.locate import resolve
from maskpack.tasks import find_task, load_data
from maskpack.tasks.data.held_out import held_out_places
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.metrics import compute_metrics

CHOICES = (0.01, 0.1, 1.0, 10.0, 100.0)
LENGTHS = (16, 128)
TITLES = {
    "frozen": "frozen encoder, fp32 (Optimum), a logistic regression a task",
    "frozen-int8": "frozen encoder, Optimum int8, per channel, a logistic regression a task",
    "static": "static model (model2vec, 256 wide), a logistic regression a task",
}

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> a vector each, float32 `(n, w)`."""


def made(command: str, place: Path) -> Path:
    """What a command makes, if it is not there yet."""
    if not place.exists():
        sys.stderr.write(f"{command}\n")
        subprocess.run(shlex.split(command), check=True, stdout=sys.stderr)
    return place


def graphs(work: Path) -> dict[str, Path]:
    """The encoder's graphs, in float and in int8."""
    export = f"optimum-cli export onnx --model {resolve('demo')} --task feature-extraction"
    export += " --library transformers"  # the encoder alone
    whole = made(f"{export} {work / 'frozen'}", work / "frozen/model.onnx")
    small = work / "frozen-int8/model_quantized.onnx"
    quantize = f"optimum-cli onnxruntime quantize --onnx_model {whole.parent} --avx512_vnni"
    return {
        "frozen": whole,
        "frozen-int8": made(f"{quantize} --per_channel -o {small.parent}", small),
    }


def encoder(graph: Path, most: int = MAX_LENGTH) -> Embed:
    """Vectors of length 1: means of the last states over the tokens of a text."""
    session, tokenizer = make_session(graph, threads=1), load_tokenizer(resolve("demo"))
    names = [value.name for value in session.get_inputs()]
    place = [value.name for value in session.get_outputs()].index("last_hidden_state")

    def batch(texts: Sequence[str]) -> np.ndarray:
        read = tokenizer(
            list(texts), truncation=True, max_length=most, padding=True, return_tensors="np"
        )
        feeds = {name: np.asarray(read[name], dtype=np.int64) for name in names}
        kept = feeds["attention_mask"][..., None].astype(np.float32)
        states = session.run(None, feeds)[place]
        return unit((states * kept).sum(axis=1) / kept.sum(axis=1))

    def embed(texts: Sequence[str]) -> np.ndarray:
        # texts of like length share a batch
        order = np.argsort([len(text) for text in texts], kind="stable")
        found = [
            batch([texts[row] for row in order[start : start + 32]])
            for start in range(0, len(texts), 32)
        ]
        vectors = np.concatenate(found)
        back = np.empty_like(vectors)
        back[order] = vectors
        return back

    return embed


def static(work: Path, most: int = MAX_LENGTH) -> tuple[Embed, Path]:
    """The static model of the same encoder, and its weights."""
    from model2vec import StaticModel
    from model2vec.distill import distill

    folder = work / "static"
    if not folder.exists():
        distill(resolve("demo"), pca_dims=256).save_pretrained(str(folder))
    model = StaticModel.from_pretrained(str(folder))

    def embed(texts: Sequence[str]) -> np.ndarray:
        own = model.encode(list(texts), max_length=most, use_multiprocessing=False)
        return unit(np.asarray(own, dtype=np.float32))

    return embed, folder / "model.safetensors"


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def features(embed: Embed, split: Split) -> np.ndarray:
    """What a logistic regression reads of each row."""
    columns = [embed(list(column)) for column in zip(*split.texts, strict=True)]
    if len(columns) == 1:
        return columns[0]
    first, second = columns
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def fitted(
    rows: np.ndarray, labels: np.ndarray, metric: Callable[[Any], float]
) -> tuple[Any, float]:
    """The regression over all rows, with the C that was best on a tenth of them."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def learn(choice: float, some: np.ndarray) -> Any:
        head = make_pipeline(StandardScaler(), LogisticRegression(C=choice, max_iter=2000))
        return head.fit(rows[some], labels[some])

    held = held_out_places([str(label) for label in labels])
    rest = np.setdiff1d(np.arange(len(labels)), held)
    best = max(CHOICES, key=lambda choice: metric((learn(choice, rest), held)))
    return learn(best, np.arange(len(labels))), best


def answers(head: Any, rows: np.ndarray) -> np.ndarray:
    """Logits `(n, 2)` of a regression of two classes."""
    margin = np.asarray(head.decision_function(rows), dtype=np.float32)
    return np.stack([-margin, margin], axis=1) / 2


def scores(embed: Embed, glue: Path) -> dict[str, dict[str, float]]:
    """Task -> metrics on its whole dev file."""
    found = {}
    for name, said in DATA.items():
        task, words = find_task(name), said.split()
        limit = int(words[2]) if len(words) > 1 else None
        data = load_data(task, data=glue / words[0]).limit_train(limit)
        train, dev = (features(embed, split) for split in (data.train, data.dev))

        def metric(judged: tuple[Any, np.ndarray], task=task, train=train, data=data) -> float:
            head, some = judged
            logits = answers(head, train[some])
            return compute_metrics(task.type, logits, data.train.labels[some], task.metrics)[
                task.metric
            ]

        head, best = fitted(train, data.train.labels, metric)
        figures = compute_metrics(task.type, answers(head, dev), data.dev.labels, task.metrics)
        found[name] = {**figures, "C": best, "inputs": train.shape[1]}
        sys.stderr.write(f"{name} {found[name]}\n")
    return found


def latency(embeds: dict[str, Embed], runs: int) -> dict[str, dict[str, dict[str, float]]]:
    """Tokens of a text -> route -> milliseconds from a text to its vector, and times as fast as the float encoder, in turns.

    Of the processor, one thread: what other programs do is not in them.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    rng = np.random.default_rng(0)
    for length in LENGTHS:
        text = " ".join(["good"] * (length - 2))  # a token each, and two that stand round them
        spent: dict[str, list[float]] = {name: [] for name in embeds}
        for number in range(-3, runs):
            for name in rng.permutation(list(embeds)).tolist():
                started = time.process_time()
                embeds[name]([text])
                if number >= 0:
                    spent[name].append((time.process_time() - started) * 1e3)
        whole = np.array(spent["frozen"])
        found[str(length)] = {
            name: {
                "ms": quantile(times, 0.5),
                "speedup": float(np.median(whole / np.array(times))),
            }
            for name, times in spent.items()
        }
    return found


def times(work: Path, runs: int) -> dict[str, Any]:
    """Times of all routes, and the machine."""
    before, files = load_average(), graphs(work)
    embeds = {name: encoder(path, max(LENGTHS)) for name, path in files.items()}
    found = latency({**embeds, "static": static(work, max(LENGTHS))[0]}, runs)
    return {"latency": found, "machine": asdict(this_machine(before))}


def measure(work: Path, glue: Path, runs: int) -> dict[str, Any]:
    files = graphs(work)
    fixed, table = static(work)
    embeds = {**{name: encoder(path) for name, path in files.items()}, "static": fixed}
    found = {name: scores(embed, glue) for name, embed in embeds.items()}
    size = {name: path.stat().st_size for name, path in {**files, "static": table}.items()}
    heads = {
        name: [8 * (each["inputs"] + 1) for each in figures.values()]  # float32 scale and weight
        for name, figures in found.items()
    }
    return {
        "scores": found,
        "bytes": {
            name: {str(n): size[name] + sum((heads[name] * 3)[:n]) for n in COUNTS} for name in size
        },
        **times(work, runs),
        "versions": {
            name: version(name)
            for name in ("model2vec", "onnxruntime", "optimum", "scikit-learn", "transformers")
        },
    }


def summarise(found: dict[str, Any]) -> None:
    """The rows of docs/compare.md."""
    metrics = {task: find_task(task).metric for task in DATA}
    rows = []
    for name, title in TITLES.items():
        own = [found["scores"][name][task][metric] for task, metric in metrics.items()]
        rows.append([title, *map(short, own), short(float(np.mean(own)))])
    print_table(["", *(f"{task}, {metric}" for task, metric in metrics.items()), "mean"], rows)
    rows = []
    for name, title in TITLES.items():
        cells = [found["latency"][str(length)][name] for length in LENGTHS]
        told = [f"{cell['ms']:.2f} ms, {cell['speedup']:.2f}x" for cell in cells]
        rows.append([title, *megabytes(found["bytes"][name]), *told])
    tasks = [f"{count} task{'s' * (count > 1)}" for count in COUNTS]
    print_table(["", *tasks, *(f"a text of {length} tokens" for length in LENGTHS)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--glue", type=Path)
    parser.add_argument("--runs", type=int, default=61)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", action="store_true", help="only measure the times again")
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    arguments = parser.parse_args()
    if arguments.times:
        found = json.loads(arguments.out.read_text()) | times(arguments.work, arguments.runs)
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    elif not arguments.summary:
        arguments.work.mkdir(parents=True, exist_ok=True)
        found = measure(arguments.work, arguments.glue, arguments.runs)
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    summarise(json.loads(arguments.out.read_text()))


if __name__ == "__main__":
    main()
