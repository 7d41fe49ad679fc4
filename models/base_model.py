"""The pretrained model that fine-tuned checkpoints come from: candidates, and how far weights have moved.

A checkpoint seldom says what it was made from: transformers 4.57 writes no name into `config.json`. So candidates are
what older checkpoints and model cards name, the aliases, and encoders of the same architecture in the Hub's local cache.
Weights decide: fine-tuning moves them by a few percent, and two models that were pretrained apart differ by more than
their own size.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from torch import nn

from maskpack.formats import ConfigError, ModelError
from maskpack.formats.errors import Hint
from maskpack.models.build import base_of
from maskpack.models.config import load_config
from maskpack.models.linears import layer_of
from maskpack.models.load import AUTO_CLASS, Pretrained, load_finetuned, load_pretrained
from maskpack.models.locate import ALIASES, resolve

FURTHEST = 0.5
"""Relative distance of an encoder's weights above which it was not fine-tuned from the other one."""

_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "patch_size")
_CARD_BASE = re.compile(r"^base_model:\s*(?:-\s*)?['\"]?([^\s'\"]+)", re.MULTILINE)
_EMBEDDINGS, _REST = "embeddings", "rest"
_PROBES = ("The quick brown fox jumps.", "naïve CAFÉ 12,5 €", "東京 \U0001f600 don't", "a-b_c/d")


@dataclass(frozen=True)
class Ancestry:
    """How a checkpoint's encoder stands to a pretrained one.

    Attributes:
        model: the checkpoint.
        base: the pretrained model.
        layers: part of the encoder -> relative distance of its weights, `|w' - w| / |w|` over all of them.
        equal_rows: share of the rows of the word embeddings that are equal; those of tokens that fine-tuning never saw
            stay so without weight decay. None: the model reads images.
    """

    model: str
    base: str
    layers: Mapping[str, float]
    equal_rows: float | None

    @property
    def distance(self) -> float:
        """The largest distance of a part."""
        return max(self.layers.values())

    @property
    def related(self) -> bool:
        """Whether the checkpoint can have been fine-tuned from the base."""
        return self.distance <= FURTHEST

    def check(self) -> None:
        """Raise ModelError, which lists the distances, unless the checkpoint is related."""
        if not self.related:
            listed = ", ".join(f"{name} {value:.2f}" for name, value in self.layers.items())
            raise ModelError(
                f"`{self.model}` was not fine-tuned from `{self.base}`: its weights are "
                f"{self.distance:.2f} times their size away (by part: {listed}), at most {FURTHEST:g} is expected",
                "checkpoints of another base go into an artifact of their own",
            )


def find_base(
    models: Sequence[str], *, auto_class: str = AUTO_CLASS, vectors: bool = False
) -> tuple[str, Pretrained]:
    """The pretrained model that fine-tuned checkpoints come from, and the name by which it is loaded.

    Args:
        models: the checkpoints.
        auto_class: class of transformers that loads the first one.
        vectors: whether it gives vectors.

    Raises:
        ConfigError: no candidate is close to the first checkpoint.
    """
    first = load_finetuned(models[0], auto_class=auto_class, vectors=vectors)
    tried: list[str] = []
    nearest: tuple[float, str, Pretrained] | None = None
    for name in _candidates(models):
        pretrained = _loadable(name)
        tried.append(name)
        if pretrained is None or not _same_tensors(pretrained.model, base_of(first)):
            continue
        found = ancestry(pretrained, first, models[0])
        if found.related and (nearest is None or found.distance < nearest[0]):
            nearest = found.distance, name, pretrained
    if nearest is None:
        what = f"tried: {', '.join(tried)}" if tried else "nothing names one"
        raise ConfigError(
            f"the base of `{models[0]}` is not found ({what})", Hint("name it as `base`")
        )
    return nearest[1:]


def ancestry(pretrained: Pretrained, classifier: Any, model: str) -> Ancestry:
    """Compare the encoder of a fine-tuned classifier with a pretrained one.

    Args:
        pretrained: the base.
        classifier: the fine-tuned model.
        model: its name.

    Raises:
        ModelError: their parameters have other names or shapes.
    """
    base, other = pretrained.model, base_of(classifier)
    if not _same_tensors(base, other):
        raise ModelError(
            f"`{model}` has another architecture than `{pretrained.name}`",
            "checkpoints of another base go into an artifact of their own",
        )
    own = dict(other.named_parameters())
    moved: dict[str, float] = {}
    size: dict[str, float] = {}
    for name, weight in _compared(base):
        part = _part(name)
        gone = (own[name].detach().float() - weight.float()).double()
        moved[part] = moved.get(part, 0.0) + float(gone.square().sum())
        size[part] = size.get(part, 0.0) + float(weight.double().square().sum())
    return Ancestry(
        model,
        pretrained.name,
        {part: (moved[part] / max(size[part], 1e-12)) ** 0.5 for part in moved},
        None if pretrained.tokenizer is None else _equal_rows(base, other),
    )


def _equal_rows(base: Any, other: Any) -> float:
    """Share of the rows of the word embeddings that are equal."""
    words, theirs = (each.get_input_embeddings().weight for each in (base, other))
    return float((words == theirs).all(dim=1).float().mean())


def _compared(base: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The matrices of an encoder, but for a pooler, which many checkpoints make anew."""
    for name, parameter in base.named_parameters():
        if parameter.ndim > 1 and not name.startswith("pooler."):
            yield name, parameter.detach()


def _part(name: str) -> str:
    layer = layer_of(name)
    if layer is not None:
        return f"layer {layer}"
    return _EMBEDDINGS if "embed" in name else _REST


def _same_tensors(base: nn.Module, other: nn.Module) -> bool:
    """Whether both have the same compared parameters, pooler aside."""
    own, theirs = (
        {name: weight.shape for name, weight in _compared(each)} for each in (base, other)
    )
    return own == theirs


def _candidates(models: Sequence[str]) -> list[str]:
    """Names of models that may be the base, each once: what checkpoints name first, then what is at hand."""
    config = load_config(resolve(models[0]))
    shape = {key: getattr(config, key, None) for key in _SHAPE}
    said = (name for model in models for name in _said_base(Path(resolve(model))))
    at_hand = (name for name in _at_hand() if _shape_of(resolve(name)) == shape)
    own = {str(Path(resolve(model)).resolve()) for model in models}
    return [name for name in dict.fromkeys([*said, *at_hand]) if name not in own]


def _said_base(folder: Path) -> Iterator[str]:
    """What a checkpoint's configuration or model card calls its base, if that is at hand or on the Hub."""
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
        if name and (
            Path(name).is_dir() or (name.count("/") <= 1 and not Path(name).is_absolute())
        ):
            yield str(name)
    except (OSError, ValueError, AttributeError):
        pass  # whoever loads it says what is wrong
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    head = card.split("---", 2)[1] if card.startswith("---") and card.count("---") > 1 else ""
    if match := _CARD_BASE.search(head):
        yield match.group(1)


def _at_hand() -> Iterable[str]:
    """Aliases whose package is installed, and models in the Hub's cache."""
    yield from (alias for alias, package in ALIASES.items() if find_spec(package) is not None)
    cache = Path(HF_HUB_CACHE)
    for folder in sorted(cache.glob("models--*")) if cache.is_dir() else ():
        yield folder.name.removeprefix("models--").replace("--", "/")


def _shape_of(location: str) -> Mapping[str, Any] | None:
    """Size and kind of a model at hand; None where it cannot be read."""
    folder = Path(location)
    if not folder.is_dir():
        folder = Path(HF_HUB_CACHE) / f"models--{location.replace('/', '--')}" / "snapshots"
        folder = max(folder.glob("*"), default=folder)
    try:
        tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return {key: tree.get(key) for key in _SHAPE}


def _loadable(name: str) -> Pretrained | None:
    """The model, or None if it is not there or no encoder."""
    try:
        return load_pretrained(name)
    except ModelError:
        return None


def check_same_tokens(ours: tuple[str, Any], theirs: tuple[str, Any]) -> None:
    """Raise ModelError unless two named tokenizers of transformers read a few texts of many kinds alike."""
    for text in _PROBES:
        own, other = (tokenizer(text)["input_ids"] for _, tokenizer in (ours, theirs))
        if own != other:
            raise ModelError(
                f"the tokenizer of `{theirs[0]}` gives other tokens than that of `{ours[0]}`: "
                f"{other} for `{text}`, not {own}",
                "tasks over one backbone share a tokenizer",
            )
