"""What surrounds the encoder in a model of sentence-transformers or SetFit, and is not taken over: said once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from maskpack.formats import ModelError
from maskpack.models.hub_files import file_of
from maskpack.models.locate import note_once

SETFIT_HEAD = "model_head.pkl"
"""A classifier of scikit-learn, pickled."""

_MODULES = "modules.json"
_READING = "sentence_bert_config.json"
_ENCODER = {
    "Transformer",
    "Pooling",
    "Normalize",
}  # the last two make a vector, a task has its head for that


def note_pipeline(location: str, tokenizer: Any, *, revision: str | None = None) -> None:
    """Say which parts of a pipeline a task does without.

    Args:
        location: folder or hub id.
        tokenizer: of the model.
        revision: of a hub model.
    """
    parts = tree_beside(location, _MODULES, revision)
    if not isinstance(parts, list):
        return
    kinds = [str(part.get("type")).rsplit(".", 1)[-1] for part in parts if isinstance(part, dict)]
    if further := [kind for kind in kinds if kind not in _ENCODER]:
        note_once(
            f"`{location}` has parts behind its encoder that a task does without: {', '.join(further)}"
        )
    reading = tree_beside(location, _READING, revision)
    lower = isinstance(reading, dict) and reading.get("do_lower_case") is True
    if lower and tokenizer.tokenize("A B C") != tokenizer.tokenize("a b c"):
        note_once(
            f"`{location}` was made for texts in lower case (`{_READING}`), and its tokenizer tells capitals "
            "apart: give texts in lower case, here and later",
            serious=True,
        )
    if _found(location, SETFIT_HEAD, revision) is not None:
        note_once(
            f"`{location}` has a head of SetFit (`{SETFIT_HEAD}`), a pickle, which is not read: "
            "the task gets a fresh head"
        )


def tree_beside(location: str, name: str, revision: str | None) -> Any:
    """A JSON file of a model; None where there is none, or it cannot be read."""
    path = _found(location, name, revision)
    try:
        return None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _found(location: str, name: str, revision: str | None) -> Path | None:
    """A file of a model, or None: most have none, and without a network nobody knows."""
    try:
        return file_of(location, name, revision=revision)
    except ModelError:
        return None
