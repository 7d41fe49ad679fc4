"""Tables, tokenizer folders and model folders as users have them, against the product: what it makes of each.

python benchmarks/fuzz_inputs.py --cases 20000 --json docs/results/fuzz-inputs.json
python benchmarks/fuzz_inputs.py --case 1234

A case is one of five kinds. A *table* is read as training, evaluation and `predict` read it. With a *tokenizer*
texts become tokens as in training, in evaluation and on a device. A *model* folder is loaded. A *whole* case learns
two steps, exports and answers. A *command* calls `compress` in this process. Each case follows from the seed and
its number, so that a number repeats it.

Counted are: *worked*; *refused* with one of our errors; *bugs*, any other exception, exit code or silence of half a
minute; *differences* between training and answering that nothing tells. Cases run in a forked process that is
replaced every few hundred, so that a library that ends the process counts as a bug of one case.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from fuzz_commands import cli_case
from fuzz_models import KINDS as MODELS
from fuzz_models import make_models
from fuzz_whole import (
    DifferenceError,
    Kit,
    model_case,
    table_case,
    tokenizer_case,
    whole_case,
)

from maskpack.exporters.graph import trace
from maskpack.formats import MaskpackError

KINDS = {
    "table": (table_case, 617),
    "tokenizer": (tokenizer_case, 170),
    "model": (model_case, 180),
    "whole": (whole_case, 25),
    "command": (cli_case, 8),
}
"""Kind -> its function, and how many of a thousand cases are of it."""

_SECONDS = 30
_MEMORY = 6 << 30  # of address space beyond what the libraries take
_CHUNK = 400


class SlowError(BaseException):
    """A case takes longer than anybody would wait."""


def kind_of(seed: int, case: int) -> tuple[str, random.Random]:
    """The kind of a case, and the numbers that it follows from."""
    rng = random.Random(f"{seed} {case}")
    names = list(KINDS)
    return rng.choices(names, [KINDS[name][1] for name in names])[0], rng


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise SlowError(f"more than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of the processor, which other programs use too
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run_case(seed: int, case: int, kit: Kit, work: Path) -> dict[str, Any]:
    """One case: its kind, its outcome, and of a bug or a difference where it was."""
    kind, rng = kind_of(seed, case)
    folder = work / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found: dict[str, Any] = {"case": case, "kind": kind}
    began = time.process_time()
    try:
        with _limited(_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found["outcome"] = KINDS[kind][0](rng, folder, kit)
    except MaskpackError as error:
        found |= {"outcome": "refused", "class": type(error).__name__, "said": str(error)[:300]}
    except DifferenceError as error:
        found |= {"outcome": "difference", "said": str(error)[:1000]}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - what is looked for; some libraries raise no `Exception`
        said = traceback.format_exc()[-2500:]
        found |= {"outcome": "bug", "class": type(error).__name__, "said": said}
    found["seconds"] = round(time.process_time() - began, 4)
    return found


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))


def _work(seed: int, cases: list[int], kit: Kit, work: Path, pipe: Any) -> None:
    """Run cases in a process of their own; say of each when it begins and what it became."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _limit_memory()
    for case in cases:
        pipe.send({"case": case})
        pipe.send(run_case(seed, case, kit, work))
    pipe.send(dict(trace._graphs))  # noqa: SLF001 - the next process need not trace them again
    pipe.close()


def run_all(seed: int, cases: list[int], kit: Kit, work: Path) -> Iterator[dict[str, Any]]:
    """What each case became, in their order."""
    context = multiprocessing.get_context("fork")
    while cases:
        some, at = cases[:_CHUNK], None
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(seed, some, kit, work, theirs))
        process.start()
        theirs.close()
        done = 0
        try:
            while "outcome" in (said := ours.recv()) or "case" in said:
                if "outcome" not in said:
                    at = said["case"]
                    continue
                done, at = done + 1, None
                yield said
            trace._graphs.update(said)  # noqa: SLF001
        except EOFError:
            process.join()
            if at is None:
                raise
            yield {
                "case": at,
                "kind": kind_of(seed, at)[0],
                "outcome": "bug",
                "class": f"exit {process.exitcode}",
                "said": "the process ended",
                "seconds": 0.0,
            }
            done += 1
        process.join()
        cases = cases[done:]


def counted(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts by kind, and of refusals by class."""
    by_kind: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    refused: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    seconds: Counter[str] = Counter()
    for one in found:
        by_kind[one["kind"]][one["outcome"]] += 1
        seconds[one["kind"]] += one["seconds"]
        if one["outcome"] == "refused":
            refused[one["kind"]][one["class"]] += 1
    return {
        "outcomes": sum(by_kind.values(), Counter()),
        "by kind": by_kind,
        "refused by class": refused,
        "seconds by kind": {kind: round(value, 1) for kind, value in seconds.items()},
    }


def prepared(root: Path) -> Kit:
    """The models that cases share; the exported task is made when a command first asks for it."""
    torch.set_num_threads(1)
    logging.getLogger("maskpack").setLevel(logging.INFO)
    logging.getLogger("maskpack").addHandler(logging.NullHandler())
    trace._KEPT = 200  # noqa: SLF001 - graphs of all architectures, which are most of the time of an export
    make_models(root)
    kit = Kit(root)
    for kind in MODELS:
        kit.classifier(kind)
    return kit


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="repeat one case, and keep its folder")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=shared) as root:
        kit = prepared(Path(root))
        kit.exported()
        if arguments.case is not None:
            work = Path(tempfile.mkdtemp(prefix="fuzz-"))
            found = run_case(arguments.seed, arguments.case, kit, work)
            print(found.pop("said", ""), found, work / "case", sep="\n")
            return
        began, all_found = time.perf_counter(), []
        for found in run_all(
            arguments.seed,
            list(range(arguments.first, arguments.first + arguments.cases)),
            kit,
            Path(root) / "work",
        ):
            all_found.append(found)
            if found["outcome"] in {"bug", "difference"}:
                print(
                    f"case {found['case']}, {found['kind']}: {found['outcome']}\n{found['said']}",
                    flush=True,
                )
            if len(all_found) % 500 == 0:
                print(f"{len(all_found)} cases, {time.perf_counter() - began:.0f} s", flush=True)
    result = {"cases": arguments.cases, "seed": arguments.seed, **counted(all_found)}
    result["bad"] = [one for one in all_found if one["outcome"] in {"bug", "difference"}][:20]
    result["seconds"] = round(time.perf_counter() - began)
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    _print(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def _print(result: dict[str, Any]) -> None:
    columns = ("worked", "worked, and a difference told", "refused", "bug", "difference")
    print(f"| kind | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for kind, row in [*result["by kind"].items(), ("**all**", result["outcomes"])]:
        print(f"| {kind} | {' | '.join(str(row.get(name, 0)) for name in columns)} |")
    print(
        json.dumps(result["refused by class"], sort_keys=True),
        result["seconds by kind"],
        result["seconds"],
        "s",
    )


if __name__ == "__main__":
    main()
