"""The runs of a sweep as frozen values: models x tasks x arms x seeds. Pure; imports no torch.

An *arm* is one way to adapt a model (a mask or a baseline, with its options), a *run* is one arm on
one model, task and seed. Reading a plan from YAML is `file.py`, running it `run.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from maskpack.compressor.config import BaselineConfig, FitConfig, Method
from maskpack.compressor.teacher_config import NO_TEACHER, OF_ARTIFACT
from maskpack.formats import ConfigError
from maskpack.formats.files import name_key
from maskpack.formats.options import options_of
from maskpack.models.families import TEXT
from maskpack.tasks.task import Task, Unlabelled

PATHS = tuple(option.name for option in options_of(FitConfig) if option.opt.path)
"""Options that name files: relative to the plan's file; a run's key has the digest of their content."""


@dataclass(frozen=True)
class SweepModel:
    """A pretrained encoder.

    Attributes:
        name: what tables and folders call it.
        source: folder, hub id or alias, as `load_pretrained` takes it.
        digest: of the folder's files; the source itself for a hub id or an alias.
    """

    name: str
    source: str
    digest: str


@dataclass(frozen=True)
class SweepTask:
    """A task with its data and its own options.

    Attributes:
        name: name in tables and folders; the plan may have one task twice.
        task: columns, labels, metrics.
        digest: of the data files; the name of the data set where they come from the Hub.
        data, eval_data: files, or None.
        options: of every run on this task.
    """

    name: str
    task: Task
    digest: str
    data: Path | None = None
    eval_data: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """One way to adapt a model: a mask, or a baseline where `options` hold a `method`.

    Attributes:
        label: unique name, such as `mask bits=4`.
        family: the name in the plan's file, such as `mask`.
        options: of `FitConfig` or `BaselineConfig`.
        varied: those of them that the file gave as a list, with this arm's value.
        keep: whether the model or artifact stays on disk.
        teacher: label of the arm whose model teaches this one.
        digests: of the files that `options` name.
    """

    label: str
    family: str
    options: Mapping[str, Any]
    varied: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = False
    teacher: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether no mask is learned."""
        return "method" in self.options


@dataclass(frozen=True)
class Run:
    """One arm on one model, task and seed.

    Attributes:
        model, task, arm, seed: which one.
        common: options of every run of the plan.
        home: folder of everything that the sweep keeps.
        teacher: the run whose model teaches this one.
    """

    model: SweepModel
    task: SweepTask
    arm: Arm
    seed: int
    common: Mapping[str, Any]
    home: Path
    teacher: Run | None = None

    def __post_init__(self) -> None:
        assert (self.teacher is None) == (self.arm.teacher is None)
        self.config()

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.model.name}, {self.task.name}, {self.arm.label}, seed {self.seed}"

    @property
    def names(self) -> tuple[str, str, str, int]:
        """Names that identify the run in the plan."""
        return (self.model.name, self.task.name, self.arm.label, self.seed)

    @property
    def folder(self) -> Path:
        """Folder of its model or artifact if it is kept."""
        return self.home / "-".join(slug(str(name)) for name in self.names)

    @property
    def teachers(self) -> tuple[Run, ...]:
        """Its teacher, that one's teacher, and so on."""
        return () if self.teacher is None else (self.teacher, *self.teacher.teachers)

    @property
    def as_teacher(self) -> str:
        """Its model as an option names it: the folder of a baseline, or the task of a mask's artifact."""
        if self.arm.is_baseline:
            return str(self.folder)
        return f"{self.folder}{OF_ARTIFACT}{self.task.task.name}"

    def config(self) -> FitConfig | BaselineConfig:
        """All options, checked.

        Raises:
            ConfigError: an option that the arm does not have, or a wrong value.
        """
        kind = BaselineConfig if self.arm.is_baseline else FitConfig
        tree = {**self._given, "seed": self.seed}
        if self.teacher is not None:
            tree["teacher"] = self.teacher.as_teacher
        if kind is FitConfig:
            tree.setdefault("checkpoint_every", 0)  # a sweep repeats runs and does not resume them
        try:
            return kind.from_dict(tree)
        except ConfigError as error:
            raise ConfigError(f"{self._where}: {error}", error.advice) from error

    @cached_property
    def key(self) -> str:
        """Digest of everything that determines the outcome, the package's version excepted.

        Options count where they are given and differ from the default, so that neither a new option
        of a later version nor a default written out makes a finished run unfinished.
        """
        task = self.task.task
        tree = {
            "model": self.model.digest,
            "task": [task.name, str(task.kind), task.texts, task.label, task.metrics]
            + ([] if task.separator is None else [task.separator])
            + ([] if task.prefixes is None else [task.prefixes])
            + ([] if task.windows.stride is None else [task.windows.stride])
            + (["windows"] if task.windows.texts else [])
            + ([] if task.unlabelled is Unlabelled.STOP else [task.unlabelled]),
            "data": self.task.digest,
            "kind": str(Method(self.arm.options["method"])) if self.arm.is_baseline else "mask",
            "options": self._non_defaults(),
            "teacher": None if self.teacher is None else self.teacher.key,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()

    @property
    def _given(self) -> dict[str, Any]:
        return {**self.common, **self.task.options, **self.arm.options}

    @property
    def _where(self) -> str:
        return f"method `{self.arm.label}` on task `{self.task.name}`"

    def _non_defaults(self) -> dict[str, Any]:
        """Given options that differ from their defaults, files as digests.

        Without a word on the teacher, masks had none up to release 0.1 and have one now: that counts as an option. So does the pooling of
        heads of texts, which some models have of sentence-transformers now.
        """
        config = self.config()
        usual = {option.name: option.usual for option in options_of(type(config))}
        given = {name: getattr(config, name) for name in self._given if name != "checkpoint_every"}
        chosen = {
            name: self.arm.digests.get(name, value)
            for name, value in given.items()
            if name != "method" and value != usual[name] and value != NO_TEACHER
        }
        silent = isinstance(config, FitConfig) and config.teacher is None
        if silent and self.teacher is None:
            chosen["teacher"] = "usual"
        kind = self.task.task.type
        pooled = kind.reads == TEXT and not (kind.decoder.per_token or kind.decoder.vectors)
        if pooled and config.wanted_pooling is None:
            chosen["pooling"] = "usual"
        return chosen


@dataclass(frozen=True)
class Resources:
    """What a run gets on a cluster.

    Attributes:
        cpus: cores, and threads of torch.
        gpus: whole GPUs, or a share of one.
    """

    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if type(self.cpus) is not int or self.cpus < 1:
            raise ConfigError(f"`cpus` is {self.cpus!r}, expected a whole number of at least 1")
        known = type(self.gpus) in {int, float} and self.gpus >= 0
        if not known or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ConfigError(
                f"`gpus` is {self.gpus!r}, expected 0, a share of one such as 0.5, or a whole number"
            )


@dataclass(frozen=True)
class SweepPlan:
    """All runs of a sweep.

    Attributes:
        out: file of results, one JSON line a run.
        models, tasks, arms, seeds: what is crossed.
        options: of every run.
        reference: label that differences are given against, or None.
        resources: what each run gets on a cluster.
    """

    out: Path
    models: tuple[SweepModel, ...]
    tasks: tuple[SweepTask, ...]
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, Any] = field(default_factory=dict)
    reference: str | None = None
    resources: Resources = field(default_factory=Resources)

    def __post_init__(self) -> None:
        for what, names in (
            ("models", [model.name for model in self.models]),
            ("tasks", [task.name for task in self.tasks]),
            ("methods", [arm.label for arm in self.arms]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            if not names:
                raise ConfigError(f"`{what}` is empty, a sweep needs one or more")
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"`{what}` has `{twice[0]}` twice")
        if self.reference is not None and self.reference not in self.labels:
            raise _no_label("reference", self.reference, self.labels)
        for arm in self.arms:
            self._check_teacher(arm)
        self._check_runs()

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the arms, in the order of the file."""
        return tuple(arm.label for arm in self.arms)

    @property
    def home(self) -> Path:
        """Folder of kept models and artifacts, beside the results."""
        return self.out.with_name(f"{self.out.stem}.runs")

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """By seed, model, task, then arm; a teacher comes before its first student."""
        return tuple(
            run
            for seed in self.seeds
            for model in self.models
            for task in self.tasks
            for run in self._block(model, task, seed)
        )

    def _block(self, model: SweepModel, task: SweepTask, seed: int) -> Iterator[Run]:
        arms = {arm.label: arm for arm in self.arms}
        made: dict[str, Run] = {}

        def make(arm: Arm) -> Iterator[Run]:
            if arm.label in made:
                return
            teacher = None
            if arm.teacher is not None:
                yield from make(arms[arm.teacher])
                teacher = made[arm.teacher]
            made[arm.label] = Run(model, task, arm, seed, self.options, self.home, teacher)
            yield made[arm.label]

        for arm in self.arms:
            yield from make(arm)

    def _check_teacher(self, arm: Arm) -> None:
        if arm.teacher is None:
            return
        teacher = next((other for other in self.arms if other.label == arm.teacher), None)
        if teacher is None:
            raise _no_label(f"teacher of `{arm.label}`", arm.teacher, self.labels)
        if teacher.options.get("method") == Method.LORA:
            raise ConfigError(
                f"the teacher of `{arm.label}` is `{teacher.label}`, which leaves no plain classifier",
                "a teacher is a mask or another baseline, `full` for example",
            )
        if not teacher.keep:
            raise ConfigError(
                f"the teacher of `{arm.label}` is `{teacher.label}`, which is not kept",
                f"add `keep: true` to `{teacher.family}`",
            )
        by_label, chain = {other.label: other for other in self.arms}, [arm.label]
        while (own := by_label[chain[-1]].teacher) in by_label:
            if own in chain:
                raise ConfigError(
                    f"`{own}` is a teacher of its own teachers: {', '.join([*chain, str(own)])}",
                    "give the first of them another teacher",
                )
            chain.append(str(own))

    def _check_runs(self) -> None:
        """Refuse one run under two names, and two runs with one folder."""
        keys: dict[str, Run] = {}
        folders: dict[str, Run] = {}
        for run in self.runs:
            other = keys.setdefault(run.key, run)
            if other is not run:
                raise ConfigError(f"`{other.title}` and `{run.title}` are the same run")
            other = folders.setdefault(name_key(run.folder.name), run)
            if other is not run:
                raise ConfigError(f"`{other.title}` and `{run.title}` have the same folder name")


def choose(plan: SweepPlan, only: Sequence[str], seeds: Sequence[int]) -> tuple[Run, ...]:
    """Runs of these labels (or families) and seeds, and their teachers; empty: all.

    Raises:
        ConfigError: a label or seed that the plan does not have.
    """
    families = {arm.family for arm in plan.arms}
    for name in only:
        if name not in families and name not in plan.labels:
            raise _no_label("the plan", name, plan.labels)
    for seed in seeds:
        if seed not in plan.seeds:
            raise ConfigError(
                f"seed {seed} is not in the plan", f"seeds: {', '.join(map(str, plan.seeds))}"
            )
    chosen = [
        run
        for run in plan.runs
        if (not only or run.arm.label in only or run.arm.family in only)
        and (not seeds or run.seed in seeds)
    ]
    wanted = {run.names for run in chosen}
    for run in chosen:
        wanted |= {teacher.names for teacher in run.teachers}
    return tuple(run for run in plan.runs if run.names in wanted)


def slug(text: str) -> str:
    """A name that every file system takes.

    >>> slug("mask bits=4"), slug("org/Model v1.5")
    ('mask_bits=4', 'org_Model_v1.5')
    """
    return re.sub(r"[^\w.=+]+", "_", text).strip("._") or "_"


def _no_label(what: str, name: str, labels: Sequence[str]) -> ConfigError:
    return ConfigError(f"{what}: no method `{name}`", f"methods: {', '.join(labels)}")
