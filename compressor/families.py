"""Encoder architectures this release supports, as data.

The rule is the same for all of them: every linear inside the base model (the encoder's layers and,
where there is one, its pooler) is masked, every embedding is quantised, everything outside the base
model is the head. What differs is only what the graph is fed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskpack.formats import ConfigError, ModelError


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        base: attribute of the classification model that holds the encoder.
        token_types: whether the encoder reads `token_type_ids`.
    """

    base: str
    token_types: bool


FAMILIES: dict[str, Family] = {
    "albert": Family("albert", token_types=True),  # layers shared: one mask for all repeats
    "bert": Family("bert", token_types=True),
    "camembert": Family("roberta", token_types=False),
    "distilbert": Family("distilbert", token_types=False),
    "electra": Family("electra", token_types=True),
    "roberta": Family("roberta", token_types=False),
    "xlm-roberta": Family("roberta", token_types=False),
}


def family_of(model_type: str) -> Family:
    """The family of a configuration's `model_type`.

    Raises:
        ModelError: not an encoder this release supports.
    """
    try:
        return FAMILIES[model_type]
    except KeyError:
        raise ModelError(
            f"`{model_type}` is not an encoder this release supports",
            f"supported: {', '.join(FAMILIES)}",
        ) from None


def longest_input(config: Mapping[str, Any]) -> int:
    """Tokens an encoder has positions for, from its configuration as a mapping."""
    positions = int(config.get("max_position_embeddings", 512))
    if family_of(config["model_type"]).base != "roberta":
        return positions
    # RoBERTa numbers positions from one past the padding token's id.
    return positions - int(config.get("pad_token_id") or 0) - 1


def check_length(max_length: int, longest: int) -> None:
    """Raise ConfigError if texts may have more tokens than the encoder has positions."""
    if max_length > longest:
        raise ConfigError(f"`max_length` is {max_length}, the encoder has {longest} positions")
