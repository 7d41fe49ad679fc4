"""A sweep's plan from YAML: names checked, lists multiplied, files digested. Imports no torch.

Relative paths are relative to the file.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml

from maskpack.compressor.options import UNREADABLE
from maskpack.compressor.sweep.plan import PATHS, Arm, Resources, SweepModel, SweepPlan, SweepTask
from maskpack.compressor.teacher_config import OF_ARTIFACT, TEACHER_WORDS, artifact_and_task
from maskpack.formats import ConfigError, DataError
from maskpack.formats.codec import file_sha256
from maskpack.formats.options import options_of
from maskpack.tasks.data.columns import Said
from maskpack.tasks.data.hub import is_hub
from maskpack.tasks.data.tables import READERS
from maskpack.tasks.options import TaskOptions
from maskpack.tasks.task import Task

_KEYS = ("models", "tasks", "seeds", "options", "methods", "reference", "resources", "out")
_TASK_FIELDS = tuple(option.name for option in options_of(TaskOptions))
_TASK_KEYS = ("task", "data", "eval_data", *_TASK_FIELDS)
_RUN = "run:"
_MODEL_FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.bin")
_TRAIN = ("train", "msr_paraphrase_train")


def read_plan(path: Path, *, out: Path | None = None) -> SweepPlan:
    """The plan in `path`.

    Args:
        path: the YAML file.
        out: file of results; None takes the plan's, or one beside it.

    Raises:
        ConfigError: anything that would stop a run later and can be seen now.
        DataError: data files that are not there.
    """
    tree = _load(path)
    base = path.parent
    _only(tree, _KEYS, f"`{path}`")
    for key in ("models", "tasks", "methods"):
        if not tree.get(key):
            raise ConfigError(f"`{key}` of `{path}` is empty or absent, a sweep needs one or more")
    seeds = tree.get("seeds", [0])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"`seeds` is {seeds!r}, expected a list of whole numbers")
    if out is None:
        named = tree.get("out")
        out = base / str(named) if named else path.with_suffix(".jsonl")
    reference = tree.get("reference")
    return SweepPlan(
        out=out,
        models=tuple(_model(base, entry) for entry in _sequence(tree["models"], "models")),
        tasks=tuple(_task(base, *entry) for entry in _entries(tree["tasks"], "tasks")),
        arms=tuple(
            arm for entry in _entries(tree["methods"], "methods") for arm in _arms(base, *entry)
        ),
        seeds=tuple(seeds),
        options=_options(tree.get("options"), "options"),
        reference=None if reference is None else str(reference),
        resources=_resources(tree.get("resources"), path),
    )


def _resources(tree: Any, path: Path) -> Resources:
    """What a run gets, from `resources: {cpus: 2, gpus: 1}`."""
    given = _mapping({} if tree is None else tree, "`resources`")
    _only(given, tuple(each.name for each in fields(Resources)), "`resources`")
    try:
        return Resources(**given)
    except ConfigError as error:
        raise ConfigError(f"`resources` of `{path}`: {error}", error.advice) from error


def _load(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UNREADABLE as error:
        raise ConfigError(f"cannot read the sweep in `{path}`: {error}") from error
    return _mapping(tree, f"`{path}`")


def _mapping(tree: Any, what: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ConfigError(f"{what} does not hold a mapping of names to values")
    return {str(key): value for key, value in tree.items()}


def _sequence(tree: Any, what: str) -> list[Any]:
    if not isinstance(tree, list):
        raise ConfigError(f"`{what}` is {tree!r}, expected a list")
    return tree


def _entries(tree: Any, what: str) -> list[tuple[str, dict[str, Any]]]:
    """Names with their mapping, from a mapping or from a list of names."""
    if isinstance(tree, list):
        tree = {str(name): None for name in _distinct(tree, what)}
    return [
        (name, _mapping(value or {}, f"`{name}` in `{what}`"))
        for name, value in _mapping(tree, f"`{what}`").items()
    ]


def _distinct(names: list[Any], what: str) -> list[Any]:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"`{what}` has `{name}` twice")
    return names


def _only(tree: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in tree if key not in known]
    if unknown:
        raise ConfigError(
            f"{where} has the unknown key `{unknown[0]}`", f"keys: {', '.join(known)}"
        )


def _options(tree: Any, where: str) -> dict[str, Any]:
    """Options by their names in the config classes; which exist is checked by each run."""
    found = {
        key.replace("-", "_"): _number(value)
        for key, value in _mapping(tree or {}, f"`{where}`").items()
    }
    for key in ("seed", "method", *PATHS):  # whose files are found and digested with the methods
        if key in found:
            place = "`seeds`" if key == "seed" else "`methods`"
            raise ConfigError(f"`{key}` cannot stand in `{where}`", f"it belongs into {place}")
    return found


def _number(value: Any) -> Any:
    """YAML 1.1 reads `1e-3` as text; people mean the number."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return [_number(each) for each in value] if isinstance(value, list) else value


def _model(base: Path, entry: Any) -> SweepModel:
    if not isinstance(entry, str):
        raise ConfigError(f"`models` has {entry!r}, expected a folder, hub id or alias")
    folder = base / entry
    if not folder.is_dir():
        if entry.startswith((".", "/")):
            raise ConfigError(f"no model folder `{folder}`")
        return SweepModel(entry, entry, entry)
    return SweepModel(folder.resolve().name, str(folder), _folder_digest(folder))


def _folder_digest(folder: Path) -> str:
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    return _digest(files)


def _digest(files: list[Path]) -> str:
    """Digest of names and contents."""
    digest = hashlib.sha256()
    for path in files:
        try:
            content = file_sha256(path)
        except OSError as error:
            raise DataError(f"cannot read `{path}`: {error.strerror}") from error
        digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def _task(base: Path, name: str, tree: dict[str, Any]) -> SweepTask:
    try:
        said = TaskOptions.from_dict({key: tree[key] for key in _TASK_FIELDS if key in tree})
    except ConfigError as error:
        raise ConfigError(f"task `{name}`: {error}", error.advice) from error
    task = Said(str(tree.get("task", name)), options=said).task()
    paths = {key: _place(base, tree[key]) for key in ("data", "eval_data") if tree.get(key)}
    files = [file for key, path in paths.items() for file in _data_files(task, path, key)]
    if "data" not in paths and task.folder is not None:
        files = [*_data_files(task, task.folder, "data"), *files]
    options = {key: value for key, value in tree.items() if key not in _TASK_KEYS}
    return SweepTask(
        name,
        task,
        _data_digest(task, files, paths.get("data")),
        paths.get("data"),
        paths.get("eval_data"),
        _options(options, f"tasks, {name}"),
    )


def _data_files(task: Task, path: Path, key: str) -> list[Path]:
    """The file, or those of a folder that a run may read."""
    if path.is_file():
        return [path]
    if is_hub(path):
        return []
    if not path.is_dir():
        raise DataError(
            f"no such file or folder: `{path}`, `{key}` of task `{task.name}`",
            "paths in a sweep are relative to its file",
        )
    endings = [ending + zipped for ending in READERS for zipped in ("", ".gz")]
    found = [
        path / f"{stem}{ending}"
        for stem in (*_TRAIN, *task.dev)
        for ending in endings
        if (path / f"{stem}{ending}").is_file()
    ]
    if not found:
        raise DataError(f"`{path}` has no file of task `{task.name}`, such as `train.tsv`")
    return found


def _place(base: Path, told: object) -> Path:
    """A path relative to the sweep's file, or a data set of the Hub as it is."""
    path = Path(str(told))
    return path if is_hub(path) else base / path


def _data_digest(task: Task, files: list[Path], data: Path | None) -> str:
    """Digest of the files; of a data set of the Hub its name: its rows are not looked at before a run."""
    if not (task.folder is None if data is None else is_hub(data)):
        return _digest(files)
    name = _hub_name(task, data)
    return name if not files else f"{name} {_digest(files)}"  # evaluated on a file


def _hub_name(task: Task, data: Path | None) -> str:
    if data is not None:
        return data.as_posix()
    if task.hub is None:
        raise DataError(f"task `{task.name}` has no data of its own", "give it as `data: PATH`")
    return f"{task.hub.path}/{task.hub.config}"


def _arms(base: Path, family: str, tree: dict[str, Any]) -> Iterator[Arm]:
    """The arms of one entry: the product of its lists, the first list slowest."""
    keep = tree.pop("keep", False)
    if not isinstance(keep, bool):
        raise ConfigError(f"`keep` of `{family}` is {keep!r}, expected true or false")
    options = {key.replace("-", "_"): _number(value) for key, value in tree.items()}
    if "seed" in options:
        raise ConfigError(f"`seed` cannot stand in `{family}`", "it belongs into `seeds`")
    lists = {key: value for key, value in options.items() if isinstance(value, list)}
    for key, values in lists.items():
        if not values:
            raise ConfigError(f"`{key}` of `{family}` is an empty list")
        if any(isinstance(value, list | dict) for value in values):
            raise ConfigError(f"`{key}` of `{family}` is {values!r}, expected a list of scalars")
    for chosen in itertools.product(*lists.values()):
        varied = dict(zip(lists, chosen, strict=True))
        label = " ".join([family, *(f"{key}={_plain(value)}" for key, value in varied.items())])
        yield _with_files(base, Arm(label, family, {**options, **varied}, varied, keep))


def _plain(value: Any) -> str:
    return "none" if value is None else str(value)


def _with_files(base: Path, arm: Arm) -> Arm:
    """Paths made whole and digested, `run:LABEL` made a teacher."""
    options, digests = dict(arm.options), {}
    teacher = options.get("teacher")
    if isinstance(teacher, str) and teacher.startswith(_RUN):
        del options["teacher"]
        arm = replace(arm, teacher=teacher.removeprefix(_RUN).strip())
    for key in PATHS:
        value = options.get(key)
        if value is None or (key == "teacher" and value in TEACHER_WORDS):
            continue
        path, end = _named(base, key, str(value))
        if not path.exists():
            raise ConfigError(f"no such file or folder: `{path}`, `{key}` of `{arm.label}`")
        options[key] = f"{path}{end}"
        digests[key] = (_folder_digest(path) if path.is_dir() else _digest([path])) + end
    return replace(arm, options=options, digests=digests)


def _named(base: Path, key: str, value: str) -> tuple[Path, str]:
    """The file or folder that an option names, and what follows it: the task of an artifact that teaches."""
    folder, task = artifact_and_task(value) if key == "teacher" else (value, "")
    if folder == value or (base / value).exists():
        return base / value, ""
    return base / folder, f"{OF_ARTIFACT}{task}"
