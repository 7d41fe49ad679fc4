"""Several processes on one machine: the same result, the throughput, and what is left when one is killed.

    python benchmarks/processes.py same docs/results/processes.json
    python benchmarks/processes.py throughput docs/results/processes.json
    python benchmarks/processes.py kills docs/results/processes.json --rounds 20

`same`: 1, 2 and 4 processes of one thread learn the tickets, in fp32, without dropout and teacher, 32 rows a step.
`throughput`: 2 processes with 32 rows each, beside two runs of one process side by side, in turns.
`kills`: a process is killed at a random moment, the run goes on with what is left, and its artifact is compared with that
of a run that nobody stopped. A part of the file of results is replaced by each call.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
SAME_STEPS, WARM_UP, TIMED = 100, 8, 30


def request_of(out: Path, model: str = "demo", **options):
    from maskpack.compressor import FitConfig, FitRequest
    from maskpack.tasks import find_task

    usual = {"precision": "fp32", "dropout": 0.0, "teacher": "none", "checkpoint_every": 0}
    config = FitConfig(**{**usual, **options})
    return FitRequest(model, find_task("tickets"), out, config, device="cpu")


def flips(path: Path):
    from maskpack.formats import open_artifact

    masks = open_artifact(path).patch("tickets").masks
    return {name: ~mask.to_bool() for name, mask in masks.items()}


def same(folder: Path, _: argparse.Namespace) -> dict:
    """Flips of 1, 2 and 4 processes; and of one process that computes a step in 4 parts."""
    from maskpack.compressor import fit_in_processes

    runs, masks = [], {}
    for processes, accumulate in ((1, 1), (2, 1), (4, 1), (1, 4)):
        out = folder / f"{processes}-{accumulate}"
        request = request_of(out, steps=SAME_STEPS, accumulate=accumulate)
        result = fit_in_processes(request, processes)
        masks[processes, accumulate] = flips(out)
        first, own = masks[1, 1], masks[processes, accumulate]
        union = sum(int((first[name] | own[name]).sum()) for name in own)
        apart = sum(int((first[name] != own[name]).sum()) for name in own)
        runs.append(
            {
                "processes": processes,
                "accumulate": accumulate,
                "accuracy": result.score,
                "zeros": result.zeros,
                "differing": apart,
                "union": union,
                "share": apart / union,
                "seconds": result.seconds,
            }
        )
        print(runs[-1], flush=True)
    return {"steps": SAME_STEPS, "runs": runs}


def rows_a_second(folder: Path, processes: int, rows: int) -> float:
    """Rows a second of one run, after a warm-up."""
    from maskpack.compressor import fit_in_processes

    times = []

    def watch(_) -> None:
        times.append(time.perf_counter())

    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    request = request_of(out, steps=WARM_UP + TIMED, batch_size=rows, epochs=None)
    fit_in_processes(request, processes, on_progress=watch)
    gaps = [b - a for a, b in zip(times[WARM_UP:], times[WARM_UP + 1 :], strict=False)]
    return rows / statistics.median(gaps)


def throughput(folder: Path, args: argparse.Namespace) -> dict:
    """Rows a second of 2 processes together, and of two runs side by side."""
    turns = []
    for _ in range(args.rounds):
        command = [sys.executable, __file__, "one", str(folder)]
        pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        apart = sum(float(each.communicate()[0].splitlines()[-1]) for each in pair)
        together = rows_a_second(folder, 2, 64)
        turns.append({"apart": apart, "together": together, "ratio": together / apart})
        print(turns[-1], flush=True)
    return {"turns": turns, "ratio": statistics.median(turn["ratio"] for turn in turns)}


def small_model(folder: Path) -> str:
    """A small random BERT with the demo model's tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    from maskpack.models.load import load_pretrained

    torch.manual_seed(0)
    tokenizer = load_pretrained("demo").tokenizer
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=len(tokenizer), intermediate_size=128, **sizes)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def kills(folder: Path, args: argparse.Namespace) -> dict:
    """What is left when rank 0 or 1 is killed, and whether the run goes on to the same end."""
    from maskpack.compressor import fit_in_processes
    from maskpack.formats import MaskpackError

    model = small_model(folder / "model")
    plain = request_of(folder / "whole", model, steps=200, checkpoint_every=10)
    fit_in_processes(plain, 2)
    expected, found = tree(plain.out), []
    draws = random.Random(0)
    for number in range(2 * args.rounds):
        rank, at = number % 2, draws.randint(1, 190)
        request = replace(plain, out=folder / f"killed-{number}")

        def kill(now, rank=rank, at=at) -> None:
            if now.step == at:
                children = sorted(multiprocessing.active_children(), key=lambda each: each.pid)
                os.kill(children[rank].pid, signal.SIGKILL)

        words = "no error"
        try:
            fit_in_processes(request, 2, on_progress=kill)
        except MaskpackError as error:
            words = f"{error}; {error.hint}".replace(str(folder), "")
        begun = not request.out.exists()
        kept = any(request.checkpoint_folder.rglob("*.safetensors"))
        steps = []
        again = replace(request, resume=True)
        fit_in_processes(again, 2, on_progress=lambda now, steps=steps: steps.append(now.step))
        found.append(
            {
                "rank": rank,
                "killed_at": at,
                "said": words,
                "nothing_half_written": begun,
                "checkpoint_kept": kept,
                "went_on_at": steps[0],
                "same_bytes": tree(request.out) == expected,
            }
        )
        print(found[-1], flush=True)
        shutil.rmtree(request.out)
    return {"rounds": found}


def tree(path: Path) -> dict[str, bytes]:
    return {
        str(each.relative_to(path)): each.read_bytes()
        for each in sorted(path.rglob("*"))
        if each.suffix == ".safetensors"
    }


PARTS = {"same": same, "throughput": throughput, "kills": kills}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "one"])
    parser.add_argument("results", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.part == "one":
        print(rows_a_second(args.results, 1, 32))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = PARTS[args.part](Path(scratch), args)
    known = json.loads(args.results.read_text()) if args.results.exists() else {}
    known[args.part] = found
    args.results.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
