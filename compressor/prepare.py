"""Everything that a run needs, loaded before its first step; refuses requests that cannot succeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.effects import class_weights_of
from maskpack.compressor.label_checks import (
    check_label_options,
    check_mask_teacher,
    check_unlabelled,
    hold_out,
)
from maskpack.compressor.mask_config import PATTERNS
from maskpack.compressor.masking.model import masked_names, sparsity_of
from maskpack.compressor.masking.patterns import MaskPattern
from maskpack.compressor.masking.trunk import check_trunk
from maskpack.compressor.masking.unit_choice import ChosenUnits, choose_units
from maskpack.compressor.pooling import pooling_for
from maskpack.compressor.quantization.backbone import (
    PreparedBackbone,
    config_bytes,
    load_or_quantize,
)
from maskpack.compressor.space import check_place, check_room
from maskpack.compressor.start_checks import (
    check_start,
    check_start_units,
    entry_of_head,
    entry_of_start,
    starts_head,
)
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.training.teacher import Teacher, find_teacher
from maskpack.compressor.training.train import Plan
from maskpack.compressor.types import FitRequest
from maskpack.formats import ConfigError, Patch, open_artifact
from maskpack.formats.channels import Divisors
from maskpack.formats.pooling import Pooling
from maskpack.formats.schema import CONFIG
from maskpack.formats.target import TargetScale
from maskpack.formats.unit_costs import UnitCosts
from maskpack.formats.units import UnitGroup
from maskpack.models.build import ParameterShapes, build_classifier, parameter_shapes
from maskpack.models.families import IMAGES
from maskpack.models.mapped import weights_digest
from maskpack.models.placement import Placement, placement_of
from maskpack.tasks.batches import Encoded, joined, known_labels
from maskpack.tasks.context import described, preprocess_splits
from maskpack.tasks.data.splits import Split, TaskData
from maskpack.tasks.data.unlabelled import read_unlabelled
from maskpack.tasks.evaluation.metrics import compute_metrics
from maskpack.tasks.preprocess import load_splits
from maskpack.tasks.pretrained_head import Finding, PretrainedHead, scale_for
from maskpack.tasks.task import Kind, Unlabelled
from maskpack.tasks.types import TaskType


@dataclass(frozen=True, eq=False)
class TaskRows:
    """Rows of a task, and the fine-tuned model that they come with.

    Attributes:
        data: rows of both splits.
        finding: the head of a fine-tuned model for this task, if there is one.
        labelled: whether the labels of the training rows count; else a teacher alone says what is right.
        facts: further keys of the entry's `data`.
    """

    data: TaskData
    finding: Finding
    labelled: bool = True
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PreparedRun:
    """A run with everything loaded, before its first step.

    Attributes:
        request: what was asked for.
        data: rows of both splits.
        prepared: the backbone.
        train, dev: both splits as tokens; `train` ends with the rows without labels.
        held_out: training rows kept back to decide when to stop, and to tune the head on, or None.
        plan: steps and rates.
        placement: where and in which arithmetic.
        pattern: what a score of the mask stands for.
        shapes: of the classifier's parameters.
        sparsity: share of zeros to reach, or None.
        teacher: the model to learn from, or None.
        finding: the head of a fine-tuned source model for this task, if it has one.
        facts: further keys of the entry's `data`.
        start: the patch that the run starts from, or None.
        target: the unit of targets that the head learns in another one; None: in their own.
        chosen_units: groups of heads and neurons of which some are removed, and how many.
        pooling: what the head reads; None: what it does in transformers' class.
        divisors: of outlier channels in the int8 graphs that the run simulates, see `with_divisors`; None: there are none.
    """

    request: FitRequest
    data: TaskData
    prepared: PreparedBackbone
    train: Encoded
    dev: Encoded
    held_out: Encoded | None
    plan: Plan
    placement: Placement
    pattern: MaskPattern
    shapes: ParameterShapes
    sparsity: float | None
    teacher: Teacher | None
    finding: Finding
    facts: Mapping[str, Any]
    start: Patch | None = None
    target: TargetScale | None = None
    chosen_units: ChosenUnits = field(default_factory=ChosenUnits)
    pooling: Pooling | None = None
    divisors: Divisors | None = None

    @property
    def units(self) -> tuple[UnitGroup, ...]:
        """Groups of heads and neurons of which some are removed."""
        return self.chosen_units.groups

    @property
    def unit_costs(self) -> UnitCosts | None:
        """The cost model of the model's graphs; None: it has no units."""
        return self.chosen_units.costs

    @property
    def kind(self) -> TaskType:
        """Type of the task."""
        return self.data.task.type

    @property
    def head(self) -> PretrainedHead | None:
        """The head that the run starts from, or None."""
        own = self.finding
        return own.head_with_pooler if self.pooling is Pooling.OWN else own.head

    @cached_property
    def original(self) -> NDArray[np.float32] | None:
        """Logits of the fine-tuned source model for the evaluation rows, or None."""
        return self.finding.logits(self.dev)

    @cached_property
    def learned_from(self) -> tuple[str, ...]:
        """Digests of the fine-tuned models and the patch that the run learns from, where it has some."""
        teacher = None if self.teacher is None else self.teacher.model
        own = None if self.head is None else self.finding.classifier
        models = [own] if teacher is own else [own, teacher]
        start = () if self.request.start is None else (entry_of_start(self.request.start).sha256,)
        return (*(weights_digest(model) for model in models if model is not None), *start)

    @cached_property
    def class_weights(self) -> NDArray[np.float32] | None:
        """Weights of the labels in the loss; None: all count alike."""
        option = self.request.config.class_weight
        return class_weights_of(option, self.kind, self.known_labels, self.data.outputs)

    @property
    def known_labels(self) -> NDArray[Any]:
        """Those labels of the training rows that count."""
        return known_labels(self.train.labels, self.train.labelled)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.train) // self.plan.batch_size)

    @property
    def described(self) -> Any:
        """Configuration of the classifier."""
        files, labels = self.prepared.context.files, self.data.labels
        return described(files[CONFIG], self.kind, labels, self.pooling)

    def classifier(self, seed: int) -> Any:
        """The classifier over the backbone, with a fresh head."""
        model = build_classifier(self.prepared.backbone, self.described, seed=seed)
        return self.placement.put(model)

    def metrics(self, logits: NDArray[np.float32]) -> dict[str, float]:
        """Metrics of logits for the evaluation rows."""
        return compute_metrics(self.kind, logits, self.dev.labels, self.data.task.metrics)

    def options(self) -> dict[str, Any]:
        """The options for a result or a manifest, with the teacher that was chosen."""
        teacher = None if self.teacher is None else self.teacher.shown
        return {**self.request.config.record(), "teacher": teacher}


def prepare(request: FitRequest, *, on_progress: OnProgress = lambda _: None) -> PreparedRun:
    """Load model, data and tokenizer; refuse requests that cannot succeed before the first step."""
    return prepare_rows(request, load_rows(request), on_progress=on_progress)


def with_divisors(run: PreparedRun) -> PreparedRun:
    """The run with the divisors that it learns with, if it simulates rounding; the first process finds them for all."""
    if run.request.config.simulate is None:
        return run
    find = partial(run.prepared.divisors, run.request.out, run.described)
    return replace(run, divisors=run.placement.processes.of_main(find))


def load_rows(request: FitRequest) -> TaskRows:
    """The rows of the task, in the order of labels that the model or the run that it starts from has."""
    check_place(request)
    data, finding = load_splits(
        request.finetuned or request.model,
        request.task,
        data=request.data,
        eval_data=request.eval_data,
        train_rows=request.config.train_rows,
        revision=request.revision if request.finetuned is None else None,
        cache=request.cache,
        untrained=request.config.random is not None,
    )
    return as_started(request, TaskRows(data, finding))


def as_started(request: FitRequest, rows: TaskRows) -> TaskRows:
    """The rows with their labels in the order of the task that the run starts from, if the run takes its head.

    Raises:
        ConfigError: that task has other labels or another kind.
    """
    if request.start is None:
        return rows
    entry, data = entry_of_start(request.start), rows.data
    if not starts_head(entry, data.task.type):
        return replace(rows, facts={**rows.facts, "started_from": entry.name})
    own = (data.task.type.name, sorted(data.labels))
    if own != (entry.kind, sorted(entry.labels)):
        raise ConfigError(
            f"`{entry.name}` is a {entry.kind} of {', '.join(entry.labels) or 'no labels'}, the rows are a "
            f"{own[0]} of {', '.join(data.labels) or 'no labels'}",
            f"start from a task of the same labels, or of the type {Kind.FILL_MASK}",
        )
    facts = {**rows.facts, "started_from": entry.name}
    return replace(rows, data=data.in_order(entry.labels), facts=facts)


def _target(request: FitRequest, train: Encoded, rows: TaskRows) -> TargetScale | None:
    """The unit in which the head learns: that of the task it starts from, else that of the rows."""
    kind = rows.data.task.type
    if (started := entry_of_head(request.start, kind)) is not None:
        return TargetScale.of(started)
    labels = known_labels(train.labels, train.labelled)
    return scale_for(kind, labels, rows.finding.head)


def _start(request: FitRequest, rows: TaskRows, prepared: PreparedBackbone) -> Patch | None:
    """The patch that the run starts from, or None.

    Raises:
        ArtifactError: its masks are of another architecture.
        ConfigError: units are gone, and a size of the mask is asked for; or the run could not keep them gone.
    """
    if request.start is None:
        return None
    place, task = request.start
    patch = open_artifact(place).patch(task)
    if not starts_head(entry_of_start(request.start), rows.data.task.type):
        patch = replace(patch, head={})
    patch.check_fits(prepared.backbone)
    check_start(patch, task, request.config)
    files, names = prepared.context.files, prepared.backbone.linears
    config = described(files[CONFIG], rows.data.task.type, rows.data.labels)
    check_start_units(patch.units, task, config, masked_names(names, request.config))
    return patch


def prepare_rows(
    request: FitRequest,
    rows: TaskRows,
    *,
    prepared: PreparedBackbone | None = None,
    on_progress: OnProgress = lambda _: None,
) -> PreparedRun:
    """The run over rows that are read already, and over a backbone, if that is there; `on_progress` is of a refinement."""
    finding, pooling = rows.finding, pooling_for(request, rows.finding)
    placement, pattern, shapes, sparsity, units = _chosen(request, rows, prepared, pooling)
    prepared = prepared or load_or_quantize(request, finding.encoder, on_progress, rows.data.train)
    request = _with_bits(request, prepared.scheme.bits)
    teacher = find_teacher(request.config, finding, rows.data.task.type)
    train, dev, held_out, extra = _tokens(request, rows, prepared, teacher)
    return PreparedRun(
        request=request,
        data=rows.data,
        prepared=prepared,
        train=train,
        dev=dev,
        held_out=held_out,
        plan=Plan.of(request.config, len(train)),
        placement=placement,
        pattern=pattern,
        shapes=shapes,
        sparsity=sparsity,
        teacher=teacher,
        finding=finding,
        facts=rows.facts | extra,
        start=_start(request, rows, prepared),
        target=_target(request, train, rows),
        chosen_units=units,
        pooling=pooling,
    )


def _with_bits(request: FitRequest, bits: int) -> FitRequest:
    """The request with the bits that its backbone has, on which the usual margin depends."""
    return replace(request, config=replace(request.config, bits=bits))


def _tokens(
    request: FitRequest, rows: TaskRows, prepared: PreparedBackbone, teacher: Teacher | None
) -> tuple[Encoded, Encoded, Encoded | None, dict[str, int]]:
    """Training rows, evaluation rows and rows that are held out as tokens, and what is said of rows without labels."""
    config, context = request.config, prepared.context
    train, dev = preprocess_splits(context, rows.data, rows.finding.note, config.max_length)
    check_mask_teacher(config, train)
    train, held_out = hold_out(config, train, rows.data)
    train, extra = _with_unlabelled(train, rows, request, prepared, teacher)
    return train, dev, held_out, extra


def _chosen(
    request: FitRequest,
    rows: TaskRows,
    prepared: PreparedBackbone | None,
    pooling: Pooling | None,
) -> tuple[Placement, MaskPattern, ParameterShapes, float | None, ChosenUnits]:
    """What the options choose, and refuse, before anything is quantised: see `PreparedRun`."""
    config, data = request.config, rows.data
    described_by = config_bytes(request) if prepared is None else prepared.context.files[CONFIG]
    placement = placement_of(request.device, config.precision)
    pattern: MaskPattern = PATTERNS[config.pattern].learned_by(config.estimator_entry)
    model = described(described_by, data.task.type, data.labels, pooling)
    shapes = parameter_shapes(model)
    check_label_options(
        config, data, shapes.last, model_type=model.model_type, labelled=rows.labelled
    )
    check_trunk(config, model, shapes.linears)
    sparsity = sparsity_of(shapes, config)
    names = masked_names(shapes.linears, config)
    pattern.check(config, {name: shapes.linears[name] for name in names})
    units = choose_units(config, names, model)
    check_room(request, shapes, pattern, rows=len(data.train))
    return placement, pattern, shapes, sparsity, units


def _with_unlabelled(
    train: Encoded,
    rows: TaskRows,
    request: FitRequest,
    prepared: PreparedBackbone,
    teacher: Teacher | None,
) -> tuple[Encoded, dict[str, int]]:
    """The training rows with texts that are learned from a teacher alone behind them, and what is said of these."""
    train = train if rows.labelled else train.without_labels()
    data = rows.data
    several = [data.train.unlabelled if data.task.unlabelled is Unlabelled.TEACH else ()]
    if request.texts is not None:
        images = data.task.type.reads == IMAGES
        several.append(read_unlabelled(request.texts, data.task.texts, images=images))
    count = sum(map(len, several))
    if not count:
        return train, {}
    check_unlabelled(data.task, request, count, teacher)
    extra = [_blank(texts, rows, request, prepared) for texts in several if len(texts)]
    return joined([train, *extra]), {"unlabelled_rows": count}


def _blank(
    texts: Sequence[tuple[str, ...]],
    rows: TaskRows,
    request: FitRequest,
    prepared: PreparedBackbone,
) -> Encoded:
    """Texts without labels as tokens."""
    task, length = rows.data.task, request.config.max_length
    labels = task.type.blank(rows.data.train.labels, len(texts))
    prefixes = task.prefixes or ()
    root = rows.data.train.root
    split = Split(texts, labels, windows=task.windows, root=root).prefixed(prefixes)
    return prepared.context.encode(task.type.preprocessor, split, length, prefixes).without_labels()
