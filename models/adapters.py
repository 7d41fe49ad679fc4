"""Adapters of PEFT as models: the factors of an adapter are merged into the weights of the model it was learned over.

An adapter is a folder, or a repository of the Hub, with `adapter_config.json` and without weights of a whole model.
Its head, if it was saved with one, becomes the head of the merged classifier.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from maskpack.formats import ModelError
from maskpack.formats.extras import needed_for
from maskpack.models.failures import guard
from maskpack.models.hub_files import commit_of, file_of
from maskpack.models.locate import ADAPTER, WHERE, resolve

_PREFIX = "base_model.model."
"""What PEFT puts before the name of every tensor."""

_known: dict[
    tuple[str, str | None], Adapter | None
] = {}  # hub id and revision -> None for a whole model
_PROMPTS = {"ADAPTION_PROMPT", "CPT", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"}
_PROMPTS |= {"PROMPT_TUNING"}  # they add tokens to a text and change no weight
_HEADS = ("classifier.weight", "out_proj.weight", "score.weight", "logits_proj.weight")
_NAME_IT = f"write folder or hub id of its model into `{ADAPTER}` as `base_model_name_or_path`"


@dataclass(frozen=True)
class Adapter:
    """An adapter that was found.

    Attributes:
        location: its folder or hub id.
        folder: where its files are on this machine.
        base: folder or hub id of the model it was learned over.
        base_revision: of that model.
    """

    location: str
    folder: Path
    base: str
    base_revision: str | None


def find_adapter(location: str, *, revision: str | None = None) -> Adapter | None:
    """The adapter at a folder or hub id, or None if there is a whole model, or nothing.

    Raises:
        ModelError: the adapter does not say over which model it was learned, or adds no weights to one.
    """
    if not Path(location).is_dir():
        return _on_hub(location, revision)
    path = Path(location) / ADAPTER
    if not path.is_file():
        return None
    if any(path.parent.glob("model*.safetensors")) or any(path.parent.glob("pytorch_model*.bin")):
        raise ModelError(
            f"`{location}` holds an adapter and the weights of a whole model",
            "move one of them to a folder of its own",
        )
    return _read(location, path)


def _on_hub(location: str, revision: str | None) -> Adapter | None:
    """The same for a hub id; a found model is asked for once, as each question is a request to the Hub."""
    if (location, revision) in _known:
        return _known[location, revision]
    config = file_of(location, "config.json", revision=revision)
    commit = revision if config is None else commit_of(config) or revision
    path = file_of(location, ADAPTER, revision=commit)
    if path is None and config is None:
        return None
    found = None
    if path is not None:
        names = (
            "adapter_model.safetensors",
            "adapter_model.bin",
        )  # the second only without the first
        any(file_of(location, name, revision=commit) is not None for name in names)
        found = _read(location, path)
    _known[location, revision] = found
    return found


def _read(location: str, path: Path) -> Adapter:
    """The adapter that a file describes."""
    try:
        tree = json.loads(path.read_bytes())
        kind, base = str(tree.get("peft_type")), tree.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"cannot read `{ADAPTER}` of `{location}`: {error}", WHERE) from error
    if kind in _PROMPTS:
        raise ModelError(
            f"`{location}` is an adapter of the kind {kind}, which changes no weight of its model",
            "give an adapter that can be merged, such as LoRA",
        )
    if not base:
        raise ModelError(
            f"`{location}` is an adapter, and `{ADAPTER}` does not say of which model", _NAME_IT
        )
    return Adapter(
        location, path.parent, _base(location, path.parent, str(base)), tree.get("revision")
    )


def _base(location: str, folder: Path, base: str) -> str:
    """Folder or hub id of the model that an adapter was learned over."""
    for path in (Path(base), folder / base):
        if path.is_dir():
            return resolve(str(path))
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base) and not base.startswith("."):
        return resolve(base)
    raise ModelError(
        f"`{location}` is an adapter of the model `{base}`, and there is no such folder", _NAME_IT
    )


def adapt_config(adapter: Adapter, config: Any) -> Any:
    """The configuration of the merged model, from that of its base, in place; with a head that of the classifier."""
    outputs = outputs_of(adapter)
    if outputs is not None:
        if config.num_labels != outputs:
            config.num_labels = outputs
        kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(config.model_type)
        config.architectures = [kind] if kind else config.architectures
    return config


def outputs_of(adapter: Adapter) -> int | None:
    """Number of logits of the adapter's head; None if it was saved without one."""
    sizes = {
        tensor.shape[0]
        for name, tensor in _weights(adapter).items()
        if name.endswith(_HEADS) and tensor.ndim == 2
    }
    return sizes.pop() if len(sizes) == 1 else None


def merge(adapter: Adapter, classifier: Any, base: str) -> set[str]:
    """Merge an adapter into a classifier with the weights of its model, in place.

    Args:
        adapter: what to merge.
        classifier: as transformers made it, with as many outputs as the adapter.
        base: attribute of the classifier that holds the encoder.

    Returns:
        Names of the classifier's parameters that the adapter brought itself.

    Raises:
        ModelError: a part of the adapter has no place in the model.
        MissingPackageError: PEFT is not installed.
    """
    with needed_for(f"the adapter `{adapter.location}`"):
        import peft  # noqa: PLC0415 - an optional extra
    weights = _weights(adapter)
    whole = any(name.startswith(f"{_PREFIX}{base}.") for name in weights)
    target = classifier if whole else getattr(classifier, base)
    parts = {name for name, _ in target.named_children()}
    # a head of another kind, such as that of a language model, is no part of a classifier
    fitting = {
        name: value
        for name, value in weights.items()
        if name.removeprefix(_PREFIX).partition(".")[0] in parts
    }
    _grow(target, fitting)
    absent = guard(lambda: _merged(peft, target, adapter, fitting), adapter.location)
    if absent or not fitting:
        odd = absent[0] if absent else min(weights, default="any tensor")
        raise ModelError(
            f"the adapter `{adapter.location}` does not fit `{adapter.base}`: `{odd}` has no counterpart",
            _NAME_IT,
        )
    own = {name.removeprefix(_PREFIX) for name in fitting}
    return own if whole else {f"{base}.{name}" for name in own}


def _grow(target: Any, weights: Mapping[str, Tensor]) -> None:
    """Give a model as many embeddings as its adapter brings: it was learned over added tokens."""
    table = target.get_input_embeddings().weight
    name = next(name for name, value in target.named_parameters() if value is table)
    own = weights.get(_PREFIX + name)
    if own is not None and own.ndim == 2 and len(own) != len(table):
        target.resize_token_embeddings(len(own), mean_resizing=False)


def _merged(peft: Any, target: Any, adapter: Adapter, weights: Mapping[str, Tensor]) -> list[str]:
    """Merge in place; return the names that only one of adapter and model has."""
    config = peft.PeftConfig.from_pretrained(str(adapter.folder))
    config.task_type = None  # a task type would add parts that may not have been saved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the name of the base, which is ours to find
        model = peft.get_peft_model(target, config)
        loaded = peft.set_peft_model_state_dict(model, dict(weights))
        wanted = set(peft.get_peft_model_state_dict(model))
        model.merge_and_unload()
    return [*loaded.unexpected_keys, *sorted(wanted - set(weights))]


def _weights(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter's tensors by name."""
    with needed_for(f"the adapter `{adapter.location}`"):
        import peft  # noqa: PLC0415 - an optional extra
    found: dict[str, Tensor] = guard(
        lambda: peft.utils.load_peft_weights(str(adapter.folder), device="cpu"), adapter.location
    )
    return found
