"""One exported task: what it needs from its folder, and what its logits mean. Pure but for `read_task`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import ExportError

GRAPH = "model.onnx"
CARD = "task.json"
TOKENIZER = "tokenizer.json"

_HINT = "give the folder that `compress export --onnx -o` wrote, or one that holds several of them"


@dataclass(frozen=True)
class TaskCard:
    """`task.json` of an exported folder.

    Attributes:
        name: of the task.
        kind: `classification` or `regression`.
        labels: class names in the order of the logits; empty for a regression.
        max_length: tokens a text was cut to when the task was learned.
        pad: id and text of the padding token.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    max_length: int
    pad: tuple[int, str]

    def __post_init__(self) -> None:
        if self.kind not in {"classification", "regression"}:
            raise ExportError(f"`{CARD}` is of the unknown kind `{self.kind}`")
        if (self.kind == "classification") != (len(self.labels) > 1):
            raise ExportError(f"`{CARD}` has {len(self.labels)} labels for a {self.kind}")
        if type(self.max_length) is not int or self.max_length < 1:
            raise ExportError(f"`{CARD}` has the length {self.max_length!r}")

    def to_json(self) -> str:
        """Sorted, indented, with a final line feed. Inverse of `from_json`."""
        tree = {
            "format": "maskpack-task",
            "format_version": 1,
            "name": self.name,
            "kind": self.kind,
            "labels": list(self.labels),
            "max_length": self.max_length,
            "pad_id": self.pad[0],
            "pad_token": self.pad[1],
        }
        return json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> TaskCard:
        """Read and check a card; inverse of `to_json`.

        Raises:
            ExportError: not a card, or one of another version.
        """
        try:
            tree = json.loads(text)
            if tree["format"] != "maskpack-task" or tree["format_version"] != 1:
                raise ExportError(
                    f"`{CARD}` is of format `{tree['format']}` {tree['format_version']!r}, "
                    "this release reads `maskpack-task` 1"
                )
            labels = tuple(str(label) for label in tree["labels"])
            pad = (int(tree["pad_id"]), str(tree["pad_token"]))
            return cls(str(tree["name"]), str(tree["kind"]), labels, tree["max_length"], pad)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ExportError(f"`{CARD}` is damaged: {error!r}", _HINT) from error


@dataclass(frozen=True)
class Prediction:
    """What a task says of a text.

    Attributes:
        label: the most probable class; None for a regression.
        score: its probability, or the predicted number.
        scores: class -> probability; empty for a regression.
    """

    label: str | None
    score: float
    scores: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.label is None:
            return {"score": self.score}
        return {"label": self.label, "score": self.score, "scores": self.scores}


def find_tasks(folder: Path) -> dict[str, Path]:
    """Exported tasks at `folder`: itself, or the folders in it. Name -> folder.

    Raises:
        ExportError: there is none, or two of one name.
    """
    places = [folder] if (folder / GRAPH).is_file() else sorted(folder.glob(f"*/{GRAPH}"))
    found: dict[str, Path] = {}
    for place in places:
        home = place if place == folder else place.parent
        name = read_card(home).name
        if name in found:
            raise ExportError(f"`{found[name]}` and `{home}` both hold the task `{name}`")
        found[name] = home
    if not found:
        raise ExportError(f"no exported task at `{folder}`", _HINT)
    return found


def read_card(folder: Path) -> TaskCard:
    """The card of an exported folder."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"cannot read `{folder / CARD}`: {error}", _HINT) from error
    return TaskCard.from_json(text)


def predictions(card: TaskCard, logits: NDArray[np.float32]) -> list[Prediction]:
    """Logits `(b, c)` as what they mean."""
    if card.kind == "regression":
        return [Prediction(None, float(row[0]), {}) for row in logits]
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    return [_best(card.labels, [float(share) for share in row]) for row in shares]


def _best(labels: Sequence[str], shares: Sequence[float]) -> Prediction:
    scores = dict(zip(labels, shares, strict=True))
    label = max(scores, key=lambda name: scores[name])
    return Prediction(label, scores[label], scores)
