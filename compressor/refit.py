"""Tasks of one artifact are carried onto another backbone. Read `refit_tasks` first.

The old mask and head are where the new ones start, and the old task is the teacher of the new one: rows without labels
do, and the fine-tuned model that the task once came from need not be there any more. Both backbones come from close
models: the same one in fewer bits, or one that was trained further.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from maskpack.compressor.adopt_rows import images_of, unlabelled_rows
from maskpack.compressor.config import FitConfig
from maskpack.compressor.fit import fit_run
from maskpack.compressor.prepare import TaskRows, as_started, prepare_rows
from maskpack.compressor.quantization.backbone import PreparedBackbone, check_bits, load_or_quantize
from maskpack.compressor.space import check_place, has_task
from maskpack.compressor.threads import training_threads
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import FitRequest, RunResult, check_apart
from maskpack.formats import (
    Artifact,
    ArtifactError,
    ConfigError,
    TaskEntry,
    is_artifact,
    open_artifact,
)
from maskpack.formats.algebra import pack_task
from maskpack.formats.errors import Hint
from maskpack.formats.schema import BACKBONE, CONFIG
from maskpack.models.build import head_parameters
from maskpack.tasks.context import ModelContext, check_same_reading, restore_task
from maskpack.tasks.data.columns import plain_columns
from maskpack.tasks.data.images import is_bare_folder
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.data.tables import column_names
from maskpack.tasks.data.unlabelled import is_lines
from maskpack.tasks.evaluation.evaluate import prefixes_of, task_of
from maskpack.tasks.pretrained_head import Finding, PretrainedHead
from maskpack.tasks.task import Task


@dataclass(frozen=True)
class RefitRequest:
    """Request to carry tasks onto another backbone.

    Attributes:
        artifact: whose tasks.
        onto: artifact with the other backbone, or a pretrained model of the same architecture: folder, hub id or alias.
        out: artifact to make, or to add the tasks to; None: `onto`, which then is an artifact.
        config: how each mask is learned further, and how a model is quantised. A task keeps its own `max_length`.
        tasks: names of the tasks; empty: all.
        data: task -> its rows, with labels or without.
        eval_data: task -> rows with labels to evaluate it on.
        texts: texts, or images, for every task: for one without rows of its own all there is, for others rows beside theirs.
        resume: whether tasks that are in `out` already are left, and a stopped one goes on.
        replace: whether tasks of these names may be learned again.
        bits_given: False if `config.bits` is only the default and an artifact may overrule it.
        revision: branch, tag or commit of a hub model.
        device: kind of device; None: the usual one.
        threads: of torch; None: see `training_threads`.
    """

    artifact: Path
    onto: str
    out: Path | None = None
    config: FitConfig = field(default_factory=FitConfig)
    tasks: tuple[str, ...] = ()
    data: Mapping[str, Path] = field(default_factory=dict)
    eval_data: Mapping[str, Path] = field(default_factory=dict)
    texts: Path | None = None
    resume: bool = False
    replace: bool = False
    bits_given: bool = True
    revision: str | None = None
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.out is None and not is_artifact(Path(self.onto)):
            raise ConfigError(
                f"`{self.onto}` is no artifact that could take the tasks",
                Hint("name the artifact to write as `out`"),
            )
        if self.config.teacher is not None:
            raise ConfigError("each task is its own teacher", Hint("leave `teacher` out"))

    @property
    def place(self) -> Path:
        """The artifact that gets the tasks."""
        return Path(self.onto) if self.out is None else self.out


@dataclass(frozen=True)
class RefittedTask:
    """One task on its new backbone.

    Attributes:
        name: of the task.
        labelled: whether labels of training rows were used; else the metric of a task without `eval_data` is the share
            of rows that are answered as before.
        result: of its run, with the metrics of the old task as `original`; None: it was in the artifact already.
        packed_bytes_before, packed_bytes: of the task as `compress pack` writes it, over each backbone.
    """

    name: str
    labelled: bool
    result: RunResult | None
    packed_bytes_before: int
    packed_bytes: int


@dataclass(frozen=True)
class RefitResult:
    """All tasks after they were carried over.

    Attributes:
        model: the pretrained model of the new backbone.
        bits: of its codes.
        tasks: in the order of the request.
        backbone_bytes_before, backbone_bytes: of both backbones.
    """

    model: str
    bits: int
    tasks: tuple[RefittedTask, ...]
    backbone_bytes_before: int
    backbone_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)


def refit_tasks(
    request: RefitRequest,
    *,
    on_progress: Callable[[str], OnProgress] = lambda _: lambda _: None,
) -> RefitResult:
    """Carry tasks of an artifact onto another backbone: masks and heads are starts, the old tasks teachers.

    Args:
        request: what to carry over, onto what, and from which rows.
        on_progress: task -> what is called after every step of it, for progress bars.

    Raises:
        ConfigError: a task has no rows to be learned from.
        ArtifactError: no such task, or a backbone of another architecture.
        ModelError: it reads texts or images otherwise.
        MaskpackError: as `fit_task`. Tasks that were finished before stay.
    """
    with training_threads(request.threads, device=request.device):
        return _refit(request, on_progress)


def _refit(request: RefitRequest, on_progress: Callable[[str], OnProgress]) -> RefitResult:
    """Carry over with the threads of this process as they are."""
    old = open_artifact(request.artifact)
    names = request.tasks or tuple(old.manifest.tasks)
    if not names:
        raise ConfigError(f"`{request.artifact}` has no task to carry over")
    check_apart(names, request.config)
    fits = {name: _fit_request(request, old.entry(name)) for name in names}
    missing = [name for name in names if not (request.resume and has_task(request.place, name))]
    for name in missing:
        check_place(fits[name])

    # the other backbone: read, or quantised once
    prepared = _backbone(request, fits[names[0]], on_progress(names[0]))
    context = ModelContext.of_artifact(old)
    _check_related(old, context, prepared, names)

    # one task after the other: rows, start, teacher
    results = {}
    for name in missing:
        rows = _rows(fits[name], old, context)
        run = prepare_rows(fits[name], rows, prepared=prepared, on_progress=on_progress(name))
        results[name] = fit_run(run, on_progress=on_progress(name))
    new = open_artifact(request.place)
    tasks = tuple(_refitted(old, new, name, results.get(name)) for name in names)
    sizes = (each.size(BACKBONE) for each in (old, new))
    return RefitResult(prepared.source.model, prepared.scheme.bits, tasks, *sizes)


def _fit_request(request: RefitRequest, entry: TaskEntry) -> FitRequest:
    """The request to learn one task on the other backbone.

    Raises:
        ConfigError: it has no rows.
    """
    name = entry.name
    path = request.data.get(name, request.texts)
    if path is None:
        raise ConfigError(
            f"`{name}` has no rows to be learned from",
            Hint("give its rows as `data`, with labels or without, or `texts` for all tasks"),
        )
    return FitRequest(
        model=request.onto,
        task=_task_for(entry, path),
        out=request.place,
        config=replace(request.config, max_length=entry.max_length),
        data=path,
        eval_data=request.eval_data.get(name),
        name=name,
        replace=request.replace,
        resume=request.resume,
        bits_given=request.bits_given,
        revision=request.revision,
        texts=request.texts if name in request.data else None,
        start=(request.artifact, name),
        device=request.device,
    )


def _task_for(entry: TaskEntry, path: Path) -> Task:
    """The task of an entry, over the columns that its rows have now: the recorded ones, or such of plain names."""
    task = replace(task_of(entry), prefixes=prefixes_of(entry))
    if is_lines(path) or path.is_dir() or not path.exists():
        return task
    names = column_names(path)
    plain = plain_columns(names)
    if (
        {*task.texts, task.label} <= set(names)
        or plain is None
        or len(plain) != len(task.texts) + 1
    ):
        return task
    *texts, label = plain
    return replace(task, texts=tuple(texts), label=label, raw_labels=(), labels=())


def _has_labels(fit: FitRequest) -> bool:
    """Whether the rows of a task have labels; a folder with two splits, and a data set of the Hub, always has."""
    assert fit.data is not None
    if fit.task.type.own_label:
        return True
    if is_lines(fit.data) or is_bare_folder(fit.data):
        return False
    return not fit.data.is_file() or fit.task.label in column_names(fit.data)


def _backbone(request: RefitRequest, fit: FitRequest, on_progress: OnProgress) -> PreparedBackbone:
    """The backbone of the artifact or model that is named.

    Raises:
        ArtifactError: `out` is an artifact with another one.
    """
    onto = Path(request.onto)
    if not is_artifact(onto):
        return load_or_quantize(fit, on_progress=on_progress, rows=images_of(fit))
    check_bits(fit, open_artifact(onto))
    prepared = PreparedBackbone.of_artifact(open_artifact(onto))
    if is_artifact(request.place):
        there, wanted = (
            open_artifact(path).manifest.backbone_sha256 for path in (request.place, onto)
        )
        if there != wanted:
            raise ArtifactError(
                f"`{request.place}` has the backbone {there[:12]}, `{onto}` {wanted[:12]}",
                Hint("choose another `out`"),
            )
    return prepared


def _check_related(
    old: Artifact, ours: ModelContext, new: PreparedBackbone, names: tuple[str, ...]
) -> None:
    """Raise ArtifactError unless the masks lie over the new backbone, or ModelError unless both read alike."""
    for name in names:
        old.patch(name).check_fits(new.backbone)
    if ours.config["model_type"] != new.context.config["model_type"]:
        raise ArtifactError(
            f"`{old.path}` is of {ours.config['model_type']}, the other backbone of "
            f"{new.context.config['model_type']}",
            f"both need the same `model_type` in `{CONFIG}`",
        )
    check_same_reading((str(old.path), ours), (new.source.model, new.context))


def _rows(fit: FitRequest, old: Artifact, context: ModelContext) -> TaskRows:
    """The rows of one task, and the old task as the model that knows it."""
    assert fit.start is not None
    entry = old.entry(fit.start[1])
    facts = {"refitted_from": old.manifest.source.model}
    classifier = restore_task(old, entry.name)
    kept = {name: value.detach().clone() for name, value in head_parameters(classifier).items()}
    head = PretrainedHead(f"{old.path}:{entry.name}", entry.labels, kept)
    finding = Finding(head, None, classifier)
    if not _has_labels(fit):
        rows = unlabelled_rows(fit, fit.task, entry.labels, lambda _: finding, context)
        return as_started(fit, replace(rows, facts={"labels": "of the old task", **facts}))
    data = load_data(fit.task, data=fit.data, eval_data=fit.eval_data)
    return as_started(fit, TaskRows(data.limit_train(fit.config.train_rows), finding, True, facts))


def _refitted(old: Artifact, new: Artifact, name: str, result: RunResult | None) -> RefittedTask:
    before, after = (len(pack_task(each, name)) for each in (old, new))
    return RefittedTask(name, "labels" not in new.entry(name).data, result, before, after)
