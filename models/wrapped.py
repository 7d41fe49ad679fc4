"""Weights that were saved through a wrapper of torch, which puts its own name before that of every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from maskpack.formats import ModelError
from maskpack.models.hub_files import file_of

_WRAPPERS = ("_orig_mod.module.", "module._orig_mod.", "_orig_mod.", "module.")
"""What `torch.compile` and `DataParallel` put before names, the longest first."""

_FILES = ("model.safetensors", "pytorch_model.bin")


def wrapper_of(info: Mapping[str, Any]) -> str | None:
    """The prefix of every tensor that has no place in a model; None where there is none.

    Args:
        info: loading report of transformers.
    """
    odd = info.get("unexpected_keys") or ()
    return next((one for one in _WRAPPERS if odd and all(key.startswith(one) for key in odd)), None)


def load_unwrapped(
    model_class: Any, location: str, prefix: str, options: Mapping[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """A model and its loading report, from weights without their prefix.

    Args:
        model_class: of transformers.
        location: folder or hub id.
        prefix: from `wrapper_of`.
        options: of `from_pretrained`.

    Raises:
        ModelError: the weights are in several files.
    """
    found = (file_of(location, name, revision=options["revision"]) for name in _FILES)
    file = next((one for one in found if one is not None), None)
    if file is None:
        raise ModelError(
            f"the names of the weights in `{location}` begin with `{prefix}`",
            "save the model inside the wrapper: `model._orig_mod.save_pretrained(DIR)` after `torch.compile`, "
            "`model.module.save_pretrained(DIR)` after `DataParallel`",
        )
    weights = {name.removeprefix(prefix): value for name, value in _read(file).items()}
    kept = {name: options[name] for name in _KEPT}
    loaded: tuple[Any, Mapping[str, Any]] = model_class.from_pretrained(
        None, state_dict=weights, **kept
    )
    return loaded


_KEPT = (
    *("config", "attn_implementation", "dtype", "ignore_mismatched_sizes"),
    "output_loading_info",
)


def _read(file: Path) -> Mapping[str, Any]:
    """Tensors by name, without running code of a pickle."""
    if file.suffix == ".safetensors":
        return load_file(file)
    found: Mapping[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return found
