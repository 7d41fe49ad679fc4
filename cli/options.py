"""How a command gets its options: each is declared in a class of options, and spread over the command line.

Order of values: what stands on the command line, then `--config FILE`, then the default of the class. Every
option is None until somebody gives it. `--save-config` writes a whole run: options at the top level, and under
`run` what stands beside them on the command line (model, task, data, folder).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer import Argument, Option

from maskpack.compressor.options import RUN, load_options, save_options
from maskpack.formats import ConfigError, options
from maskpack.formats.options import Options, options_of
from maskpack.tasks.task import Unlabelled

if TYPE_CHECKING:
    pass

Config = TypeVar("Config", bound=Options)
_REPLAY = "replay"
Replayed = Annotated[Config, _REPLAY]
"""Options of a command that also come from `--config FILE`; `--save-config FILE` writes them."""


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with each parameter that is a class of options spread: one option a field.

    Typer makes the command line from the signature of what is returned. The command itself gets its options
    as values of their classes, checked.
    """
    hints = get_type_hints(command, include_extras=True)
    kinds = {name: kind for name, hint in hints.items() if (kind := _options_class(hint))}
    shown: list[Parameter] = []
    for parameter in signature(command).parameters.values():
        hint = hints[parameter.name]
        if parameter.name in kinds:
            replayed = _REPLAY in get_args(hint)
            each = options_of(kinds[parameter.name])
            shown += [_parameter(option, replayed=replayed) for option in each]
            shown += _replaying() if replayed else []
        else:
            shown.append(parameter.replace(annotation=hint, kind=Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**values: Any) -> None:
        file, kept = values.pop("config", None), values.pop("save_config", None)
        for name, kind in kinds.items():
            said = {o.name: _typed(o, values.pop(o.name)) for o in options_of(kind)}
            replayed = _REPLAY in get_args(hints[name])
            values[name] = resolve(kind, file if replayed else None, said)
            if replayed and kept is not None:
                save_options(kept, values[name], remembered(values["ctx"], set(said)))
        command(**values)

    run.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _options_class(hint: Any) -> type[Options] | None:
    """The class of options that an annotation names, if it is one."""
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return kind if isinstance(kind, type) and issubclass(kind, Options) else None


def _parameter(option: options.Option, *, replayed: bool) -> Parameter:
    """An option as Typer takes it: None until somebody gives it.

    A switch that a file may have turned on can be turned off again.
    """
    kind: Any = list[str] if option.kind is Mapping else option.kind
    both = kind is bool and option.opt.flag is None and (replayed or option.usual)
    flags = [] if both else [f"--{_flag(option)}"]  # without a flag Typer makes `--x / --no-x`
    more: dict[str, Any] = {"autocompletion": lambda: [*option.choices]} if option.choices else {}
    if isinstance(option.opt.one_of, Mapping):
        more = one_of(option.opt.one_of)
    if option.opt.words:
        more |= _number_or(option.opt.words)
    if kind is tuple or issubclass(option.kind, StrEnum):
        kind = str
    words = re.sub(r"`([a-z]+_[a-z_]+|epochs)`", lambda name: _dashed(name[1]), option.help)
    typed = Option(*flags, help=words.replace("`", ""), show_default=False, **more)
    if option.opt.required:
        return Parameter(option.name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, typed])
    annotation = Annotated[kind | None, typed]
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _number_or(words: Sequence[str]) -> dict[str, Any]:
    """What makes an option of whole numbers take some words too."""

    def read(value: str) -> int | str:
        if value in words:
            return value
        try:
            return int(value)
        except ValueError:
            fact = f"'{value}' is not a whole number, nor {options.listed(words)}."
            raise typer.BadParameter(fact) from None

    return {"parser": read, "metavar": f"<int|{'|'.join(words)}>"}


def _flag(option: options.Option) -> str:
    return option.opt.flag or option.name.replace("_", "-")


def _dashed(name: str) -> str:
    """An option as the command line spells it: `max_length` is `--max-length`."""
    return f"--{name.replace('_', '-')}"


def _typed(option: options.Option, value: Any) -> Any:
    """The value of an option from its spelling on the command line.

    Raises:
        ConfigError: a list of numbers or patterns that cannot be read.
    """
    if option.kind is Mapping:
        return overrides(value, _flag(option))
    if option.kind is not tuple or value is None:
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        fact = f"`--{_flag(option)} {value}` is not numbers with commas"
        raise ConfigError(fact, "like 1,8") from None


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
OnlyTask = Annotated[
    str | None,
    Option("--task", "-t", help="Task (`compress tasks` lists them). [the only one]"),
]
FindLr = Annotated[
    bool,
    Option(
        "--find-lr",
        help="Find `lr`, and `head_lr` with it, by a range test of 100 steps first, as `compress lr-find` does.",
    ),
]
Ensemble = Annotated[
    str | None,
    Option(
        help="Instead of --task: several tasks with commas that answer as one, with the mean of their outputs."
    ),
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
UnlabelledRows = Annotated[
    str | None,
    Option(
        "--unlabelled",
        help="Rows without a label are an error, or are left out. [as when the task was learned]",
        show_default=False,
        **one_of({"stop": Unlabelled.STOP, "skip": Unlabelled.SKIP}),
    ),
]
Texts = Annotated[
    Path | None,
    Option(
        "--texts",
        help="Texts without labels, learned from the teacher alone: a .txt file, a text a line, or a table; of images a folder.",
    ),
]
Revision = Annotated[str | None, Option(help="Branch, tag or commit of a model on the Hub.")]
ResizeEmbeddings = Annotated[
    bool,
    Option(
        "--resize-embeddings",
        help="Give tokens that the tokenizer has and the model has not the mean embedding; it is not learned.",
    ),
]
Providers = Annotated[
    list[str] | None,
    Option(
        "--provider",
        help="Execution provider of ONNX Runtime, such as cuda; repeatable, the preferred one first. The "
        "CPU computes what no other takes. [cpu]",
    ),
]
Device = Annotated[
    str | None,
    Option("--device", help="auto, cpu, cuda, cuda:N or mps. [auto: a GPU if there is one]"),
]
TorchThreads = Annotated[
    int | None,
    Option(
        "--threads",
        help="Threads of torch, in each process. [OMP_NUM_THREADS, else a thread for each core that no other "
        "program keeps busy at the start]",
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
    from_file = load_options(file) if file is not None else {}
    from_file.pop(RUN, None)  # `recall` has read it
    chosen = {name: value for name, value in given.items() if value is not None}
    return kind.from_dict({**from_file, **chosen})


def overrides(given: Sequence[str] | None, flag: str) -> dict[str, int] | None:
    """`PATTERN=BITS` texts of an option as a mapping.

    Raises:
        ConfigError: a text without a number behind its last equals sign.
    """
    if not given:
        return None
    found = {}
    for text in given:
        pattern, _, bits = text.rpartition("=")
        if not pattern or not bits.isdecimal():
            raise ConfigError(f"`--{flag} {text}` is not PATTERN=BITS", "like *.layer.0.*=4")
        found[pattern] = int(bits)
    return found


def members_of(ensemble: str | None, task: str | None) -> tuple[str, ...]:
    """The tasks that `--ensemble` names; none without it.

    >>> members_of("a, b", None)
    ('a', 'b')

    Raises:
        ConfigError: `--task` names one too.
    """
    if ensemble is None:
        return ()
    if task is not None:
        raise ConfigError("`--ensemble` goes without `--task`", "choose one of them")
    return tuple(name.strip() for name in ensemble.split(","))


def given(**options: object) -> str:
    """The first of these options that the command line gives, as it spells it.

    >>> given(texts=None, pair_field="b")
    '`--pair-field`'
    """
    return f"`{next(_dashed(name) for name, value in options.items() if value)}`"


_OF_ONE_CALL = {
    *(
        "config",
        "save_config",
        "dry_run",
        "json",
        "quiet",
        "resume",
        "replace",
        "log",
        "log_to",
        "log_dir",
    ),
    *("device", "processes", "threads"),  # of one machine, not of the run
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


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option without a value of its own is on the command line or in the file of --config."""
    file = ctx.params.get("config")
    return ctx.params[name] is not None or (file is not None and name in load_options(file))


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path | Enum):
        return str(value)
    return value


def _replaying() -> list[Parameter]:
    """The two options that read and write a whole run."""
    read = Option(
        "--config",
        callback=recall,
        is_eager=True,
        help="YAML file of options, or a whole run of --save-config; the command line wins.",
    )
    write = Option("--save-config", help="Write this run as YAML, to be repeated with --config.")
    return [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, it])
        for name, it in (("config", read), ("save_config", write))
    ]
