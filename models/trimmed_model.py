"""A model with fewer tokens: its configuration, which parameters have a row for each token, and its files of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import CONFIG_MAPPING

from maskpack.formats import ModelError
from maskpack.formats.kept_tokens import KeptTokens
from maskpack.formats.schema import CONFIG
from maskpack.models.adapters import find_adapter
from maskpack.models.config import load_config
from maskpack.models.families import PADDED, family_of
from maskpack.models.hub_files import file_of
from maskpack.models.linears import linearize
from maskpack.models.locate import weights_variant
from maskpack.models.trimmed_tokenizer import named_in, with_new_numbers

_GENERATION = "generation_config.json"
_MODULES = "modules.json"
_BESIDE = (_MODULES, "sentence_bert_config.json", "config_sentence_transformers.json")
_OF_MODULES = ("config.json", "model.safetensors", "pytorch_model.bin")
"""Files of sentence-transformers: of the pipeline, and of each of its further modules."""


def stored_config(location: str, *, revision: str | None = None) -> dict[str, Any]:
    """`config.json` of a model as it is stored, with the size of its vocabulary.

    Raises:
        ModelError: it cannot be followed, or it is that of an adapter.
    """
    if find_adapter(location, revision=revision) is not None:
        raise ModelError(
            f"`{location}` is an adapter, whose model holds the table of embeddings",
            "merge it first: `merge_and_unload()` of PEFT, then `save_pretrained`",
        )
    settings = load_config(location, revision=revision)
    file = file_of(location, CONFIG, revision=revision)
    assert file is not None
    tree: dict[str, Any] = json.loads(file.read_bytes())
    return {_size_key(tree): settings.vocab_size, **tree}


def table_of(config: Mapping[str, Any]) -> int:
    """Rows of the table of token embeddings, by `config.json`; 0 of a model that reads no tokens."""
    return int(config.get(_size_key(config)) or 0)


def _size_key(config: Mapping[str, Any]) -> str:
    """Key of the size; some architectures have their own name for it."""
    names: Mapping[str, str] = CONFIG_MAPPING[config["model_type"]].attribute_map
    return names.get("vocab_size", "vocab_size")


def fixed_numbers(config: Mapping[str, Any]) -> set[int]:
    """Numbers of tokens that a configuration names, and those below the padding token's, where positions are counted from that."""
    found = set(named_in(config))
    if family_of(config["model_type"]).offset == PADDED:
        found |= set(range(int(config.get("pad_token_id") or 0)))
    return found


def trimmed_config(config: Mapping[str, Any], kept: KeptTokens) -> dict[str, Any]:
    """A `config.json` of the tokens that stay."""
    return {**with_new_numbers(config, kept), _size_key(config): len(kept.rows)}


def json_bytes(tree: Mapping[str, Any]) -> bytes:
    """A configuration as a file."""
    return (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode()


def rows_by_token(before: Any, after: Any, kept: KeptTokens) -> frozenset[str]:
    """Parameters that have a row for each token, tied ones under each of their names.

    Args:
        before: the model with all tokens; its values are not read.
        after: the same with those that stay.
        kept: the tokens.

    Raises:
        ModelError: a parameter depends on the vocabulary in another way.
    """
    found = axes_of_tokens(before, after, kept)
    for name, axis in found.items():
        if axis:
            raise ModelError(
                f"`{name}` has a column for each token, not a row",
                "make the vocabulary of the model smaller and learn the task on that",
            )
    return frozenset(found)


def axes_of_tokens(before: Any, after: Any, kept: KeptTokens) -> dict[str, int]:
    """Parameters that depend on the vocabulary -> the axis of their tokens: 0, but 1 in MobileBERT's head of masks.

    Raises:
        ModelError: as `rows_by_token`, whose arguments it has.
    """
    old, new = (
        {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
        for model in (before, after)
    )
    axes = {}
    for name in old.keys() & new.keys():
        changed = [
            axis
            for axis, sizes in enumerate(zip(old[name], new[name], strict=True))
            if len(set(sizes)) > 1
        ]
        if not changed:
            continue
        axes[name] = axis = changed[0]
        if len(changed) > 1 or (old[name][axis], new[name][axis]) != (kept.table, len(kept.rows)):
            raise ModelError(
                f"`{name}` is {old[name]} with all tokens and {new[name]} without: it has no row for each token",
                "such a vocabulary cannot be made smaller",
            )
    return axes


def outlined(config: Mapping[str, Any]) -> Any:
    """The model of a `config.json`, of the class that it was saved with, without values.

    Raises:
        ModelError: transformers has no such class.
    """
    tree = dict(config)
    settings = CONFIG_MAPPING[tree["model_type"]].from_dict(tree)
    named = (getattr(transformers, name, None) for name in tree.get("architectures") or ())
    kind = next((one for one in named if one is not None), None) or transformers.AutoModel
    make = kind.from_config if kind is transformers.AutoModel else kind._from_config  # noqa: SLF001
    pruned = getattr(settings, "pruned_heads", None)  # looked up by values
    with nullcontext() if pruned else torch.device("meta"):
        return linearize(make(settings))


def trimmed_weights(
    location: str, config: Mapping[str, Any], kept: KeptTokens, *, revision: str | None = None
) -> bytes:
    """The weights of a model as one file of safetensors: what tokens that stay have, all other tensors as they are.

    Args:
        location: folder or hub id.
        config: its `config.json`.
        kept: the tokens.
        revision: of a hub model.

    Raises:
        ModelError: there are no weights.
    """
    new = trimmed_config(config, kept)
    with torch.no_grad():
        before, after = outlined(config), outlined(new)
    known, axes = _spellings(before), axes_of_tokens(before, after, kept)
    rows = torch.from_numpy(kept.rows)
    tensors: dict[str, Tensor] = {}
    for name, tensor in stored_tensors(location, revision):
        # a parameter that the class does not have, such as the head of another one, is judged by its size
        spelled = next((one for one in known(name)), None)
        sized = next((axis for axis, size in enumerate(tensor.shape) if size == kept.table), None)
        axis = axes.get(spelled) if spelled else sized
        tensors[name] = (tensor if axis is None else tensor.index_select(axis, rows)).contiguous()
    return save(_apart(tensors), metadata={"format": "pt"})


def _spellings(model: Any) -> Any:
    """A function: names of a model's parameters that a name in a file can mean, with the encoder's prefix or without."""
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    prefix = f"{model.base_model_prefix}."

    def of(name: str) -> Iterator[str]:
        for spelled in (name, prefix + name, name.removeprefix(prefix)):
            if spelled in own:
                yield spelled

    return of


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory, which safetensors refuses to write."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensors[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return tensors


def stored_tensors(location: str, revision: str | None) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each tensor in the files of a model's weights, in their own types.

    Raises:
        ModelError: there are none.
    """
    for file in _weight_files(location, revision):
        if file.suffix == ".safetensors":
            yield from load_file(file).items()
        else:
            yield from torch.load(file, map_location="cpu", weights_only=True).items()


def weight_bytes(location: str, *, revision: str | None = None) -> int:
    """Bytes of the files of a model's weights."""
    return sum(file.stat().st_size for file in _weight_files(location, revision))


def _weight_files(location: str, revision: str | None) -> list[Path]:
    variant = weights_variant(Path(location)) if Path(location).is_dir() else None
    part = "" if variant is None else f".{variant}"
    for stem, ending in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole = file_of(location, f"{stem}{part}.{ending}", revision=revision)
        if whole is not None:
            return [whole]
        index = file_of(location, f"{stem}.{ending}.index{part}.json", revision=revision)
        if index is not None:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            files = [file_of(location, name, revision=revision) for name in names]
            return [file for file in files if file is not None]
    raise ModelError(
        f"`{location}` has no weights that torch reads",
        "give a folder with `model.safetensors` or `pytorch_model.bin`",
    )


def files_beside(
    location: str, kept: KeptTokens, *, revision: str | None = None
) -> dict[str, bytes]:
    """Further files of a model that go with its weights: the pipeline of sentence-transformers, and settings of generation."""
    found: dict[str, bytes] = {}
    for name in (*_BESIDE, *_further(location, revision)):
        file = file_of(location, name, revision=revision)
        if file is not None:
            found[name] = file.read_bytes()
    generation = file_of(location, _GENERATION, revision=revision)
    if generation is not None:
        tree = with_new_numbers(json.loads(generation.read_bytes()), kept)
        found[_GENERATION] = json_bytes(tree)
    return found


def _further(location: str, revision: str | None) -> Iterator[str]:
    """Files of the modules behind the encoder, by the list of the pipeline."""
    listed = file_of(location, _MODULES, revision=revision)
    for module in json.loads(listed.read_bytes()) if listed is not None else ():
        place = str(module.get("path") or "")
        if place and ".." not in Path(place).parts and not Path(place).is_absolute():
            yield from (f"{place}/{name}" for name in _OF_MODULES)
