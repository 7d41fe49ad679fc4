"""The type in which a checkpoint stores its weights.

transformers reads safetensors as views of mapped files. Only a change of type makes a copy, so a checkpoint of bfloat16
that is read as float32 takes four bytes a parameter. Here a checkpoint of one half type keeps it, takes no memory but
pages that the system can drop, and each weight becomes float32 when it is read, with the same value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from maskpack.models.hub_files import file_of

_HALVES = {"BF16": torch.bfloat16, "F16": torch.float16}
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def stored_type(location: str, *, revision: str | None) -> torch.dtype:
    """The half type that all float tensors of a checkpoint have; float32 for any other checkpoint.

    Only safetensors tell without being read, in one file or in those of an index.
    """
    kinds = _types(location, revision).values()
    floats = {kind for kind in kinds if kind.startswith(("F", "BF"))}
    return _HALVES.get(floats.pop(), torch.float32) if len(floats) == 1 else torch.float32


def stored_names(location: str, *, revision: str | None) -> frozenset[str]:
    """Names of the tensors of a checkpoint; empty where only reading all of it would tell, or it cannot be read."""
    return frozenset(_types(location, revision))


def _types(location: str, revision: str | None) -> dict[str, str]:
    """Name of a tensor -> its type as safetensors spells it; empty where they cannot be read."""
    found: dict[str, str] = {}
    try:
        for file in _files(location, revision):
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    found[name] = str(tensors.get_slice(name).get_dtype())
    except (OSError, ValueError, SafetensorError):
        return {}  # whoever loads it says what is wrong
    return found


def _files(location: str, revision: str | None) -> Iterator[Path]:
    whole = file_of(location, _WHOLE, revision=revision)
    if whole is not None:
        yield whole
        return
    index = file_of(location, _INDEX, revision=revision)
    tree = {} if index is None else json.loads(index.read_bytes())
    names = tree.get("weight_map") if isinstance(tree, dict) else None
    for name in sorted({str(one) for one in names.values()} if isinstance(names, dict) else ()):
        shard = file_of(location, name, revision=revision)
        if shard is None:
            raise ValueError(name)
        yield shard
