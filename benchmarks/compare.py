"""maskpack beside its neighbours: the same model, rows and budget; commands as their users type them.

    python benchmarks/compare.py WORK --glue GLUE --olive olive --out docs/results/compare.json
    python benchmarks/compare.py WORK --out docs/results/compare.json --summary

Three tasks times three seeds are nine tasks of one model. Every command of `TRAINING` and `ROUTES` runs once a
task, in WORK, unless what it makes is there; then all graphs are scored on the tasks' whole dev files and
timed against each other. GLUE is the folder of `quality.yaml`. Olive wants an environment of its own
(`pip install olive-ai peft onnxruntime torch==2.13.0`); `--olive` is its command. Without one its rows are left out.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from compare_routes import COUNTS, DATA, HERE, OLIVE, ROUTES, TRAINING, UNITS, Route, routes, typed
from session_memory import session_memory

from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.session import (
    AdaptedSession,
    make_session,
    ort_predict,
    quantile,
    speedup,
    take_turns,
    token_feeds,
)
from maskpack.formats import open_artifact, pack_task
from maskpack.models.load import load_tokenizer
from maskpack.models.locate import resolve
from maskpack.runtime.graph import task_run
from maskpack.runtime.task import ADAPTER_SUFFIX, BASE
from maskpack.tasks import find_task, load_data
from maskpack.tasks.batches import Encoded, predict_all
from maskpack.tasks.evaluation.metrics import compute_metrics, majority
from maskpack.tasks.texts import TextPreprocessor

SHAPES = ((1, 16), (1, 128))
MAX_LENGTH = 64


def run(command: str, work: Path, made: Path) -> None:
    """Run a command in `work` unless what it makes is there; keep what it said."""
    if made.exists():
        return
    sys.stderr.write(f"{command}\n")
    log = work / "logs" / f"{made.relative_to(work).as_posix().replace('/', '.')}.log"
    log.parent.mkdir(exist_ok=True)
    started = time.perf_counter()
    with log.open("w") as file:
        subprocess.run(shlex.split(command), cwd=work, check=True, stdout=file, stderr=file)
    spent = {"command": command, "seconds": round(time.perf_counter() - started, 1)}
    with (work / "commands.jsonl").open("a") as file:
        file.write(json.dumps(spent) + "\n")


def make_all(work: Path, olive: str | None) -> None:
    """Train and export whatever is not there yet."""
    for unit in UNITS:
        for training in TRAINING:
            command = typed(training.command, unit, here=str(HERE))
            run(command, work, work / typed(training.makes, unit))
    (work / "olive.json").write_text(json.dumps(OLIVE, indent=2))
    for name, route in routes(olive).items():
        for unit in UNITS:
            places = {"out": f"graphs/{name}", "olive": olive or "", "model": resolve("demo")}
            made = work / "graphs" / name / typed(route.graph, unit)
            made.parent.mkdir(parents=True, exist_ok=True)
            for command in route.commands:
                last = command == route.commands[-1]
                out = made if last else work / f"graphs/{name}/{unit}-captured"
                run(typed(command, unit, **places), work, out)


def session_of(work: Path, name: str, route: Route, unit: str):
    folder = work / "graphs" / name
    session = make_session(folder / typed(route.graph, unit), threads=1)
    if route.adapter is None:
        return session
    return AdaptedSession(session, task_run(folder / typed(route.adapter, unit)))


def memory_of(work: Path, name: str, route: Route, units: tuple[str, ...]) -> float:
    """MiB that sessions of so many tasks add to a fresh process, each having answered once."""
    folder, places = work / "graphs" / name, []
    for unit in units:
        graph = folder / typed(route.graph, unit)
        adapter = folder / typed(route.adapter, unit) if route.adapter else None
        if graph.suffix == ADAPTER_SUFFIX:
            graph, adapter = graph.with_name(BASE), graph
        if adapter and places:  # one graph for all
            graph = Path(places[0][0])
        places.append((str(graph), str(adapter) if adapter else None))
    return session_memory(places, answer=True)["rss_mib"]


def bytes_of(work: Path, name: str, route: Route, units: tuple[str, ...]) -> int:
    """Of the graphs and weights of so many tasks; tokenizers and configurations are the same for all."""
    folder = work / "graphs" / name
    if route.adapter:  # one graph, an adapter each
        files = [folder / typed(route.graph, units[0])]
        files += [folder / typed(route.adapter, unit) for unit in units]
    else:
        files = [folder / typed(route.graph, unit) for unit in units]
        # none is left out: a missing one would make a route look small
        files += [folder / other for other in route.with_it]
    return sum(file.stat().st_size for file in files)


def stored_bytes(work: Path) -> dict[str, dict[str, int]]:
    """What is kept or sent without a graph: title -> number of tasks -> bytes."""
    artifact = open_artifact(work / "artifact")
    twin = (work / f"twins/{UNITS[0]}/model.safetensors").stat().st_size
    backbone = (work / "artifact/backbone.safetensors").stat().st_size
    adapter = {
        unit: (work / f"peft/{unit}/adapter/adapter_model.safetensors").stat().st_size
        for unit in UNITS
    }
    mask = {unit: (work / f"artifact/tasks/{unit}.safetensors").stat().st_size for unit in UNITS}
    packed = {unit: len(pack_task(artifact, unit)) for unit in UNITS}
    return {
        title: {str(count): shared + sum(each[unit] for unit in UNITS[:count]) for count in COUNTS}
        for title, shared, each in (
            ("fine-tuned models, fp32", 0, dict.fromkeys(UNITS, twin)),
            ("base model and LoRA adapters (PEFT), fp32", twin, adapter),
            ("**maskpack**: artifact, 4 bits", backbone, mask),
            ("**maskpack**: backbone and packed tasks", backbone, packed),
        )
    }


def dev_rows(glue: Path) -> dict[str, Encoded]:
    """Task -> tokens of its dev file."""
    preprocessor = TextPreprocessor(load_tokenizer(resolve("demo")), token_types=True)
    found = {}
    for task, data in DATA.items():
        split = load_data(find_task(task), data=glue / data.split()[0]).dev
        found[task] = preprocessor.encode(split, max_length=MAX_LENGTH)
    return found


def score_all(
    work: Path, rows: dict[str, Encoded], olive: str | None
) -> Iterator[tuple[str, str, dict]]:
    """Route, task and seed, figures: the task's metric, and rows whose class rounding changed."""
    for unit in UNITS:
        task = find_task(unit.partition("-")[0])
        encoded, logits = rows[task.name], {}
        for name, route in routes(olive).items():
            logits[name] = predict_all(ort_predict(session_of(work, name, route, unit)), encoded)
            figures = compute_metrics(task.type, logits[name], encoded.labels, task.metrics)
            if route.whole:
                same = logits[name].argmax(axis=1) == logits[route.whole].argmax(axis=1)
                figures["changed"] = float(1 - same.mean())
            yield name, unit, figures


def time_all(work: Path, olive: str | None, runs: int) -> dict[str, dict]:
    """Shape -> route -> milliseconds and times as fast as the dense graph, in turns."""
    timed = {name: route for name, route in routes(olive).items() if route.timed}
    sessions = {name: session_of(work, name, route, UNITS[0]) for name, route in timed.items()}
    found: dict[str, dict] = {}
    for batch, length in SHAPES:
        feeds = {
            name: token_feeds(session, batch=batch, length=length)
            for name, session in sessions.items()
        }
        spent = take_turns(sessions, feeds, runs=runs)
        found[f"{batch}x{length}"] = {
            name: {
                "ms": quantile(times.wall, 0.5),
                "speedup": speedup(spent["dense"].wall, times.wall),
                "cpu_speedup": speedup(spent["dense"].cpu, times.cpu),
            }
            for name, times in spent.items()
        }
    return found


def measure(work: Path, olive: str | None, runs: int) -> dict:
    """All figures."""
    before, rows = load_average(), dev_rows(work / "GLUE")
    scores: dict[str, dict] = {}
    for name, unit, figures in score_all(work, rows, olive):
        sys.stderr.write(f"{name} {unit} {figures}\n")
        scores.setdefault(name, {})[unit] = figures
    known = routes(olive)
    return {
        "versions": {
            name: version(name)
            for name in ("onnxruntime", "optimum", "optimum-onnx", "peft", "torch", "transformers")
        },
        "majority": {
            task: majority(find_task(task).type, encoded.labels, find_task(task).metrics)
            for task, encoded in rows.items()
        },
        "scores": scores,
        "bytes": {
            name: {str(count): bytes_of(work, name, route, UNITS[:count]) for count in COUNTS}
            for name, route in known.items()
        },
        "memory_mib": {
            name: {str(count): memory_of(work, name, route, UNITS[:count]) for count in COUNTS}
            for name, route in known.items()
        },
        "stored": stored_bytes(work),
        "latency": time_all(work, olive, runs),
        "machine": asdict(this_machine(before)),
    }


def short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def mean_sd(values: list[float]) -> str:
    return f"{short(np.mean(values))} ± {short(np.std(values, ddof=1))}"


def print_table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def megabytes(sizes: dict[str, int]) -> list[str]:
    return [f"{sizes[str(count)] / 1e6:.1f} MB" for count in COUNTS]


def quality_rows(found: dict, known: dict[str, Route]) -> list[list[str]]:
    """A row a route: each task's main metric, the mean of all, and what rounding changed."""
    metrics = {task: find_task(task).metric for task in DATA}
    lowest = [found["majority"][task][metric] for task, metric in metrics.items()]
    rows = [["majority class", *map(short, lowest), short(np.mean(lowest)), ""]]
    for name, route in known.items():
        scores = found["scores"][name]
        by_task = [
            [figures[metric] for unit, figures in scores.items() if unit.startswith(task)]
            for task, metric in metrics.items()
        ]
        changed = [figures["changed"] for figures in scores.values() if "changed" in figures]
        share = f"{100 * np.mean(changed):.1f} %" if changed else ""
        rows.append([route.title, *map(mean_sd, by_task), short(np.mean(by_task)), share])
    return rows


def latency_cells(found: dict, name: str) -> list[str]:
    cells = []
    for batch, length in SHAPES:
        figures = found["latency"][f"{batch}x{length}"][name]
        cells.append(f"{figures['ms']:.2f} ms, {figures['speedup']:.2f}x")
    return cells


def summarise(found: dict) -> None:
    """The tables of docs/compare.md."""
    known = {name: route for name, route in ROUTES.items() if name in found["scores"]}
    timed = {name: route for name, route in known.items() if route.timed}
    tasks = [f"{count} task{'s' * (count > 1)}" for count in COUNTS]
    metrics = [f"{task}, {find_task(task).metric}" for task in DATA]
    print_table(["", *metrics, "mean", "rows changed by rounding"], quality_rows(found, known))
    rows = [
        [route.title, *megabytes(found["bytes"][name]), *latency_cells(found, name)]
        for name, route in timed.items()
    ]
    shapes = [f"{batch} x {length}" for batch, length in SHAPES]
    print_table(["runs in ONNX Runtime", *tasks, *shapes], rows)
    rows = [
        [route.title, *(f"{found['memory_mib'][name][str(count)]:.0f} MiB" for count in COUNTS)]
        for name, route in timed.items()
    ]
    print_table(["memory of sessions", *tasks], rows)
    order = sorted(found["stored"].items(), key=lambda item: -item[1][str(COUNTS[-1])])
    print_table(["kept or sent", *tasks], [[title, *megabytes(sizes)] for title, sizes in order])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--glue", type=Path)
    parser.add_argument("--olive", help="the command of Olive")
    parser.add_argument("--runs", type=int, default=61)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--summary", action="store_true", help="only print the tables")
    arguments = parser.parse_args()
    if not arguments.summary:
        work = arguments.work.absolute()
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "GLUE").exists():
            (work / "GLUE").symlink_to(arguments.glue.absolute())
        make_all(work, arguments.olive)
        found = measure(work, arguments.olive, arguments.runs)
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    summarise(json.loads(arguments.out.read_text()))


if __name__ == "__main__":
    main()
