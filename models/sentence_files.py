"""What sentence-transformers reads beside a model: which parts follow each other, how states are pooled, what stands before texts.

modules.json                        the parts in their order
sentence_bert_config.json           tokens to which a text is cut
1_Pooling/config.json               the pooling
2_Normalize/                        vectors of length 1; of a classifier 2_Dense, its head, so that `encode` gives logits
config_sentence_transformers.json   prompts
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from transformers import AutoModel

from maskpack.formats import VerifyError
from maskpack.formats.pooling import Pooling
from maskpack.formats.writer import write_bytes
from maskpack.models.build import base_of
from maskpack.models.families import family_of
from maskpack.models.linears import plain_state
from maskpack.models.pooling import actual_pooling, gives_vectors, plain_model

_ENCODER = (("", "Transformer"), ("1_Pooling", "Pooling"))
_NORMALIZE, _DENSE = ("2_Normalize", "Normalize"), ("2_Dense", "Dense")
_IDENTITY = "torch.nn.modules.linear.Identity"  # nothing stands behind the linear of `Dense`
_MODES = {Pooling.CLS: "cls_token", Pooling.MEAN: "mean_tokens", Pooling.LAST: "lasttoken"}


def write_encoder(
    model: Any, folder: Path, *, max_length: int, prefixes: Sequence[str] = ()
) -> None:
    """Write the encoder of a model that pools in our way, and what sentence-transformers reads beside it.

    `encode` of sentence-transformers then gives its vectors; of a classifier its logits.

    Args:
        model: of transformers, with our pooling.
        folder: to write into.
        max_length: tokens that a text is cut to.
        prefixes: as of `write_sentence_files`.

    Raises:
        VerifyError: the encoder that is read back differs.
    """
    base, plain = base_of(model), plain_model(model.config)
    prefix = f"{family_of(plain.model_type).base}."
    state = plain_state(model)
    own = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    cast("Any", base).save_pretrained(str(folder), state_dict=own)
    head = None if gives_vectors(model.config) else model.pooled_classifier
    write_sentence_files(folder, model.config, max_length=max_length, prefixes=prefixes, head=head)
    read = AutoModel.from_pretrained(str(folder)).state_dict()
    if odd := next((name for name in own if not torch.equal(own[name].cpu(), read[name])), None):
        raise VerifyError(f"`{odd}` was not read back as it was written")


def write_sentence_files(
    folder: Path,
    config: Any,
    *,
    max_length: int,
    prefixes: Sequence[str] = (),
    head: Any = None,
) -> None:
    """Write the files, and the configuration of the encoder alone, into a folder.

    Args:
        folder: with the model.
        config: of a model that pools in our way.
        max_length: tokens that a text is cut to.
        prefixes: what stands before the first and before the second text of a row; empty: nothing.
        head: the linear of a classifier; None: the model gives vectors.
    """
    plain = plain_model(config)
    plain.save_pretrained(str(folder))
    parts = (*_ENCODER, _NORMALIZE if head is None else _DENSE)
    for path, _ in parts[1:]:
        (folder / path).mkdir()
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
            for n, (path, name) in enumerate(parts)
        ],
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": plain.hidden_size, **_modes(config)},
        "config_sentence_transformers.json": {
            "prompts": dict(zip(("query", "document"), prefixes, strict=False)),
            "default_prompt_name": "query" if prefixes else None,
            "similarity_fn_name": "cosine",
        },
    }
    if head is not None:
        files["2_Dense/config.json"] = _write_head(head, folder / "2_Dense")
    for name, tree in files.items():
        write_bytes(folder / name, (json.dumps(tree, indent=2) + "\n").encode())


def _modes(config: Any) -> dict[str, bool]:
    """What `Pooling` is told of a configuration's pooling."""
    pooling = actual_pooling(config)
    return {f"pooling_mode_{name}": mode is pooling for mode, name in _MODES.items()}


def _write_head(head: Any, folder: Path) -> dict[str, Any]:
    """Write the linear of a classifier as a `Dense` has it, and return its configuration."""
    tensors = {f"linear.{name}": value for name, value in head.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    return {
        "in_features": head.in_features,
        "out_features": head.out_features,
        "bias": head.bias is not None,
        "activation_function": _IDENTITY,
    }
