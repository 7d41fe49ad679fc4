"""Names of a classifier's labels, from its configuration: they are often written by hand, and then wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maskpack.formats import ModelError

_UNNAMED = re.compile(r"label_[0-9]+")


def check_id2label(tree: Mapping[str, Any], location: str) -> None:
    """Refuse `id2label` of a `config.json` whose keys are no numbers: transformers cannot read it.

    Raises:
        ModelError: it is such a one.
    """
    found = tree.get("id2label")
    if found is None or (isinstance(found, dict) and all(_is_number(key) for key in found)):
        return
    shown = found if isinstance(found, list) else list(found) if isinstance(found, dict) else found
    raise ModelError(
        f"`id2label` of `{location}` is {shown!r:.80}, expected the number of each output and its label",
        'write it in `config.json` as `{"0": "LABEL", "1": "LABEL"}`, in the order of the outputs',
    )


def _is_number(key: object) -> bool:
    try:
        int(str(key))
    except ValueError:
        return False
    return True


def label_names(config: Any) -> list[str]:
    """Labels of a classifier in the order of its outputs.

    Where `id2label` has transformers' own names only, and `label2id` has others for the same outputs, those are taken.
    """
    names = [str(config.id2label.get(index)) for index in range(config.num_labels)]
    return _by_label(config) or names if unnamed(names) else names


def label_problem(config: Any) -> str | None:
    """Why nobody can tell which output has which label; None if it can be told."""
    wanted, found = list(range(config.num_labels)), sorted(config.id2label)
    if found != wanted:
        return f"its `id2label` names the outputs {_listed(found)}, and they are {_listed(wanted)}"
    names = label_names(config)
    if twice := [name for name in names if names.count(name) > 1]:
        return f"its `id2label` has `{twice[0]}` more than once"
    other = _by_label(config)
    if other is not None and other != names:
        return (
            f"its `id2label` says {', '.join(names)} and its `label2id` {', '.join(other)}, "
            "in the order of the outputs"
        )
    return None


def unnamed(names: Sequence[str]) -> bool:
    """Whether all names are those that transformers gives where nobody did."""
    return all(_UNNAMED.fullmatch(name.casefold()) for name in names)


def _by_label(config: Any) -> list[str] | None:
    """Names as `label2id` has them; None where it has none of its own, or not one for each output."""
    by_place = {place: str(name) for name, place in (config.label2id or {}).items()}
    if sorted(map(str, by_place)) != sorted(map(str, range(config.num_labels))):
        return None
    names = [by_place[index] for index in range(config.num_labels)]
    return None if unnamed(names) else names


def _listed(places: Sequence[int]) -> str:
    return f"{places[0]} to {places[-1]}" if len(places) > 1 else ", ".join(map(str, places))
