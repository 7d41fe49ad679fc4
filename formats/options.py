"""Options of a step: each declared once, as a field of a frozen class, with type, default, check and help.

    epochs: Annotated[float | None, Opt("Passes over the training rows.", within="(0, inf)")] = None

Checks on creation, mappings, YAML files, the keys of a sweep, the options of commands, `--help` and the
documents are all made from this one line.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from maskpack.formats.errors import ConfigError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Opt:
    """What an option is, beside the type and the default of its field.

    Attributes:
        help: one plain sentence, or two.
        within: interval of a number, such as `(0, 1]` or `[4, inf)`.
        one_of: values that it takes. A registry is read when a value is checked, and may grow.
        words: texts that it takes beside values of its type, such as `auto`.
        default: words for the default where its value says too little.
        check: of a value: what was expected instead, or None.
        flag: name on the command line, if not that of the field.
        path: whether it names a file or a folder of this machine.
        required: whether a command insists on it, although the class has a default.
        later: whether it came after artifacts were written without it: a record leaves it out at its default, so
            that an old run repeated has its old bytes, and its checkpoint is still its own.
    """

    help: str
    within: str | None = None
    one_of: Collection[Any] | None = None
    words: tuple[str, ...] = ()
    default: str | None = None
    check: Callable[[Any], str | None] | None = None
    flag: str | None = None
    path: bool = False
    required: bool = False
    later: bool = False


@dataclass(frozen=True)
class Option:
    """A declared option: a field of a class of options with all that is known of it.

    Attributes:
        name: of the field.
        kind: its type, without None.
        optional: whether it may be None.
        opt: what the class says of it.
        usual: its default value.
    """

    name: str
    kind: Any
    optional: bool
    opt: Opt
    usual: Any

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values that it takes, where they can be counted."""
        if isinstance(self.kind, type) and issubclass(self.kind, StrEnum):
            return tuple(str(member) for member in self.kind)
        return (*(self.opt.one_of or ()), *self.opt.words)

    @property
    def help(self) -> str:
        """The help text, its choices, and the default in brackets."""
        text, default = self.opt.help, self.opt.default
        if self.choices and not isinstance(
            self.opt.one_of, Mapping
        ):  # help lists names of a registry
            text = f"{text.rstrip('.')}: {listed(self.choices)}."
        shown = _shown(self.usual) if default is None else default
        return f"{text} [{shown}]" if shown else text

    def checked(self, value: Any) -> Any:
        """The value in its type.

        Raises:
            ConfigError: of another type, outside its interval, or none of its choices.
        """
        if (value is None and self.optional) or (
            isinstance(value, str) and value in self.opt.words
        ):
            return value
        expected = self._expected(value)
        if expected is not None:
            raise ConfigError(f"`{self.name}` is {value!r}, expected {expected}")
        if self.choices and value not in self.choices:
            if self.kind is int:
                raise ConfigError(
                    f"`{self.name}` is {value}, expected {listed(map(str, self.choices))}"
                )
            what = self.name.replace("_", " ")
            raise ConfigError(f"no {what} `{value}`", f"{what}s: {', '.join(self.choices)}")
        return self.kind(value) if issubclass(self.kind, StrEnum) else value

    def _expected(self, value: Any) -> str | None:
        """What was expected instead of this value, or None."""
        if issubclass(self.kind, Mapping):
            fits, words = isinstance(value, Mapping), "a mapping"
        elif issubclass(self.kind, tuple):
            fits, words = isinstance(value, tuple), "several values"
        else:
            wanted = str if issubclass(self.kind, StrEnum) else self.kind
            words = _KINDS[wanted]
            fits = isinstance(value, (int, float) if wanted is float else wanted)
            fits &= wanted is bool or not isinstance(value, bool)
        if fits and self.opt.within is not None:
            fits = _is_within(value, self.opt.within)
        if not fits:
            whole_number = self.kind is int and type(value) is not int
            return words if self.opt.within is None or whole_number else _range(self.opt.within)
        return None if self.opt.check is None else self.opt.check(value)


@dataclass(frozen=True)
class Options:
    """A frozen set of options, each checked on creation as its class declares it."""

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            value = option.checked(getattr(self, option.name))
            object.__setattr__(self, option.name, value)

    def sha256(self) -> str:
        """Digest of all options: a checkpoint belongs to one set of them."""
        return hashlib.sha256(json.dumps(self._tree(), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """All options for a result or a manifest: of a local file or folder only its last name."""
        tree = self._tree()
        for option in options_of(type(self)):
            if option.opt.path and tree.get(option.name) is not None:
                tree[option.name] = Path(tree[option.name]).name
        return tree

    def _tree(self) -> dict[str, Any]:
        """All options but later ones at their default."""
        later = {each.name: each.usual for each in options_of(type(self)) if each.opt.later}
        tree = asdict(self)
        return {name: v for name, v in tree.items() if name not in later or v != later[name]}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """Options from a mapping; absent ones keep their default.

        Raises:
            ConfigError: an option that does not exist, or a value of the wrong type or range.
        """
        known = sorted(option.name for option in options_of(cls))
        unknown = sorted(set(tree) - set(known))
        if unknown:
            raise ConfigError(f"no option `{unknown[0]}`", f"options: {', '.join(known)}")
        return cls(**tree)


def options_of(kind: type[Options]) -> tuple[Option, ...]:
    """The options of a class, in the order of its fields; those of its bases come first."""
    declared: Callable[[Any], tuple[Option, ...]] = _declared  # mypy takes no class for hashable
    return declared(kind)


@cache
def _declared(kind: Any) -> tuple[Option, ...]:
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for each in fields(kind):
        hint = hints[each.name]
        opt = next((word for word in get_args(hint)[1:] if isinstance(word, Opt)), None)
        if opt is None:
            continue  # a value that a request holds beside its options
        parts = _parts(get_args(hint)[0])
        apart = (types.NoneType, str) if opt.words else (types.NoneType,)
        (base,) = (get_origin(part) or part for part in parts if part not in apart)
        usual = each.default_factory() if callable(each.default_factory) else each.default
        found.append(Option(each.name, base, types.NoneType in parts, opt, usual))
    return tuple(found)


def _parts(hint: Any) -> tuple[Any, ...]:
    """`int | None` as its two types."""
    return get_args(hint) if get_origin(hint) in {Union, types.UnionType} else (hint,)


def listed(values: Collection[Any] | Any) -> str:
    """Choices as a sentence has them.

    >>> listed(["full", "head", "lora"]), listed([8, 4])
    ('full, head or lora', '8 or 4')
    """
    words = [str(value) for value in values]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _shown(value: Any) -> str:
    """A default in the brackets of a help text."""
    if value is None or value is MISSING or isinstance(value, Mapping):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _ends(interval: str) -> tuple[float, float]:
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _is_within(value: float, interval: str) -> bool:
    """Whether a number lies in an interval; NaN lies in none.

    >>> _is_within(0, "(0, inf)"), _is_within(1, "(0, 1]"), _is_within(float("inf"), "[0, inf)")
    (False, True, False)
    """
    low, high = _ends(interval)
    above = value >= low if interval.startswith("[") else value > low
    return above and (value <= high if interval.endswith("]") else value < high)


def _range(interval: str) -> str:
    """An interval in words.

    >>> _range("(0, inf)"), _range("[4, inf)"), _range("(0, 1]")
    ('a number above 0', '4 or more', 'a number in (0, 1]')
    """
    low, high = _ends(interval)
    if high != math.inf:
        return f"a number in {interval}"
    return f"{low:g} or more" if interval.startswith("[") else f"a number above {low:g}"
