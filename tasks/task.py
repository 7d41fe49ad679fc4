"""A task: its columns, its labels and its metric. A dict is the registry.

The nine GLUE tasks by name (Wang et al. 2018, arXiv 1804.07461), four sample tasks whose data ships with the
package, and `find_task` for anything else. Reading the data is `data/splits.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from maskpack.formats import ConfigError
from maskpack.formats.errors import Hint
from maskpack.formats.files import half_letter
from maskpack.formats.lazy import renamed
from maskpack.runtime.tags import tags_of
from maskpack.tasks.evaluation.metrics import METRICS
from maskpack.tasks.kinds import EVALUATION, Kind, Unlabelled
from maskpack.tasks.types import TASK_TYPES, TaskType
from maskpack.tasks.windows import USUAL, WindowRule

__all__ = ["EVALUATION", "TASKS", "HubData", "Kind", "Task", "Unlabelled", "find_task"]

SAMPLES = Path(__file__).parent / "samples"


def _find_type(kind: str) -> TaskType:
    if kind not in TASK_TYPES:
        raise ConfigError(f"no type of task `{kind}`", f"types: {', '.join(TASK_TYPES)}")
    return TASK_TYPES[kind]


@dataclass(frozen=True)
class Task:
    """A task by name: how to read and evaluate it.

    Attributes:
        name: key in `TASKS`; also the default name in an artifact.
        kind: its type, a name in `TASK_TYPES`.
        texts: one column of text, or two for sentence pairs.
        label: column of the label.
        raw_labels: values of that column in the order of the logits; empty: taken from the data.
        labels: names shown for them; empty: the raw ones.
        metrics: names in `METRICS`; the first is the main one.
        header: column names of files that have no header line, or empty.
        dev: file stems of the evaluation split; the first that exists is taken.
        hub: data set, configuration, text columns and evaluation split on the Hub.
        folder: where the data ships with the package, or None.
        separator: what stands between the labels of a cell, where a row may have several; None: a
            cell is a list, or one label.
        guessed: whether its columns were taken because of their names: the user named none.
        summary: one line for `compress tasks`.
        unlabelled: what is done with rows whose label is missing.
        prefixes: what stands before the first and the second text of a row; empty: nothing; None: what the
            model itself puts there.
        windows: how long rows are cut, of a type that cuts them into windows.
    """

    name: str
    kind: str = Kind.CLASSIFICATION
    texts: tuple[str, ...] = ("sentence",)
    label: str = "label"
    raw_labels: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    header: tuple[str, ...] = ()
    dev: tuple[str, ...] = EVALUATION
    hub: HubData | None = None
    folder: Path | None = None
    separator: str | None = None
    guessed: bool = field(default=False, compare=False, repr=False)
    summary: str = ""
    prefixes: tuple[str, ...] | None = None
    unlabelled: str = Unlabelled.STOP
    windows: WindowRule = USUAL

    def __post_init__(self) -> None:
        self._check_texts()
        for text in (*self.texts, self.label, self.separator or ""):
            if half_letter(text):  # no file of ours could name it
                raise ConfigError(f"{text!r} holds half of a surrogate pair", "rename the column")
        kind = self.type
        fitting = (*kind.usual_metrics, *kind.other_metrics, *kind.error_metrics)
        for metric in self.metrics:
            if metric not in METRICS:
                raise ConfigError(f"no metric `{metric}`", f"metrics: {', '.join(METRICS)}")
            if metric not in fitting:
                raise ConfigError(
                    f"`{metric}` is no metric of a {self.kind} task",
                    f"metrics of one: {', '.join(name for name in METRICS if name in fitting)}",
                )
        if self.metric in kind.error_metrics:
            raise ConfigError(
                f"`{self.metric}` is smaller where a task is better, so that it cannot be the main metric",
                f"`{kind.usual_metrics[0]}` can; an error is shown beside it",
            )
        if self.unlabelled not in set(Unlabelled):
            raise ConfigError(
                f"no treatment `{self.unlabelled}` of rows without a label",
                f"treatments: {', '.join(Unlabelled)}",
            )
        object.__setattr__(self, "unlabelled", Unlabelled(self.unlabelled))
        if self.separator is not None and not (self.type.several and self.separator):
            raise ConfigError("a label separator needs a text, and rows with several labels")

    def _check_texts(self) -> None:
        """Raise ConfigError if rows have too many or too few texts for the type, or are cut where the type cuts none."""
        if not 1 <= len(self.texts) <= 2:
            raise ConfigError(f"task `{self.name}` has {len(self.texts)} text columns, not 1 or 2")
        if self.type.texts == 2 and len(self.texts) == 1:
            what = "two texts" if self.type.grouped else "a question and a context"
            raise ConfigError(
                f"a {self.kind} task reads {what}, `{self.name}` has one text a row",
                "give the column of the second as `pair_field`",
            )
        if self.type.texts == 1 and len(self.texts) == 2:
            raise ConfigError(
                f"a {self.kind} task reads one text, `{self.name}` has two a row",
                "leave `pair_field` out",
            )
        if self.windows.texts and self.type.decoder.join is None:
            raise ConfigError(
                f"`windows` joins answers to the parts of a text, and `{self.name}` is a {self.kind}",
                "leave `windows` out",
            )
        if self.windows.texts and len(self.texts) == 2:
            raise ConfigError(
                f"`windows` cuts one text a row, `{self.name}` has two", "leave `windows` out"
            )
        if self.windows.stride is not None and not (
            self.type.decoder.windows or self.windows.texts
        ):
            raise ConfigError(
                f"`stride` is of rows that are cut into windows, and `{self.name}` is a {self.kind}",
                "leave `stride` out",
            )

    def with_prefixes(self, first: str | None, second: str | None) -> Task:
        """The same task with other texts before its texts; None and None change nothing, an empty text means none.

        Args:
            first: before the first text of a row; None: nothing.
            second: before the second; None: the same as before the first.

        Raises:
            ConfigError: there is no second text.
        """
        if first is None and second is None:
            return self
        if second and len(self.texts) == 1 and not self.type.finds_texts:
            raise ConfigError(
                f"`{self.name}` has one text a row, and `pair_prefix` is of a second",
                "leave `pair_prefix` out",
            )
        usual = first if len(self.texts) > 1 or self.type.finds_texts else ""
        both = (first or "", (usual if second is None else second) or "")
        return replace(self, prefixes=both if any(both) else ())

    @property
    def type(self) -> TaskType:
        """Its type, which determines labels, loss and metrics."""
        return _find_type(self.kind)

    @property
    def read_as(self) -> tuple[object, ...]:
        """How its texts are read, beside the tokenizer; empty: as they are."""
        windows = (self.windows,) if self.type.decoder.windows or self.windows.texts else ()
        return (*(self.prefixes or ()), *windows)

    @property
    def metric(self) -> str:
        """The main metric."""
        return self.metrics[0]

    judged_by = renamed("judged_by", "with_metric")

    def with_errors(self) -> Task:
        """The same task, whose answers are also measured in the target's own unit."""
        more = (name for name in self.type.error_metrics if name not in self.metrics)
        return replace(self, metrics=(*self.metrics, *more))

    def with_metric(self, metric: str | None) -> Task:
        """The same task with another main metric; None changes nothing."""
        if metric in {None, self.metric}:
            return self
        assert metric is not None
        others = (name for name in self.metrics if name != metric)
        return replace(self, metrics=(metric, *others))


@dataclass(frozen=True)
class HubData:
    """A task's data set on the Hub; its labels are integers in the order of the logits."""

    path: str
    config: str | None = None
    texts: tuple[str, ...] = ("sentence",)
    dev: str = "validation"


def _glue(config: str, *texts: str, dev: str = "validation") -> HubData:
    return HubData("nyu-mll/glue", config, texts or ("sentence",), dev)


_ENTAILMENT = ("entailment", "not_entailment")
_BINARY = ("0", "1")

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cola",
            texts=("sentence",),
            raw_labels=_BINARY,
            labels=("unacceptable", "acceptable"),
            metrics=("matthews", "accuracy"),
            header=("source", "label", "mark", "sentence"),
            hub=_glue("cola"),
            summary="is the sentence grammatical (GLUE)",
        ),
        Task(
            "mnli",
            texts=("sentence1", "sentence2"),
            label="gold_label",
            raw_labels=("entailment", "neutral", "contradiction"),
            dev=("dev_matched",),
            hub=_glue("mnli", "premise", "hypothesis", dev="validation_matched"),
            summary="does the first text imply the second, three classes (GLUE)",
        ),
        Task(
            "mrpc",
            texts=("#1 String", "#2 String"),
            label="Quality",
            raw_labels=_BINARY,
            labels=("not_equivalent", "equivalent"),
            metrics=("f1", "accuracy", "matthews"),
            dev=("dev", "msr_paraphrase_test"),
            hub=_glue("mrpc", "sentence1", "sentence2"),
            summary="do two sentences say the same (GLUE)",
        ),
        Task(
            "qnli",
            texts=("question", "sentence"),
            raw_labels=_ENTAILMENT,
            metrics=("accuracy", "matthews"),
            hub=_glue("qnli", "question", "sentence"),
            summary="does the sentence answer the question (GLUE)",
        ),
        Task(
            "qqp",
            texts=("question1", "question2"),
            label="is_duplicate",
            raw_labels=_BINARY,
            labels=("different", "duplicate"),
            metrics=("f1", "accuracy", "matthews"),
            hub=_glue("qqp", "question1", "question2"),
            summary="do two questions ask the same (GLUE)",
        ),
        Task(
            "rte",
            texts=("sentence1", "sentence2"),
            raw_labels=_ENTAILMENT,
            metrics=("accuracy", "matthews"),
            hub=_glue("rte", "sentence1", "sentence2"),
            summary="does the first text imply the second (GLUE)",
        ),
        Task(
            "sst2",
            raw_labels=_BINARY,
            labels=("negative", "positive"),
            metrics=("accuracy", "matthews"),
            hub=_glue("sst2"),
            summary="sentiment of a film review's sentence (GLUE)",
        ),
        Task(
            "stsb",
            kind=Kind.REGRESSION,
            texts=("sentence1", "sentence2"),
            label="score",
            metrics=("spearman", "pearson"),
            hub=_glue("stsb", "sentence1", "sentence2"),
            summary="how alike are two sentences, 0 to 5 (GLUE)",
        ),
        Task(
            "wnli",
            texts=("sentence1", "sentence2"),
            raw_labels=_BINARY,
            labels=("not_entailment", "entailment"),
            metrics=("accuracy", "matthews"),
            hub=_glue("wnli", "sentence1", "sentence2"),
            summary="what does the pronoun refer to (GLUE)",
        ),
        Task(
            "reviews",
            texts=("text",),
            raw_labels=("negative", "positive"),
            metrics=("accuracy", "matthews"),
            folder=SAMPLES / "reviews",
            summary="sentiment of a short review (sample, ships with the package)",
        ),
        Task(
            "tickets",
            texts=("text",),
            raw_labels=("account", "billing", "bug", "delivery", "question"),
            metrics=("accuracy", "macro_f1", "matthews"),
            folder=SAMPLES / "tickets",
            summary="intent of a support ticket (sample, ships with the package)",
        ),
        Task(
            "orders",
            kind=Kind.TOKEN_CLASSIFICATION,
            texts=("text",),
            label="entities",
            raw_labels=tags_of(("date", "order", "place", "product")),
            metrics=TASK_TYPES[Kind.TOKEN_CLASSIFICATION].usual_metrics,
            folder=SAMPLES / "orders",
            summary="what messages about orders name (sample, ships with the package)",
        ),
        Task(
            "help",
            kind=Kind.RETRIEVAL,
            texts=("query",),
            label="positive",
            metrics=TASK_TYPES[Kind.RETRIEVAL].usual_metrics,
            folder=SAMPLES / "help",
            summary="which page of a help centre answers a question (sample, ships with the package)",
        ),
    )
}


def find_task(
    name: str,
    *,
    text_field: str | None = None,
    pair_field: str | None = None,
    label_field: str | None = None,
    kind: str | None = None,
    metric: str | None = None,
    separator: str | None = None,
    prefix: str | None = None,
    pair_prefix: str | None = None,
    unlabelled: str = Unlabelled.STOP,
    stride: int | None = None,
    windows: bool = False,
) -> Task:
    """A task of `TASKS`, or one of the user's own when `text_field` and `label_field` are given.

    Rows without a label are an error (`stop`), are left out (`skip`), or are learned from the teacher (`teach`). Neighbouring windows of a
    long context share `stride` tokens. With `windows` long texts are cut into such windows too, whose answers are joined.

    Raises:
        ConfigError: the name is not known and no columns are given, or only one of them is; a metric that does not fit the kind.
    """
    own = _find_type(kind or Kind.CLASSIFICATION)
    label_field = own.label_column(label_field, (text_field, pair_field))
    if (text_field, pair_field, label_field) == (None, None, None):
        task = _known_task(name, kind, separator)
    elif text_field is None or label_field is None:
        raise ConfigError(
            "your own data needs both a text field and a label field",
            "give `text_field` and `label_field`",
        )
    else:
        texts = (text_field,) if pair_field is None else (text_field, pair_field)
        metrics = own.usual_metrics
        task = Task(name, own.name, texts, label_field, metrics=metrics, separator=separator)
    task = task.with_metric(metric).with_prefixes(prefix, pair_prefix)
    if stride is None and not windows and unlabelled == task.unlabelled:
        return task
    return replace(task, windows=WindowRule(stride, texts=windows), unlabelled=unlabelled)


def _known_task(name: str, kind: str | None, separator: str | None) -> Task:
    """A task of `TASKS`, if it is of this kind."""
    if name not in TASKS:
        raise _no_task(name)
    if kind not in {None, TASKS[name].kind} or separator is not None:
        raise ConfigError(
            f"`{name}` is a {TASKS[name].kind} task",
            "for your own data give `text_field` and `label_field`",
        )
    return TASKS[name]


def _no_task(name: str) -> ConfigError:
    close = get_close_matches(name, TASKS, n=1)
    return ConfigError(
        f"no task `{name}`",
        Hint(
            "{meant}known: {known}; for your own data give `text_field` and `label_field`",
            meant=f"did you mean `{close[0]}`? " if close else "",
            known=", ".join(TASKS),
        ),
    )
