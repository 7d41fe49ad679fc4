"""What transformers has for an architecture: its class for classification, and a model of it without values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING
from transformers import logging as transformers_logging

from maskpack.formats import ModelError
from maskpack.formats.errors import Hint
from maskpack.models.inputs import INPUTS
from maskpack.models.linears import linearize

_LAYERS = 2
_SIZES = {  # for configurations that do not name all of theirs
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 64,
    "head_dim": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_hidden_layers": _LAYERS,
}


@dataclass(frozen=True, eq=False)
class Sketch:
    """An architecture as transformers has it.

    Attributes:
        native: its class for classification.
        config: of a model with two layers.
        model: that model, on the device `meta`: shapes without values; its matrices are linears.
    """

    native: Any
    config: Any
    model: Any

    @property
    def base(self) -> nn.Module | None:
        """The encoder inside the model, if it stands where its class says."""
        found = getattr(self.model, self.native.base_model_prefix or "base_model", None)
        return found if isinstance(found, nn.Module) and found is not self.model else None


def refusal(model_type: str, why: str) -> ModelError:
    """The error for an architecture that cannot be used."""
    return ModelError(
        f"`{model_type}` is not an architecture this release supports: {why}",
        Hint("`list_families` says which are supported"),
    )


def class_of(model_type: str) -> Any:
    """The class of transformers that classifies texts with an architecture, or images.

    Raises:
        ModelError: there is none.
    """
    if model_type not in CONFIG_MAPPING:
        raise refusal(model_type, f"transformers {transformers.__version__} does not know it")
    kind = CONFIG_MAPPING[model_type]
    for reading in INPUTS.values():
        classes = getattr(transformers, reading.auto_class)._model_mapping  # noqa: SLF001
        if kind in classes:
            return _first(classes[kind])
    raise refusal(
        model_type,
        f"transformers {transformers.__version__} has no class for classification with it",
    )


def class_for_task(config: Any, auto_class: str) -> Any:
    """The class of transformers that does a task with the model of a configuration.

    Args:
        config: of transformers.
        auto_class: name of the auto class that the type of the task loads.

    Raises:
        ModelError: the architecture has none for such tasks.
    """
    classes = getattr(transformers, auto_class)._model_mapping  # noqa: SLF001
    if type(config) not in classes:
        raise ModelError(
            f"transformers {transformers.__version__} has no `{auto_class.removeprefix('AutoModel')}` of "
            f"`{config.model_type}`",
            "give a model of another architecture for such a task",
        )
    return _first(classes[type(config)])


def _first(classes: Any) -> Any:
    """The class of an entry; of several the first: DeiT has one with a teacher besides."""
    return classes[0] if isinstance(classes, tuple | list) else classes


def arguments_of(kind: Any) -> set[str]:
    """Names of the arguments of a class's `forward`."""
    return set(inspect.signature(inspect.unwrap(kind.forward)).parameters)


@contextmanager
def _hushed() -> Iterator[None]:
    """No words of transformers on kernels that are not installed: nothing is computed."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


@cache
def sketch_of(model_type: str) -> Sketch:
    """The sketch of an architecture.

    Raises:
        ModelError: transformers has no class for it, or cannot make a model of it.
    """
    native, kind = class_of(model_type), CONFIG_MAPPING[model_type]
    problem: Exception | None = None
    for sizes in ({}, _SIZES):
        try:
            config = kind(**sizes)
            if "num_hidden_layers" in {*config.to_dict(), *kind.attribute_map}:
                config.num_hidden_layers = _LAYERS
            with torch.device("meta"), _hushed():
                return Sketch(native, config, linearize(native(config)))
        except Exception as error:  # noqa: BLE001 - whatever sizes that are not there lead to
            problem = error
    assert problem is not None
    if isinstance(problem, ImportError):
        raise refusal(model_type, "it needs a package that is not installed")
    said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    raise refusal(model_type, f"transformers cannot make a small model of it: {said:.120}")
