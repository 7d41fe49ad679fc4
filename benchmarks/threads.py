"""Threads on a machine that others use too: steps a second of training, and latency of a graph, with one busy core and without.

python benchmarks/threads.py train --out docs/results/threads-train.json
python benchmarks/threads.py predict --graph FOLDER/model.onnx --out docs/results/threads-predict.json

A process for each setting waits for its turn; in each round every setting is measured under every load, one at a time and in an
order drawn anew. `busy` is a loop of Python of the same priority, `nice 10` one of a lower priority. With each figure stands how many
cores were kept busy by anything else (`others`), whatever its priority, and with each load what `threads_now` would choose.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # the settings are what is measured
    os.environ.pop(_name, None)

LOADS = {"free": None, "busy": 0, "nice 10": 10, "nice 19": 19}
TRAIN = {"1": 1, "2": 2}
PREDICT = {"1": (1, True), "2": (2, True), "2-asleep": (2, False)}
LENGTHS = (16, 128)
LOOP = "while True: pass"


def train_worker(threads: int, seconds: float) -> None:
    """Learn a mask on random words without end; a line of input is answered with the steps of some seconds."""
    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.tasks import find_task

    turns = _turns(seconds)
    next(turns)
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.csv"
        with rows.open("w", encoding="utf-8", newline="") as file:
            draw, table = random.Random(0), csv.writer(file)
            table.writerow(["text", "label"])
            for _ in range(20_000):
                words = draw.choices(
                    ["good", "bad", "film", "plot", "long", "scene", "actor", "the", "a", "of"],
                    k=24,
                )
                table.writerow([" ".join(words), draw.choice(["no", "yes"])])
        request = FitRequest(
            model="demo",
            task=find_task("words", text_field="text", label_field="label"),
            out=Path(folder) / "artifact",
            config=FitConfig(quantizer="minmax", teacher="none", epochs=1000, checkpoint_every=0),
            data=rows,
            eval_data=None,
            threads=threads,
        )
        fit_task(request, on_progress=lambda _: turns.send(None))


def _turns(seconds: float):
    """Called after every step: answers a line of input when so many seconds have passed since it, and waits for the next."""
    while True:
        input()
        began, worked, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - began < seconds:
            yield
            count += 1
        spent = time.perf_counter() - began
        answer = {"per_second": count / spent, "seconds": spent}
        print(json.dumps({**answer, "cpu": time.process_time() - worked}), flush=True)


def predict_worker(graph: str, threads: int, spinning: bool, seconds: float) -> None:
    """Run a graph on one text; a line of input is a length, its answer the median milliseconds of some seconds."""
    import onnxruntime

    from maskpack.exporters.session import token_feeds
    from maskpack.runtime.graph import session_options

    options = session_options(threads=threads)
    options.add_session_config_entry("session.intra_op.allow_spinning", "01"[spinning])
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for line in sys.stdin:
        feeds, times = token_feeds(session, batch=1, length=int(line)), []
        session.run(None, feeds)
        began, worked = time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            at = time.perf_counter()
            session.run(None, feeds)
            times.append((time.perf_counter() - at) * 1e3)
        spent, used = time.perf_counter() - began, time.process_time() - worked
        answer = {"ms": median(times), "ms90": sorted(times)[len(times) * 9 // 10]}
        print(json.dumps({**answer, "seconds": spent, "cpu": used}), flush=True)


class Worker:
    """A process that measures on demand."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: object = "") -> dict:
        """One measurement."""
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Stop the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def load(niceness: int | None):
    """A loop that keeps a core busy; gives its process, or None where there is none."""
    if niceness is None:
        yield None
        return
    process = subprocess.Popen(["nice", "-n", str(niceness), sys.executable, "-c", LOOP])
    time.sleep(0.3)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def watched(ask, hog: int | None) -> dict:
    """A measurement, with the cores that other programs than worker and loop kept busy meanwhile."""
    before, own = _all(), _cpu(hog)
    answer, began = None, time.perf_counter()
    answer = ask()
    spent = time.perf_counter() - began
    others = (_all() - before - (_cpu(hog) - own) - answer["cpu"]) / spent
    return {**answer, "others": round(others, 2)}


def _all() -> float:
    """Seconds that all processors have worked, for programs of every priority."""
    from maskpack.formats.processors import busy_seconds

    text = Path("/proc/stat").read_text(encoding="ascii")
    return busy_seconds(text, range(os.cpu_count()), os.sysconf("SC_CLK_TCK"))


def _cpu(pid: int | None) -> float:
    """Seconds that a process has worked."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(workers: dict[str, Worker], lines: tuple, rounds: int) -> list[dict]:
    """Every worker under every load, `rounds` times."""
    from maskpack.formats.processors import threads_now

    found, draw = [], random.Random(0)
    for number in range(rounds):
        for name in draw.sample(list(LOADS), len(LOADS)):
            with load(LOADS[name]) as hog:
                auto = threads_now().count
                turns = [(setting, line) for setting in workers for line in lines]
                for setting, line in draw.sample(turns, len(turns)):
                    cell = watched(lambda s=setting, at=line: workers[s].ask(at), hog)
                    keys = {"round": number, "load": name, "setting": setting, "length": line}
                    found.append({**keys, **cell, "auto": auto})
                    print(found[-1], flush=True)
    return found


def main() -> None:
    """Measure one of the two, and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("train", "predict", "train-worker", "predict-worker"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--graph")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.what == "train-worker":
        train_worker(int(args.rest[0]), float(args.rest[1]))
    if args.what == "predict-worker":
        graph, threads, spinning, seconds = args.rest
        predict_worker(graph, int(threads), spinning == "True", float(seconds))
    if args.what == "train":
        workers = {name: Worker("train-worker", count, 4) for name, count in TRAIN.items()}
        lines: tuple = ("",)
    else:
        settings = {name: (args.graph, *how, 1.0) for name, how in PREDICT.items()}
        workers = {name: Worker("predict-worker", *how) for name, how in settings.items()}
        lines = LENGTHS
    try:
        for worker in workers.values():
            worker.ask(lines[0])  # from now on each one waits
        found = measure(workers, lines, args.rounds)
    finally:
        for worker in workers.values():
            worker.end()
    text = "[\n" + ",\n".join(json.dumps(cell) for cell in found) + "\n]\n"
    if args.out is not None:
        args.out.write_bytes(text.encode())


if __name__ == "__main__":
    main()
