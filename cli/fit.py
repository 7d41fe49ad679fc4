"""`compress fit`: learn a mask for one task. With `--dry-run`: the plan, and an estimate of time and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from maskpack.cli import options as opt
from maskpack.cli import render
from maskpack.cli.effects import show_effects
from maskpack.cli.exportable import SkipExportCheck, check_export
from maskpack.cli.hints import shell_word
from maskpack.cli.logs import logged, trackers_of
from maskpack.cli.lr_find import found_rate
from maskpack.cli.sources import started_from
from maskpack.cli.task_data import find_named_task
from maskpack.compressor.config import FitConfig
from maskpack.formats import ConfigError
from maskpack.tasks.options import CacheOptions, TaskOptions

if TYPE_CHECKING:
    from maskpack.compressor.estimate import Estimate
    from maskpack.compressor.prepare import PreparedRun
    from maskpack.compressor.types import FitRequest, RunResult
    from maskpack.formats import Artifact


@opt.with_options
def fit(
    ctx: typer.Context,
    model: Annotated[
        str,
        Argument(
            help="Folder, hub id, or the alias `demo` of the pretrained model; or hub:OWNER/NAME of an artifact, "
            "which is copied to --out and gets the task."
        ),
    ],
    task: opt.OwnTaskName = None,
    out: Annotated[
        Path,
        Option(
            "--out",
            "-o",
            help="Artifact to write, or to add the task to. [artifact]",
            show_default=False,
        ),
    ] = Path("artifact"),
    data: opt.Data = None,
    eval_data: opt.EvalData = None,
    texts: opt.Texts = None,
    *,
    columns: TaskOptions,
    rows: CacheOptions,
    name: Annotated[
        str | None, Option(help="Name of the task in the artifact. [the task's own]")
    ] = None,
    chosen: opt.Replayed[FitConfig],
    find_lr: opt.FindLr = False,
    start: Annotated[
        str | None,
        Option(
            "--from",
            help="Go on from the mask and head of this task of the same artifact, or from the mask alone of a fill-mask task.",
        ),
    ] = None,
    replace: Annotated[
        bool, Option("--replace", help="Learn a task again that is already there.")
    ] = False,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the checkpoint of a stopped run.")
    ] = False,
    revision: opt.Revision = None,
    resize_embeddings: opt.ResizeEmbeddings = False,
    dry_run: Annotated[
        bool,
        Option(
            "--dry-run", help="Load everything, measure a few steps, estimate the run, and stop."
        ),
    ] = False,
    device: opt.Device = None,
    threads: opt.TorchThreads = None,
    processes: Annotated[
        int,
        Option(
            help="Processes on this machine that share the rows of each step: one a GPU, or one a few cores."
        ),
    ] = 1,
    skip_export_check: SkipExportCheck = False,
    log_to: Annotated[
        str | None,
        Option(
            help="Trackers with commas: tensorboard, wandb, mlflow; offline unless their own settings say otherwise."
        ),
    ] = None,
    log_dir: Annotated[
        Path | None,
        Option(help="Folder for trackers; alone it is for TensorBoard. [logs, with --log-to]"),
    ] = None,
    log: Annotated[Path | None, Option(help="Append a line of JSON a step to this file.")] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Learn a mask for one task over the frozen quantised backbone.

    The first call quantises the model and writes the backbone; later calls with the same --out
    reuse it byte for byte and only add a task.

    Models: ALBERT, BERT, CamemBERT, DeBERTa-v2 (and v3), DistilBERT, ELECTRA, GPT-2, Llama, MobileBERT,
    ModernBERT, MPNet, RoBERTa, XLM-RoBERTa, XLNet, and others by rule; of images DeiT, DINOv2 and ViT. `compress
    families` lists them.

    Before a long run: `--dry-run` measures a few steps and estimates time and memory. `--save-config
    run.yaml` writes the whole run down, `compress fit --config run.yaml` repeats it, with changes:

    Example: compress fit demo --task reviews -o artifact --save-config run.yaml

    Example: compress fit --config run.yaml --seed 1 -o other

    Own data: compress fit demo --data tickets.csv --text-field body --label-field queue

    Several machines or GPUs: torchrun --nproc-per-node 8 -m maskpack.cli fit demo --task reviews
    """
    began = time.perf_counter(), time.process_time()
    trackers = trackers_of(log_to, log_dir)
    if trackers:
        from maskpack.compressor.training.trackers import check_trackers  # noqa: PLC0415 - rare

        check_trackers(trackers)
    from maskpack.compressor.launch import check_processes, fit_in_processes  # noqa: PLC0415 - torch
    from maskpack.compressor.types import FitRequest  # noqa: PLC0415

    model, revision, out = started_from(ctx, model, revision, out, dry_run=dry_run)
    request = FitRequest(
        model=model,
        task=find_named_task(task, data, columns, quiet=quiet),
        out=out,
        config=chosen,
        data=data,
        eval_data=eval_data,
        name=name,
        replace=replace,
        resume=resume,
        bits_given=opt.is_given(ctx, "bits"),
        revision=revision,
        texts=texts,
        start=None if start is None else (out, start),
        resize_embeddings=resize_embeddings,
        device=device,
        threads=threads,
        cache=rows.cache,
    )
    check_processes(processes)
    check_export(model, revision, skip=skip_export_check)
    if find_lr and resume:
        raise ConfigError(
            "`--find-lr` may find another rate, and the checkpoint belongs to the first one",
            "give the `--lr` and `--head-lr` that it told",
        )
    if find_lr and not dry_run:
        request = found_rate(request, quiet=quiet)
    if dry_run:
        show_dry_run(request, began=began, json=json)
        return
    with (
        render.progress(request.stored_name, quiet=quiet) as shown,
        logged(
            shown,
            request.stored_name,
            trackers=trackers,
            folder=log_dir,
            file=log,
            options={"model": model, **request.config.record()},
        ) as on_progress,
    ):
        result = fit_in_processes(request, processes, on_progress=on_progress)
    show_result(result, json=json)
    if not quiet:
        show_next(out, request.stored_name, eval_data or data)


def show_dry_run(request: FitRequest, *, began: tuple[float, float], json: bool) -> None:
    """Rehearse a run and print its plan.

    Args:
        request: what would be learned.
        began: the clock on the wall and that of the process when the command began.
        json: print one JSON value.
    """
    from maskpack.compressor.estimate import Cost, rehearse  # noqa: PLC0415 - imports torch

    run, estimate = rehearse(request, began=Cost(*began))
    plan = _plan(run)
    if json:
        render.json({**plan, "estimate": asdict(estimate)})
        return
    sized = {
        "backbone bytes": render.size(plan["backbone bytes"]),
        "masked weights": f"{plan['masked weights']:,}",
    }
    shown = {**plan, **sized, **_words(estimate)}
    render.table("dry run", ("what", "value"), [(key, str(value)) for key, value in shown.items()])
    render.words("note: the estimate is of this machine as busy as it was just now")


def _plan(run: PreparedRun) -> Mapping[str, Any]:
    return {
        "model": run.prepared.source.model,
        "backbone": "already there" if run.prepared.artifact else "to be quantised",
        "bits": run.prepared.scheme.bits,
        "backbone bytes": run.prepared.backbone_bytes(),
        "masked weights": run.prepared.backbone.maskable,
        "training rows": len(run.data.train),
        "evaluation rows": len(run.data.dev),
        "labels": ", ".join(run.data.labels) or run.kind.summary,
        "steps": run.plan.steps,
        "device": run.placement.device,
        "arithmetic": run.placement.precision,
        **_speed_plan(run),
        "out": str(run.request.out),
    }


def _speed_plan(run: PreparedRun) -> Mapping[str, Any]:
    """Milliseconds of the graph with all units, and with those that a speed leaves, by the cost model."""
    costs, speedup = run.unit_costs, run.request.config.speedup
    if speedup is None or costs is None:
        return {}
    return {
        "predicted ms": round(costs.whole / speedup, 3),
        "ms with all units": round(costs.whole, 3),
    }


def _words(estimate: Estimate) -> Mapping[str, str]:
    teacher = f"{duration(estimate.teacher_seconds)} teacher"
    parts = [
        f"{duration(estimate.load_seconds)} until the first step",
        *([teacher] if estimate.teacher_seconds > 1 else []),
        f"{estimate.steps:,} steps of {1000 * estimate.step_seconds:.0f} ms",
        f"{estimate.looks} scorings of {estimate.look_seconds:.1f} s",
        *([f"{duration(estimate.units_seconds)} units"] if estimate.units_seconds else []),
        *(
            [
                f"{duration(estimate.trunk_seconds)} for at most {estimate.trunk_runs} runs to find the trunk"
            ]
            if estimate.trunk_runs
            else []
        ),
    ]
    memory = estimate.memory_bytes
    return {
        "time, estimated": duration(estimate.seconds),
        "of the processor": f"{duration(estimate.busy_seconds)}, all cores together",
        "made of": ", ".join(parts),
        "basis": f"{estimate.measured} steps measured, on batches of every size",
        "memory": "unknown" if memory is None else f"{render.size(memory)}, peak of this rehearsal",
        "checkpoint": render.size(estimate.disk_bytes) if estimate.disk_bytes else "none",
        **_states(estimate),
    }


def _states(estimate: Estimate) -> Mapping[str, str]:
    """Where a teacher's hidden states come from, if something is known of them."""
    if not estimate.states_bytes:
        return {}
    return {"teacher's states": f"{render.size(estimate.states_bytes)} on the disk while it trains"}


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.4), duration(100), duration(4000)
    ('7 s', '1 min 40 s', '1 h 07 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


_ADVICE = (
    "try more `--epochs`, a larger `--head-lr`, or a larger `--margin`; "
    "with rare labels add rows of them and judge by `--metric macro_f1`"
)


def show_result(result: RunResult, *, json: bool) -> None:
    """Print what a run measured."""
    if json:
        render.data(result.to_json())
        return
    _show_scores(result)
    show_effects(result)
    count = result.count
    rows = [("head", render.size(result.head_bytes)), ("patch", render.size(result.patch_bytes))]
    if result.extra_bytes:
        rows.insert(1, ("biases, norms, scales", render.size(result.extra_bytes)))
    if count.weights:
        beside = result.beside_units
        entropy = f"{render.size(beside.entropy_bytes)} ({beside.entropy_bpp:.3f} bits a weight)"
        kept = [(kind, result.units_kept[kind], every) for kind, every in result.units.items()]
        rows = [
            ("zeros", f"{count.zeros:,} of {count.weights:,} ({count.sparsity:.2%})"),
            *((f"{kind} kept", f"{some:,} of {every:,}") for kind, some, every in kept),
            *([("mask, packed", render.size(result.mask_bytes))] if result.mask_bytes else []),
            *([("mask, entropy", entropy)] if result.mask_bytes else []),
            *([("units", render.size(result.unit_bytes))] if result.unit_bytes else []),
            *_speed(result),
            *rows,
        ]
    render.table("", ("part", "size"), [*rows, ("backbone", render.size(result.backbone_bytes))])
    if result.snapshots:
        _show_snapshots(result)
    if result.collapsed:
        render.words(
            f"warning: {result.metric} is no better than always giving the same answer; {_ADVICE}"
        )


def _show_snapshots(result: RunResult) -> None:
    """The tasks on the way, and the last one."""
    from maskpack.compressor.types import SnapshotResult  # noqa: PLC0415 - keeps --help fast

    head = ("task", "after step", result.metric, "zeros", "coded")
    rows = [
        (one.task, f"{one.step:,}", one.scores[result.metric], one.zeros, one.coded_bytes)
        for one in (*result.snapshots, SnapshotResult.of(result))
    ]
    shown = [
        (task, step, f"{value:.4f}", f"{zeros:,}", render.size(size))
        for task, step, value, zeros, size in rows
    ]
    render.table("snapshots", head, shown)


def _speed(result: RunResult) -> list[tuple[str, str]]:
    """The predicted speed of a graph without the removed units."""
    if result.predicted_speedup is None:
        return []
    return [("graph, predicted", f"{result.predicted_speedup:.2f} times as fast as with all units")]


def _show_scores(result: RunResult) -> None:
    """Every metric beside its floor and, where there was one, the model that it started from."""
    columns = {"value": result.scores, "same answer always": result.majority}
    if result.tuning is not None and result.tuning.thresholds:
        columns["thresholds of 0.5"] = result.tuning.scores_before
    if result.original is not None:
        columns["original model"] = result.original
    render.table(
        f"{result.task}: {result.method}, {result.steps} steps in {result.seconds:.0f} s",
        ("metric", *columns),
        [(name, *(f"{each[name]:.4f}" for each in columns.values())) for name in result.scores],
    )


def show_next(out: Path, task: str, data: Path | None) -> None:
    """Say where a task lies now, and what comes next."""
    rows = "" if data is None else f" --data {shell_word(data.as_posix())}"
    place = shell_word(str(out))
    render.words(
        f"`{task}` is in {out}; next: compress export {place} -t {task} --onnx -o {task}-onnx{rows}"
    )


def show_run(opened: Artifact, task: str, *, json: bool) -> None:
    """The run as YAML, or as JSON; what it leaves out is said beside it."""
    import yaml  # noqa: PLC0415 - rarely needed

    from maskpack.compressor.repeat import recorded_run  # noqa: PLC0415 - keeps --help fast

    found = recorded_run(opened, task)
    if json:
        render.json(found.tree)
    else:
        render.data(yaml.safe_dump(found.tree, sort_keys=True))
    for name, said in found.unknown.items():
        render.words(f"note: give `--{name}`: {said}")
