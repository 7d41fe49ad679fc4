"""Prompts of a sentence-transformers model: what stands before a text, by name, and which of them by default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from maskpack.formats import ModelError
from maskpack.models.hub_files import file_of
from maskpack.models.locate import places_beside

FILE = "config_sentence_transformers.json"


@dataclass(frozen=True)
class Prompts:
    """What the file says.

    Attributes:
        by_name: name -> text before a text.
        default: name of the one that is used where none is named, or None.
    """

    by_name: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None

    @property
    def usual(self) -> str:
        """The prompt that is used where none is named; empty: none."""
        return "" if self.default is None else self.by_name.get(self.default, "")


def find_prompts(model: str, *, revision: str | None = None) -> Prompts:
    """The prompts of a model; none where it has no such file.

    Args:
        model: folder, hub id or alias.
        revision: of a hub model.

    Raises:
        ModelError: the file is damaged.
    """
    found = _file(model, revision)
    if found is None:
        return Prompts()
    try:
        tree = json.loads(found.read_text(encoding="utf-8"))
        prompts, default = tree.get("prompts") or {}, tree.get("default_prompt_name")
        named = {str(name): text for name, text in prompts.items()}
    except (ValueError, AttributeError, OSError) as error:
        raise ModelError(f"`{FILE}` of `{model}` cannot be read: {error}") from error
    if not all(isinstance(text, str) for text in named.values()):
        raise ModelError(f"`{FILE}` of `{model}` has a prompt that is no text")
    return Prompts(named, None if default is None else str(default))


def _file(model: str, revision: str | None) -> Path | None:
    """The file, or None: most models have none, and without a network nobody knows."""
    places = places_beside(model)
    try:
        found = (file_of(place, FILE, revision=revision) for place in places)
        return next((file for file in found if file is not None), None)
    except ModelError:
        return None
