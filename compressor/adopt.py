"""Fine-tuned checkpoints of one base become one backbone and a mask each. Read `adopt_models` first.

A checkpoint is the teacher of its task: its logits and hidden states say what is right, so that rows without labels
do. It also gives the labels, their order, and the head that training starts from. With labels both are used.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from maskpack.compressor.adopt_rows import kind_of, rows_of_checkpoint, task_of_rows
from maskpack.compressor.config import FitConfig
from maskpack.compressor.fit import fit_run
from maskpack.compressor.prepare import prepare_rows
from maskpack.compressor.quantization.backbone import load_or_quantize
from maskpack.compressor.space import check_place, has_task
from maskpack.compressor.threads import training_threads
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import FitRequest, RunResult, check_apart
from maskpack.formats import ConfigError, open_artifact
from maskpack.formats.algebra import pack_task
from maskpack.formats.errors import Hint
from maskpack.formats.schema import BACKBONE, check_new_name
from maskpack.models.base_model import Ancestry, ancestry, find_base
from maskpack.models.config import load_config
from maskpack.models.load import Pretrained, load_finetuned, load_pretrained
from maskpack.models.locate import resolve
from maskpack.tasks.context import ModelContext, check_same_reading
from maskpack.tasks.data.splits import Split
from maskpack.tasks.options import TaskOptions, Type

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdoptRequest:
    """Request to adopt fine-tuned checkpoints.

    Attributes:
        models: name of each task in the artifact -> its checkpoint: folder, hub id or alias.
        out: artifact to make, or to add the tasks to.
        base: the pretrained model that all come from; None: it is found, see `models/base_model.py`.
        config: how each mask is learned. With rows without labels the labels do not count.
        data: task -> its rows, with labels or without.
        eval_data: task -> rows with labels to evaluate it on.
        texts: texts, or images, for every task: for one without rows of its own all there is, for others rows beside theirs.
        columns: columns of the rows, if they have no plain names. Models that give vectors need their `type`, for all checkpoints alike.
        resume: whether tasks that are in the artifact already are left, and a stopped one goes on.
        replace: whether tasks of these names may be learned again.
        device: kind of device; None: the usual one.
        threads: of torch; None: see `training_threads`.
    """

    models: Mapping[str, str]
    out: Path
    base: str | None = None
    config: FitConfig = field(default_factory=FitConfig)
    data: Mapping[str, Path] = field(default_factory=dict)
    eval_data: Mapping[str, Path] = field(default_factory=dict)
    texts: Path | None = None
    columns: TaskOptions = field(default_factory=TaskOptions)
    resume: bool = False
    replace: bool = False
    device: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("there is no checkpoint to adopt")
        for name in self.models:
            check_new_name(name)
        check_apart(self.models, self.config)
        for name in (*self.data, *self.eval_data):
            if name not in self.models:
                raise ConfigError(f"there is no checkpoint of `{name}`", f"tasks: {self._listed()}")
        if self.config.teacher is not None:
            raise ConfigError("each checkpoint is its own teacher", Hint("leave `teacher` out"))
        without = [name for name in self.models if name not in self.data]
        if without and self.texts is None:
            raise ConfigError(
                f"`{without[0]}` has no rows to be learned from",
                Hint("give its rows as `data`, with labels or without, or `texts` for all tasks"),
            )

    def _listed(self) -> str:
        return ", ".join(self.models)


@dataclass(frozen=True)
class AdoptedTask:
    """One task after its adoption.

    Attributes:
        name: in the artifact.
        model: its checkpoint.
        ancestry: how far the checkpoint is from the base.
        labelled: whether labels of training rows were used; else the metric of a task without `eval_data` is the share
            of rows that are answered as the checkpoint does.
        result: of its run; None: it was in the artifact already.
        model_bytes: of the checkpoint's weights, in float32.
        packed_bytes: of the task as `compress pack` writes it.
        rows: its evaluation rows, to compare graphs on; None where it was there already.
    """

    name: str
    model: str
    ancestry: Ancestry
    labelled: bool
    result: RunResult | None
    model_bytes: int
    packed_bytes: int
    rows: Split | None = None


@dataclass(frozen=True)
class AdoptResult:
    """All tasks after an adoption.

    Attributes:
        base: name of the pretrained model.
        tasks: in the order of the request.
        backbone_bytes: of the weights that they share.
    """

    base: str
    tasks: tuple[AdoptedTask, ...]
    backbone_bytes: int

    @property
    def bytes_before(self) -> int:
        """Of all checkpoints."""
        return sum(task.model_bytes for task in self.tasks)

    @property
    def bytes_after(self) -> int:
        """Of the backbone and all packed tasks."""
        return self.backbone_bytes + sum(task.packed_bytes for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """The result as a JSON object, with both sums."""
        tree = asdict(replace(self, tasks=tuple(replace(task, rows=None) for task in self.tasks)))
        for task in tree["tasks"]:
            del task["rows"]
        return {**tree, "bytes_before": self.bytes_before, "bytes_after": self.bytes_after}


def adopt_models(
    request: AdoptRequest,
    *,
    on_progress: Callable[[str], OnProgress] = lambda _: lambda _: None,
) -> AdoptResult:
    """Turn fine-tuned checkpoints of one base into tasks of one artifact.

    Args:
        request: what to adopt, and from which rows.
        on_progress: task -> what is called after every step of it, for progress bars.

    Raises:
        ConfigError: the base is not found.
        ModelError: a checkpoint is of another base, or has another tokenizer or image processor.
        MaskpackError: as `fit_task`. Tasks that were finished before stay.
    """
    with training_threads(request.threads, device=request.device):
        return _adopt(request, on_progress)


def _adopt(request: AdoptRequest, on_progress: Callable[[str], OnProgress]) -> AdoptResult:
    """Adopt with the threads of this process as they are."""
    # the pretrained model that all checkpoints come from
    base_name, base = _base(request)

    # weights of each checkpoint close to it, the same reading: all are checked before the first step
    vectors = request.columns.type is Type.VECTORS
    related = {name: _related(base, model, vectors) for name, model in request.models.items()}

    # one task after the other: rows, teacher, mask; the backbone is read, or quantised once
    tasks, prepared = [], None
    for name in request.models:
        result = data = None
        if not (request.resume and has_task(request.out, name)):
            fit = _fit_request(request, name, base_name)
            check_place(fit)
            rows = rows_of_checkpoint(fit, request.columns, base)
            if prepared is None:
                prepared = load_or_quantize(
                    fit, on_progress=on_progress(name), rows=rows.data.train, pretrained=base
                )
            run = prepare_rows(fit, rows, prepared=prepared, on_progress=on_progress(name))
            result, data = fit_run(run, on_progress=on_progress(name)), run.data.dev
        tasks.append(replace(_adopted(request, name, related[name], result), rows=data))
    size = open_artifact(request.out).size(BACKBONE)
    return AdoptResult(base.name, tuple(tasks), size)


def _base(request: AdoptRequest) -> tuple[str, Pretrained]:
    """The pretrained model, and the name by which it is loaded."""
    if request.base is not None:
        return request.base, load_pretrained(request.base)
    models = tuple(request.models.values())
    vectors = request.columns.type is Type.VECTORS
    name, base = find_base(models, auto_class=_class_of(models[0]), vectors=vectors)
    _LOG.info("the base is `%s`", base.name)
    return name, base


def _class_of(model: str) -> str:
    """The class of transformers that loads a checkpoint."""
    return kind_of(load_config(resolve(model))).auto_class


@dataclass(frozen=True)
class _Related:
    ancestry: Ancestry
    model_bytes: int


def _related(base: Pretrained, model: str, vectors: bool) -> _Related:
    """A checkpoint beside the base.

    Raises:
        ModelError: it comes from another model, or reads texts or images otherwise.
    """
    classifier = load_finetuned(model, auto_class=_class_of(model), vectors=vectors)
    found = ancestry(base, classifier, model)
    found.check()
    own = load_pretrained(model, classifier=classifier)
    check_same_reading(
        (base.name, ModelContext.of_pretrained(base)), (model, ModelContext.of_files(own.files))
    )
    return _Related(found, sum(4 * weight.numel() for weight in classifier.parameters()))


def _adopted(
    request: AdoptRequest, name: str, related: _Related, result: RunResult | None
) -> AdoptedTask:
    artifact = open_artifact(request.out)
    entry = artifact.entry(name)
    return AdoptedTask(
        name=name,
        model=request.models[name],
        ancestry=related.ancestry,
        labelled="labels" not in entry.data,
        result=result,
        model_bytes=related.model_bytes,
        packed_bytes=len(pack_task(artifact, name)),
    )


def _fit_request(request: AdoptRequest, name: str, base_name: str) -> FitRequest:
    """The request to learn one task."""
    model = request.models[name]
    path = request.data.get(name, request.texts)
    assert path is not None  # `AdoptRequest` checks that
    return FitRequest(
        model=base_name,
        task=task_of_rows(name, model, path, request.columns),
        out=request.out,
        config=request.config,
        data=path,
        eval_data=request.eval_data.get(name),
        name=name,
        replace=request.replace,
        resume=request.resume,
        texts=request.texts if name in request.data else None,
        finetuned=model,
        device=request.device,
    )


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Task -> checkpoint, from `PATH` or `TASK=PATH` texts; a path gives its last part as name.

    >>> named_models(["runs/Tickets/checkpoint-500", "mood=runs/b"])
    {'tickets': 'runs/Tickets/checkpoint-500', 'mood': 'runs/b'}

    Raises:
        ConfigError: two of one name.
    """
    found: dict[str, str] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            parts = [p for p in Path(text).parts if not re.fullmatch("checkpoint-[0-9]+", p)]
            name, path = (parts or [text])[-1], text
            name = re.sub(r"[^a-z0-9_-]+", "-", name.casefold()).strip("-_")[:64]
        if name in found:
            raise ConfigError(
                f"`{found[name]}` and `{path}` both would be the task `{name}`",
                "name one of them: NAME=PATH",
            )
        found[name] = path
    return found
