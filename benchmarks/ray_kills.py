"""`kill -9` of a Ray worker and of a Ray machine in the middle of a sweep: is a line lost, doubled or another one?

python benchmarks/ray_kills.py --rounds 20 --out docs/results/ray-kills.json

Two raylets on this machine are two machines of a cluster, a core each. The sweep (a teacher, its student, two masks) runs
once in this process; then it runs on the cluster in every round, from an empty file of results. In a round of `worker` one
process that does a run is killed at a random moment; in a round of `node` the second raylet is, when it has a run, and
another one joins afterwards. Every line must be there once and be that of the run in this process, times aside.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from ray_kit import MACHINE, start_cluster, without_times, write_inputs, write_plan

from maskpack.compressor.sweep.executors import ExecutorOptions
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.log import read_log
from maskpack.compressor.sweep.run import run_sweep


def busy_workers(raylet: int) -> list[psutil.Process]:
    """Processes of a raylet that do a run: Ray titles them with the run's name."""
    found = []
    with suppress(psutil.Error):
        for process in psutil.Process(raylet).children():
            with suppress(psutil.Error):
                if process.cmdline()[0].startswith("ray::model,"):
                    found.append(process)
    return found


def raylet_of(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


class Killer(threading.Thread):
    """Kills once, a random time after the first worker of the raylets is busy."""

    def __init__(self, raylets: list[int], kind: str, delay: float) -> None:
        super().__init__(daemon=True)
        self.raylets, self.kind, self.delay = raylets, kind, delay
        self.killed: str | None = None
        self.over = threading.Event()

    def run(self) -> None:
        """Wait for the moment, kill, end."""
        due: float | None = None
        while not self.over.wait(0.02):
            busy = [process for raylet in self.raylets for process in busy_workers(raylet)]
            if busy and due is None:
                due = time.monotonic() + self.delay
            if not busy or due is None or time.monotonic() < due:
                continue
            with suppress(psutil.Error):
                title = busy[0].cmdline()[0]
                victim = self.raylets[0] if self.kind == "node" else busy[0].pid
                os.kill(victim, signal.SIGKILL)
                self.killed = title
                return


class Notes(logging.Handler):
    """Counts workers that the executor says it lost."""

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count the record if it says so."""
        self.lost += "was lost" in record.getMessage()


def one_round(
    folder: Path, cluster: Any, kind: str, delay: float, reference: dict[str, str]
) -> Any:
    for path in (folder / "plan.jsonl", folder / "plan.runs"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    plan = read_plan(folder / "plan.yaml")
    nodes = [cluster.head_node, *cluster.worker_nodes]
    raylets = [raylet_of(node) for node in (nodes if kind == "worker" else nodes[1:])]
    random.shuffle(raylets)
    notes, killer = Notes(), Killer(raylets, kind, delay)
    logger = logging.getLogger("maskpack.compressor.sweep.ray_executor")
    logger.addHandler(notes)
    killer.start()
    began = time.monotonic()
    failures = run_sweep(
        plan.runs, plan.out,
        watch=lambda _: nullcontext(lambda _: None), failed=print,
        executor="ray", options=ExecutorOptions(cluster.address, plan.resources),
    )  # fmt: skip
    seconds = time.monotonic() - began
    killer.over.set()
    logger.removeHandler(notes)
    if kind == "node" and killer.killed:
        cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        cluster.add_node(**MACHINE)
        cluster.wait_for_nodes()
    log = read_log(plan.out)
    counts = Counter(line["sweep_key"] for line in log.lines)
    found = without_times(list(log.lines))
    return {
        "kind": kind,
        "killed": killer.killed,
        "workers_lost": notes.lost,
        "lines": len(log.lines),
        "lost": len(reference.keys() - counts.keys()),
        "doubled": sum(count > 1 for count in counts.values()),
        "torn": log.torn,
        "different": sum(found[key] != reference[key] for key in found.keys() & reference.keys()),
        "failures": len(failures),
        "left": sorted(path.name for path in plan.home.iterdir() if path.name.startswith(".")),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", default=["worker", "node"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds until the kill")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, hidden=args.hidden)
        plan = read_plan(write_plan(folder, steps=args.steps, seeds=1))
        import torch

        torch.set_num_threads(1)
        quiet = {"watch": lambda _: nullcontext(lambda _: None), "failed": print}
        assert run_sweep(plan.runs, plan.out, **quiet) == ()
        reference = without_times(list(read_log(plan.out).lines))
        cluster = start_cluster(2)
        import ray

        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        rounds = []
        for kind in args.kinds:
            while (
                sum(each["kind"] == kind and each["killed"] is not None for each in rounds)
                < args.rounds
            ):
                delay = random.uniform(0, args.longest)
                rounds.append(one_round(folder, cluster, kind, delay, reference))
                print(json.dumps(rounds[-1]), flush=True)
                args.out.write_text(json.dumps(report(args, rounds), indent=1) + "\n")
        ray.shutdown()
        cluster.shutdown()


def report(args: argparse.Namespace, rounds: list[Any]) -> dict[str, Any]:
    sums = {}
    for kind in args.kinds:
        killed = [each for each in rounds if each["kind"] == kind and each["killed"]]
        sums[kind] = {
            "rounds": len(killed),
            **{
                name: sum(each[name] for each in killed)
                for name in ("workers_lost", "lost", "doubled", "torn", "different", "failures")
            },
        }
    return {
        "command": f"ray_kills.py --rounds {args.rounds} --steps {args.steps} --hidden {args.hidden}",
        "runs_a_round": 4,
        "sums": sums,
        "rounds": rounds,
    }


if __name__ == "__main__":
    main()
