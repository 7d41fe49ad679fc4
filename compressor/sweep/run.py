"""Run a sweep's plan: each missing run adds one line to the file of results, a failure stops only its own run.

A run is finished when its key is in the file. A teacher whose model is gone is trained again when a run
needs it. A backbone is quantised once and copied for every run that learns a mask on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.baseline import run_baseline
from maskpack.compressor.config import BaselineConfig
from maskpack.compressor.fit import fit_task
from maskpack.compressor.quantization.backbone import make_backbone, needs_calibration
from maskpack.compressor.sweep.executors import EXECUTORS, Do, ExecutorOptions
from maskpack.compressor.sweep.log import append, check_log, claim, read_log
from maskpack.compressor.sweep.plan import Run, slug
from maskpack.compressor.threads import training_threads
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import BaselineRequest, FitRequest, RunResult
from maskpack.formats import ArtifactError, ConfigError, Interrupted, MaskpackError, is_artifact
from maskpack.formats.errors import Hint
from maskpack.formats.files import rename, scratch_folder
from maskpack.formats.lazy import find_entry
from maskpack.formats.writer import check_writable
from maskpack.models.families import IMAGES
from maskpack.tasks.data.splits import Split, load_data


def shared_backbone(
    run: Run, *, on_progress: OnProgress, device: str | None = None, threads: int | None = None
) -> Path:
    """The artifact with the run's backbone and no task; made if it does not exist."""
    made = backbone_folder(run)
    if not is_artifact(made):
        with claim(made.with_name(f".{made.name}.running") / "claim", wait=True):
            if not is_artifact(made):  # another process may have made it meanwhile
                make_backbone(
                    run.model.source,
                    made,
                    _options(run),
                    device=device,
                    threads=threads,
                    rows=_rows(run),
                    on_progress=on_progress,
                )
    return made


def _rows(run: Run) -> Split | None:
    """The rows of the run's task, if the codes are found on their images."""
    task = run.task
    if not _is_of_task(run):
        return None
    return load_data(task.task, data=task.data, eval_data=task.eval_data).train


def _is_of_task(run: Run) -> bool:
    """Whether the run's backbone depends on its task: on images, where few bits are calibrated and no other ones are named."""
    options = _options(run)
    named = options.random is not None or options.calibration is not None
    return run.task.task.type.reads == IMAGES and not named and needs_calibration(options)


def backbone_folder(run: Run) -> Path:
    """Folder of the backbone of this run and of all runs that share it."""
    options = {**asdict(_options(run)), "calibration": run.arm.digests.get("calibration")}
    facts: list[object] = [run.model.digest, options]
    if _is_of_task(run):
        facts.append(run.task.digest)
    text = json.dumps(facts, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()[:12]
    return run.home / "backbones" / f"{slug(run.model.name)}-{options['bits']}-{digest}"


def _options(run: Run) -> BackboneConfig:
    config = run.config()
    if isinstance(config, BaselineConfig):
        return config.backbone()
    return BackboneConfig(
        **{each.name: getattr(config, each.name) for each in fields(BackboneConfig)}
    )


Watch = Callable[[Run], AbstractContextManager[OnProgress]]


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error of ours.

    Attributes:
        run: the run.
        reason: the error's message.
        hint: the error's hint.
    """

    run: Run
    reason: str
    hint: Hint | None = None


def run_sweep(
    runs: Sequence[Run],
    out: Path,
    *,
    watch: Watch,
    failed: Callable[[Failure], None],
    executor: str = "local",
    options: ExecutorOptions | None = None,
) -> tuple[Failure, ...]:
    """Do the runs that have no line in `out`.

    Args:
        runs: from `choose`, in an order that has teachers before students.
        out: file of results; other processes may append to it meanwhile.
        watch: makes a progress callback for each run; an executor may do several runs at once, in threads.
        failed: called with each failure when it happens.
        executor: name in `EXECUTORS`.
        options: what the executor is made from; None: the usual ones.

    Returns:
        All failures, in the order of the runs; a student whose teacher failed is one of them.

    Raises:
        ConfigError: no such executor, or one that cannot do the runs.
        Interrupted: Ctrl-C; the same call goes on later.
    """
    make = find_entry(EXECUTORS, executor, "executor")
    check_log(out)
    for home in {run.home for run in runs}:
        check_writable(home / "model")
    attempts = _Attempts(runs, out, watch, failed)
    try:
        if attempts.are_due():  # else a cluster would be started for nothing
            make(options or ExecutorOptions()).execute(runs, attempts)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(
            f"stopped{attempts.where}; finished runs are in `{out}`",
            "repeat the same command to go on",
        ) from None
    return tuple(attempts.failures[run.key] for run in runs if run.key in attempts.failures)


class _Attempts:
    """Attempts of one sweep, see `executors.py`; keeps its failures and the runs that have begun and not ended."""

    def __init__(
        self, runs: Sequence[Run], out: Path, watch: Watch, failed: Callable[[Failure], None]
    ) -> None:
        self._runs, self._out, self._watch, self._failed = runs, out, watch, failed
        self.failures: dict[str, Failure] = {}
        self._begun: dict[str, Run] = {}

    def are_due(self) -> bool:
        """Whether there is anything to do."""
        keys = read_log(self._out).keys
        return any(is_due(run, self._runs, keys) for run in self._runs)

    @property
    def where(self) -> str:
        """Words for what is being done now."""
        titles = [run.title for run in list(self._begun.values())]
        others = f" and {len(titles) - 1} other runs" if len(titles) > 1 else ""
        return f" in `{titles[0]}`{others}" if titles else ""

    def __call__(self, run: Run, *, wait: bool = False, do: Do | None = None) -> bool:
        """Do the run if it is due and record a failure; False if another process has claimed it."""
        # processes claim runs in this folder; it exists only while one has a claim
        claims = self._out.with_name(f".{self._out.name}.running")
        with claim(claims / run.key, wait=wait) as free:
            if not free:
                return False
            if not is_due(run, self._runs, read_log(self._out).keys):
                return True
            self._begun[run.key] = run  # stays there when the sweep is stopped
            try:
                if run.teacher is not None and run.teacher.key in self.failures:
                    raise ConfigError(f"its teacher `{run.teacher.arm.label}` failed")
                with self._watch(run) as on_progress:
                    result = (do or do_run)(run, on_progress=on_progress)
                append(self._out, describe(run, result))
            except Interrupted:
                raise
            except MaskpackError as problem:
                failure = Failure(run, str(problem), problem.advice)
                self.failures[run.key] = failure
                self._failed(failure)
            del self._begun[run.key]
        return True


def is_due(run: Run, runs: Sequence[Run], keys: frozenset[str]) -> bool:
    """Whether the run is not finished, or is a teacher whose model a student still needs."""
    if run.key not in keys:
        return True
    if not run.arm.keep or is_kept(run):
        return False
    return any(
        other.teacher is not None and other.teacher.key == run.key and is_due(other, runs, keys)
        for other in runs
    )


def is_kept(run: Run) -> bool:
    """Whether the folder of a kept run exists and belongs to this run."""
    note = _note(run)
    return run.folder.is_dir() and note.is_file() and note.read_bytes().strip() == run.key.encode()


def do_run(
    run: Run,
    *,
    on_progress: OnProgress,
    device: str | None = None,
    threads: int | None = None,
) -> RunResult:
    """Train and measure one run; keep its model or artifact if the plan says so.

    Args:
        run: the run.
        on_progress: called after every step.
        device: where it is trained; None: on a GPU if there is one.
        threads: of torch; None: see `training_threads`.

    Raises:
        ArtifactError: no permission or space for the kept folder.
    """
    with training_threads(threads, device=device) as chosen:
        return _do(
            run, partial(_learn, run, on_progress=on_progress, device=device, threads=chosen)
        )


def _do(run: Run, learn: Callable[[Path | None], RunResult]) -> RunResult:
    """Train and measure one run in a folder that is kept or not.

    Args:
        run: the run.
        learn: trains into a folder, or into none.

    Raises:
        ArtifactError: no permission or space for the kept folder.
    """
    if not run.arm.keep:
        with scratch_folder("maskpack-sweep-") as folder:
            out = None if run.arm.is_baseline else Path(folder) / "artifact"
            return learn(out)
    try:
        run.home.mkdir(parents=True, exist_ok=True)
        with scratch_folder(".", run.home) as folder:
            result = learn(Path(folder) / "model")
            _note(run).unlink(missing_ok=True)
            shutil.rmtree(run.folder, ignore_errors=True)  # of a killed run, or of other options
            rename(Path(folder) / "model", run.folder)
            _note(run).write_bytes(f"{run.key}\n".encode())
    except OSError as error:
        raise ArtifactError(f"cannot write `{run.folder}`: {error}") from error
    return result


def describe(run: Run, result: RunResult) -> dict[str, object]:
    """The line of a run: its result, and its names in the plan."""
    model, task, label, _ = run.names
    return {
        **json.loads(result.to_json()),
        "label": label,
        "sweep_key": run.key,
        "sweep_model": model,
        "sweep_task": task,
    }


def _learn(
    run: Run, out: Path | None, *, on_progress: OnProgress, device: str | None, threads: int
) -> RunResult:
    config, task = run.config(), run.task
    made = None
    if not (isinstance(config, BaselineConfig) and config.bits is None):
        made = shared_backbone(run, on_progress=on_progress, device=device, threads=threads)
    if isinstance(config, BaselineConfig):
        baseline = BaselineRequest(
            run.model.source,
            task.task,
            config,
            out=out,
            data=task.data,
            eval_data=task.eval_data,
            backbone=made,
            device=device,
            threads=threads,
        )
        return run_baseline(baseline, on_progress=on_progress)
    assert out is not None
    assert made is not None
    try:
        shutil.copytree(made, out)
    except OSError as error:
        raise ArtifactError(f"cannot copy `{made}` to `{out}`: {error}") from error
    mask = FitRequest(
        run.model.source,
        task.task,
        out,
        config,
        data=task.data,
        eval_data=task.eval_data,
        device=device,
        threads=threads,
    )
    return fit_task(mask, on_progress=on_progress)


def _note(run: Run) -> Path:
    """File with the key of the run to which the folder beside it belongs."""
    return run.folder.with_name(f"{run.folder.name}.key")
