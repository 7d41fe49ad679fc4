"""Options that several commands share, and how an option finds its value.

Order: what stands on the command line, then `--config FILE`, then the default of the frozen config
class. Every option is None until somebody gives it. `--save-config` writes a whole run: options at the top
level, and under `run` what stands beside them on the command line (model, task, data, place).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer import Argument, Option

from maskpack.cli import render
from maskpack.compressor.options import RUN, Options, load_options, save_options
from maskpack.formats import ConfigError, DataError

if TYPE_CHECKING:
    from maskpack.tasks.task import Kind, Task

Config = TypeVar("Config", bound=Options)


def one_of(table: Mapping[str, object]) -> dict[str, Any]:
    """What makes an option take a name of a registry: its check, its place in the help, its completion."""

    def check(value: str) -> str:
        if value not in table:
            raise typer.BadParameter(f"'{value}' is not one of {', '.join(map(repr, table))}.")
        return value

    return {"parser": check, "metavar": f"[{'|'.join(table)}]", "autocompletion": lambda: [*table]}


Model = Annotated[
    str, Argument(help="Folder, hub id, or the alias `demo` of the pretrained model.")
]
ArtifactPath = Annotated[Path, Argument(help="Folder that `compress fit -o` wrote.")]
TaskName = Annotated[
    str, Option("--task", "-t", help="Task, such as sst2. `compress tasks` lists them.")
]
OwnTaskName = Annotated[
    str | None,
    Option(
        "--task",
        "-t",
        help="Task, such as sst2 (`compress tasks` lists them), or a name for your own data. "
        "[the data file's name]",
    ),
]
Data = Annotated[
    Path | None,
    Option(
        help="CSV, TSV, JSON, JSONL or Parquet file (or .gz), folder with train and dev files, "
        "or hub:NAME[:CONFIG]."
    ),
]
EvalData = Annotated[
    Path | None,
    Option(help="Evaluation file; without one, a tenth of a single file is held out, by label."),
]
TextField = Annotated[
    str | None,
    Option(help="Column of the text, for data of your own. [a plain name, such as text]"),
]
PairField = Annotated[str | None, Option(help="Column of a second text, for pairs.")]
LabelField = Annotated[
    str | None, Option(help="Column of the label, for data of your own. [label]")
]
Regression = Annotated[
    bool, Option("--regression", help="The label is a number, for data of your own.")
]
MultiLabel = Annotated[
    bool,
    Option(
        "--multi-label", help="A row may have several labels, or none: a list in JSON or Parquet."
    ),
]
LabelSeparator = Annotated[
    str | None, Option(help="What stands between the labels of a cell; implies --multi-label.")
]
Metric = Annotated[
    str | None,
    Option(help="Main metric: accuracy, f1, macro_f1, micro_f1, matthews, pearson, spearman."),
]
Epochs = Annotated[
    float | None, Option(help="Passes over the training rows. [3, but at least 400 steps]")
]
Steps = Annotated[int | None, Option(help="Optimiser steps; overrides --epochs.")]
BatchSize = Annotated[int | None, Option(help="Rows a step. [32]")]
MaxLength = Annotated[int | None, Option(help="Tokens a text is cut to. [128]")]
HeadLr = Annotated[float | None, Option(help="Peak learning rate of the head. [0.001]")]
Warmup = Annotated[float | None, Option(help="Share of steps with a rising rate. [0.1]")]
Seed = Annotated[int | None, Option(help="Of head, data order and dropout. [0]")]
TrainRows = Annotated[
    int | None, Option(help="Use so many training rows, the same for every seed.")
]
Precision = Annotated[
    str | None, Option(help="Arithmetic of a training step: auto, bf16 or fp32. [auto]")
]
Bits = Annotated[
    int | None, Option(help="Bits of a backbone weight: 8, 4, 2 or 1. [8, or the artifact's]")
]
BitsOverride = Annotated[
    list[str] | None,
    Option(help="PATTERN=BITS for some linears, such as *.layer.0.*=4; repeatable."),
]
Refine = Annotated[
    int | None, Option(help="Steps in which 2- and 1-bit codes copy the float model on text. [600]")
]
Group = Annotated[
    int | None, Option(help="Weights that share a scale; 0: a row at 8 bits, else 64. [0]")
]
Quantizer = Annotated[
    str | None, Option(help="auto, minmax, minmax-tensor, mse or gptq. [auto: by bits]")
]
Calibration = Annotated[
    str | None, Option(help="Text for gptq, a sentence a line, of no task. [shipped samples]")
]
EmbeddingBits = Annotated[int | None, Option(help="Bits of an embedding's weight: 8 or 4. [8]")]
Dropout = Annotated[float | None, Option(help="Probability of dropout. [the model's own]")]
Teacher = Annotated[
    str | None, Option(help="Fine-tuned model to learn from: a folder; twin trains one first.")
]
TeacherShare = Annotated[
    float | None, Option(help="Weight of the teacher against the labels. [0.5]")
]
Temperature = Annotated[float | None, Option(help="Softening of the teacher's opinion. [2]")]
TeacherStates = Annotated[
    float | None,
    Option(help="Weight of its hidden states; 0: only its logits. [3, if shapes agree]"),
]
Revision = Annotated[str | None, Option(help="Branch, tag or commit of a model on the Hub.")]
Providers = Annotated[
    list[str] | None,
    Option(
        "--provider",
        help="Execution provider of ONNX Runtime, such as cuda; repeatable, the preferred one first. The "
        "CPU computes what no other takes. [cpu]",
    ),
]
Json = Annotated[bool, Option("--json", help="Print JSON instead of a table.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress on stderr.")]


def resolve(kind: type[Config], file: Path | None, given: Mapping[str, Any]) -> Config:
    """A config from the command line, a file and the defaults, in that order.

    Args:
        kind: the config class.
        file: YAML of options, or None.
        given: option -> value, None where the command line says nothing.
    """
    known = {field.name for field in fields(kind)}
    assert set(given) <= known, set(given) - known
    from_file = load_options(file) if file is not None else {}
    from_file.pop(RUN, None)  # `recall` has read it
    chosen = {name: value for name, value in given.items() if value is not None}
    return kind.from_dict({**from_file, **chosen})


def config_of(
    ctx: typer.Context, kind: type[Config], file: Path | None, kept: Path | None
) -> Config:
    """The config of a call.

    Args:
        ctx: of the call.
        kind: the config class.
        file: YAML of options, or None.
        kept: where to write the whole run as YAML, or None.
    """
    config = resolve(kind, file, given_options(ctx, kind))
    if kept is not None:
        save_options(kept, config, remembered(ctx, set(config.__dict__)))
    return config


def given_options(ctx: typer.Context, kind: type[Options]) -> dict[str, Any]:
    """Option of a config class -> what the command line says of it, None where it says nothing."""
    names = {field.name for field in fields(kind)} & ctx.params.keys()
    said = {name: ctx.params[name] for name in names}
    if "bits_override" in said:
        said["bits_override"] = overrides(said["bits_override"])
    return said


def overrides(given: Sequence[str] | None) -> dict[str, int] | None:
    """`PATTERN=BITS` texts as a mapping.

    Raises:
        ConfigError: a text without a number behind its last equals sign.
    """
    if not given:
        return None
    found = {}
    for text in given:
        pattern, _, bits = text.rpartition("=")
        if not pattern or not bits.isdecimal():
            raise ConfigError(f"`--bits-override {text}` is not PATTERN=BITS", "like *.layer.0.*=4")
        found[pattern] = int(bits)
    return found


def find_named_task(ctx: typer.Context, data: Path | None) -> Task:
    """The task that a call names, or one over columns of the user's own data.

    Args:
        ctx: of a call with the options of a task.
        data: where the rows are. It gives a task without a name its name, and is looked into for
            columns where the call gives none.
    """
    from maskpack.tasks.data.columns import Said, task_of_said  # noqa: PLC0415 - keeps --help fast

    told, name = ctx.params, ctx.params["task"]
    separator = typed_separator(told["label_separator"])
    kind = _kind(told["regression"], several=told["multi_label"] or separator is not None)
    columns = (told["text_field"], told["pair_field"], told["label_field"])
    task = name or _name_of(data)
    said = Said(task, name is not None, data, *columns, kind, told["metric"], separator)
    with render.hushed() if told["quiet"] else nullcontext():
        return task_of_said(said)


def typed_separator(text: str | None) -> str | None:
    r"""What `--label-separator` means: a tab is hard to type, so `\t` stands for it.

    >>> typed_separator(r"\t") == "\t"
    True
    """
    return None if text is None else text.replace("\\t", "\t")


def _kind(regression: bool, *, several: bool) -> Kind | None:
    """What the head predicts; None leaves it to the task."""
    from maskpack.tasks.task import Kind  # noqa: PLC0415 - keeps --help fast

    if regression and several:
        raise ConfigError("`--regression` and `--multi-label` contradict each other")
    return Kind.REGRESSION if regression else Kind.MULTI_LABEL if several else None


def _name_of(data: Path | None) -> str:
    """A task's name from the name of its data: `data/Tickets 2024.csv.gz` is `tickets-2024`."""
    if data is None:
        raise typer.BadParameter(
            "Missing option '--task': without --data, give a task that `compress tasks` lists"
        )
    last = data.name.removeprefix("hub:").split(":")[0].split(".")[0]
    name = re.sub(r"[^a-z0-9_-]+", "-", last.casefold()).strip("-_")[:64]
    if not name:
        raise ConfigError(f"`{data}` gives the task no name", "name it with `--task`")
    return name


_OF_ONE_CALL = {
    *("config", "save_config", "dry_run", "json", "quiet", "resume", "replace", "log", "log_dir")
}
"""What a file does not repeat: how to answer, and whether what is there may be touched."""


def recall(ctx: typer.Context, file: Path | None) -> Path | None:
    """Take from the file's `run` what the command line leaves out; called before all other options.

    Raises:
        ConfigError: `run` is no mapping, or holds what the command does not have.
    """
    if file is None or ctx.resilient_parsing:  # that is: while a shell completes a word
        return file
    run = load_options(file).get(RUN) or {}
    if not isinstance(run, Mapping):
        raise ConfigError(f"`{RUN}` in `{file}` is no mapping")
    names = {str(parameter.name) for parameter in ctx.command.params} - _OF_ONE_CALL
    unknown = sorted(map(str, set(run) - names))
    if unknown:
        raise ConfigError(
            f"`{RUN}` in `{file}` has `{unknown[0]}`, which `compress {ctx.info_name}` does not take",
            f"it takes: {', '.join(sorted(names))}",
        )
    ctx.default_map = {**(ctx.default_map or {}), **run}
    return file


def remembered(ctx: typer.Context, known: set[str]) -> dict[str, Any]:
    """What a command line says beside the options of `known`, as plain YAML values.

    Args:
        ctx: of the call.
        known: names of the config class's fields, which are kept apart, but for what must be given.
    """
    needed = {parameter.name for parameter in ctx.command.params if parameter.required}
    given = {
        name: _plain(value)
        for name, value in ctx.params.items()
        if name not in (known - needed) | _OF_ONE_CALL and value is not None and value is not False
    }
    return dict(sorted(given.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path | Enum):
        return str(value)
    return value


ConfigFile = Annotated[
    Path | None,
    Option(
        "--config",
        callback=recall,
        is_eager=True,
        help="YAML file of options, or a whole run of --save-config; the command line wins.",
    ),
]
SaveConfig = Annotated[
    Path | None,
    Option("--save-config", help="Write this run as YAML, to be repeated with --config."),
]


def data_by_task(given: Sequence[str], tasks: Sequence[str]) -> dict[str, Path]:
    """Task -> where its data lies, from `PATH` or `TASK=PATH` texts.

    A path that is there is a path, even if it holds an equals sign.

    Args:
        given: values of `--data`.
        tasks: names of the tasks at hand; a bare path is that of the only one.

    Raises:
        ConfigError: a bare path among several tasks, a task that is not at hand or named twice.
        DataError: nothing lies there.
    """
    found: dict[str, Path] = {}
    for text in given:
        task, place = _parted(text, tasks)
        if task in found:
            raise ConfigError(
                f"`--data` names `{task}` twice: `{found[task].as_posix()}` and `{place.as_posix()}`",
                "one file or folder a task",
            )
        found[task] = place
    return found


def _parted(text: str, tasks: Sequence[str]) -> tuple[str, Path]:
    """The task of one text, and its place."""
    task, equals, path = text.partition("=")
    if not equals or _is_there(text):
        if len(tasks) != 1:
            raise ConfigError(
                f"`--data {text}` does not say of which task it is",
                f"give `--data TASK=PATH`; tasks: {', '.join(tasks)}",
            )
        task, path = tasks[0], text
    elif task not in tasks:
        close = get_close_matches(task, tasks, n=1)
        raise ConfigError(
            f"`--data {text}`: there is no task `{task}` here, and no such file or folder",
            f"{f'did you mean `{close[0]}`? ' if close else ''}tasks: {', '.join(tasks)}",
        )
    if not path:
        raise ConfigError(f"`--data {text}` has no path", f"like `--data {task}=rows.csv`")
    if not _is_there(path):
        raise DataError(
            f"no such file or folder: `{path}`", f"`--data {text}` was to be that of `{task}`"
        )
    return task, Path(path)


def _is_there(path: str) -> bool:
    """Whether it names a data set of the Hub, or something on disk."""
    from maskpack.tasks.data.hub import is_hub  # noqa: PLC0415 - keeps --help fast

    place = Path(path)
    return is_hub(place) or place.exists()
