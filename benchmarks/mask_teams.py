"""What several masks give that one does not: snapshots of a run, three runs, peers, and generations that teach the next one.

    python benchmarks/mask_teams.py --work /tmp/teams --out docs/results/mask-teams.jsonl
    python benchmarks/mask_teams.py --work /tmp/teams --out docs/results/mask-teams-cola.jsonl --glue cola=GLUE/CoLA
    python benchmarks/mask_teams.py --out docs/results/mask-teams.jsonl --table

Without `--glue`: the ViT, the digits and the rows of `piggyback_methods.py`, with a margin of .4; with it: that task on the demo model, with
the defaults. Masks are 4 bits, and no dense model teaches. All tasks of a seed lie in one artifact; it is exported over one `backbone.bin`
in fp32, and an ensemble is the mean of the outputs of several of its graphs. Each figure is a line of OUT; a seed whose lines are there is left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from piggyback import HEAD_LR, write_folders
from piggyback_methods import TASK, work_of

from maskpack.compressor import FitConfig, FitRequest, RunResult, fit_task
from maskpack.exporters import SharedRequest, Tolerance, export_shared
from maskpack.formats import open_artifact
from maskpack.tasks import Task, VoteRequest, find_task, vote_tasks
from maskpack.tasks.evaluation.exported import assess_exported

Options = dict[str, Any]
CYCLES = {"schedule": "restarts", "cycles": 3}
LONGER = 3  # times the usual epochs
_SINGLE = ("one run", "another seed", "a third seed")
SNAPSHOTS, LONG_SNAPSHOTS = (("snaps", "snaps-1", "snaps-2"), ("lsnaps", "lsnaps-1", "lsnaps-2"))
RUNS = ("alone", "alone-b", "alone-c")
ENSEMBLES = {
    "three snapshots together": SNAPSHOTS,
    "three snapshots of a run of three times the steps together": LONG_SNAPSHOTS,
    "three runs together": RUNS,
    "two peers together": ("peers", "peers-peer"),
}
VOTES = {
    "vote of three snapshots": SNAPSHOTS,
    "vote of three snapshots of a run of three times the steps": LONG_SNAPSHOTS,
    "vote of three runs": RUNS,
}


@dataclass(frozen=True)
class Field:
    """A task on a model, and how masks learn it."""

    model: str
    task: Task
    data: Path
    options: Options

    @property
    def epochs(self) -> float:
        """Of a usual run."""
        return float(self.options["epochs"])


def digits(work: Path, seed: int) -> Field:
    """The ViT that knows other digits."""
    if not (work / "data").exists():
        write_folders(work / "data")
    model, _ = work_of(work, seed, epochs=60)
    options = {"epochs": 20, "head_lr": HEAD_LR, "precision": "fp32", "margin": 0.4}
    return Field(str(model), TASK, work / "data" / "new", options)


def text(named: str) -> Field:
    """A task of GLUE on the demo model, from TASK=FOLDER."""
    name, folder = named.split("=")
    options = {"epochs": 3, "max_length": 64, "batch_size": 32, "pooling": "mean"}
    return Field("demo", find_task(name), Path(folder), options)


def runs_of(own: Field, artifact: Path) -> dict[str, tuple[str, Options]]:
    """What is learned: its words -> name of the task and options. A generation stands behind the one that teaches it."""
    long = {"epochs": LONGER * own.epochs}
    return {
        "one run": ("alone", {}),
        "another seed": ("alone-b", {"seed": 100}),
        "a third seed": ("alone-c", {"seed": 200}),
        "three times the steps": ("long", long),
        "last of three snapshots": ("snaps", {**CYCLES, "snapshots": True}),
        "last of three snapshots, three times the steps": ("lsnaps", {**CYCLES, **long, "snapshots": True}),
        "each snapshot teaches the next": ("own-snap", {**CYCLES, "teacher": "snapshot"}),
        "the better of two peers": ("peers", {"teacher": "peer", "snapshots": True}),
        "second generation": ("second", {"teacher": f"{artifact}#alone"}),
        "third generation": ("third", {"teacher": f"{artifact}#second"}),
    }  # fmt: skip


def learn(own: Field, artifact: Path, seed: int, name: str, options: Options) -> RunResult:
    """One run; a further seed stands in `options` as what is added."""
    whole = {"teacher": "none", **own.options, **options, "seed": seed + options.get("seed", 0)}
    request = FitRequest(
        own.model, own.task, artifact, FitConfig(bits=4, **whole), data=own.data, name=name
    )
    return fit_task(request)


def figures(own: Field, work: Path, seed: int) -> list[Options]:
    """All lines of a seed."""
    artifact, graphs = (
        work / f"teams-{own.task.name}-{seed}",
        work / f"graphs-{own.task.name}-{seed}",
    )
    for place in (artifact, graphs):
        shutil.rmtree(place, ignore_errors=True)
    found = {}
    for words, (name, options) in runs_of(own, artifact).items():
        run = learn(own, artifact, seed, name, options)
        found[words] = (run.score, run.seconds)
    for number, (words, members) in enumerate(VOTES.items()):
        request = VoteRequest(artifact, members, f"vote-{number}", data=own.data)
        found[words] = (vote_tasks(request).assessment.scores[own.task.metric], None)
    export_shared(SharedRequest(artifact, (), graphs, "fp32", Tolerance(None, 1.0), verify=False))
    opened = open_artifact(artifact)
    for words, members in ENSEMBLES.items():
        told = assess_exported(opened, graphs, members[0], data=own.data, ensemble=members[1:])
        found[words] = (told.scores[own.task.metric], None)
    return [
        {"seed": seed, "method": words, "score": score, "metric": own.task.metric, "seconds": seconds}
        for words, (score, seconds) in found.items()
    ]  # fmt: skip


def table(lines: list[Options]) -> str:
    """Mean and deviation over seeds, and the mean gain over what three single runs of the same seed have in the mean."""
    alone = {
        seed: statistics.mean(
            each["score"] for each in lines if each["seed"] == seed and each["method"] in _SINGLE
        )
        for seed in {each["seed"] for each in lines}
    }
    rows = ["| | mean ± SD | beside one of three runs, points | seeds |", "|---|---|---|---|"]
    for method in dict.fromkeys(each["method"] for each in lines):
        own = [each for each in lines if each["method"] == method]
        scores = [each["score"] for each in own]
        gains = [100 * (each["score"] - alone[each["seed"]]) for each in own]
        deviations = [statistics.stdev(some) if len(some) > 1 else 0.0 for some in (scores, gains)]
        rows.append(
            f"| {method} | {statistics.mean(scores):.3f} ± {deviations[0]:.3f} "
            f"| {statistics.mean(gains):+.1f} ± {deviations[1]:.1f} | {len(own)} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("/tmp/teams"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--glue", metavar="TASK=FOLDER")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    lines = (
        [json.loads(one) for one in args.out.read_text().splitlines()] if args.out.exists() else []
    )
    if args.table:
        print(table(lines))
        return
    for seed in sorted(set(args.seeds) - {each["seed"] for each in lines}):
        own = text(args.glue) if args.glue else digits(args.work, seed)
        found = figures(own, args.work, seed)
        with args.out.open("a") as out:
            out.writelines(json.dumps(each) + "\n" for each in found)
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
