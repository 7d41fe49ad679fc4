"""The rule by which an architecture is supported that has no entry in `FAMILIES`.

transformers says enough of most: where the encoder stands in the class for classification, what its `forward` reads, whether
it classifies the last token. The rest is read from a model of two layers without values. What the rule cannot take is refused
with the reason, before any weight is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn

from maskpack.formats.pooling import Pooling
from maskpack.models.families import FAMILIES, IMAGES, PADDED, Family
from maskpack.models.linears import holder_of, layer_of
from maskpack.models.sketch import Sketch, arguments_of, class_of, refusal, sketch_of
from maskpack.models.tested import REFUSED

_TEXT = "input_ids", "attention_mask"
_OTHER_INPUTS = (
    *("pixel_values", "image", "images", "input_values", "input_features", "inputs"),
    *("bbox", "xpath_tags_seq"),
)
"""Inputs that say that a model reads more than a text."""

_PROJECTIONS = (
    *("query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj", "q", "v"),
    *("query_key_value", "qkv_proj", "c_attn", "Wqkv", "in_proj", "Wq", "Wv"),
    *("q_b_proj", "kv_b_proj", "in_proj_qkv", "in_proj_qkvz"),
)
"""Last names of linears that make queries and values."""

_LEAST = 0.98
"""Share of a layer's weights that must lie in linears: the rest would stay as it is, float16 and without a mask."""


@cache
def family_by_rule(model_type: str) -> Family:
    """The family of an architecture without an entry.

    Args:
        model_type: as a configuration names it.

    Raises:
        ModelError: the rule cannot take it.
    """
    native = class_of(model_type)
    if why := REFUSED.get(model_type):
        raise refusal(model_type, why)
    _check_inputs(model_type, native)
    sketch = sketch_of(model_type)
    base = sketch.base
    if base is None:
        raise refusal(model_type, f"`{native.__name__}` does not say where its encoder stands")
    _check_layers(model_type, base)
    last = _reads_padding_token(native)
    pooler = getattr(base, "pooler", None) is not None
    usual = Pooling.POOLER if pooler else Pooling.CLS
    return Family(
        native.base_model_prefix,
        token_types=_token_types(sketch),
        last_token=last,
        offset=PADDED if _numbers_from_padding(base) else 0,
        fused={"attn_logit_softcapping": None},  # which fused attention leaves out without a word
        settings={"use_cache": False, "reference_compile": False, "use_mamba_kernels": False},
        pooling=Pooling.LAST if last else usual,
        projections=tuple(sorted(_last_names(base) & set(_PROJECTIONS))),
    )


def _check_inputs(model_type: str, native: Any) -> None:
    """Refuse a model that reads something else than a text, or that padding would change."""
    read = arguments_of(native)
    if "decoder_input_ids" in read:
        raise refusal(model_type, "it is an encoder with a decoder, and its head reads the decoder")
    if "pixel_values" in read and "input_ids" not in read:
        known = ", ".join(name for name, one in FAMILIES.items() if one.reads == IMAGES)
        raise refusal(model_type, f"it reads images, and of those models these are known: {known}")
    if odd := [name for name in _OTHER_INPUTS if name in read]:
        raise refusal(model_type, f"it reads more than a text (`{odd[0]}`)")
    for name in _TEXT:
        if name not in read:
            raise refusal(model_type, f"`{native.__name__}` reads no `{name}`")


def _check_layers(model_type: str, base: nn.Module) -> None:
    """Refuse layers that are not numbered in one list, or whose weights are mostly in no linear."""
    parameters = {name: one for name, one in base.named_parameters() if layer_of(name) is not None}
    holders = {holder_of(name) for name in parameters}
    lists = {path.rpartition(".")[0] for path in holders}
    called = not any(isinstance(base.get_submodule(path), nn.ModuleList) for path in holders)
    if len(lists) != 1 or not called:
        raise refusal(model_type, f"its layers are not one list ({len(lists)} lists of parts)")
    held = {name for name in _linears(base) if name in parameters}
    odd = {name: one.numel() for name, one in parameters.items() if one.ndim > 1}
    odd = {name: size for name, size in odd.items() if name not in held}
    share = 1 - sum(odd.values()) / sum(one.numel() for one in parameters.values())
    if share < _LEAST:
        largest = max(odd, key=lambda name: odd[name])
        raise refusal(
            model_type,
            f"{1 - share:.0%} of a layer's weights are in no linear, such as `{largest}`, and would have no mask",
        )


def _linears(base: nn.Module) -> Iterator[str]:
    for name, module in base.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{name}.weight"


def _last_names(base: nn.Module) -> set[str]:
    return {name.split(".")[-2] for name in _linears(base) if layer_of(name) is not None}


def _reads_padding_token(native: Any) -> bool:
    """Whether a class looks for the padding token, in order to classify the token before it."""
    return "pad_token_id" in inspect.unwrap(native.forward).__code__.co_names


def _token_types(sketch: Sketch) -> int:
    if "token_type_ids" not in arguments_of(sketch.native):
        return 0
    usual = getattr(sketch.config, "type_vocab_size", None)
    return 0 if usual is None else max(1, int(usual))


def _numbers_from_padding(base: nn.Module) -> bool:
    """Whether positions are numbered from one past the padding token's id, as RoBERTa's are: their table knows that token."""
    return any(
        isinstance(module, nn.Embedding) and module.padding_idx is not None
        for name, module in base.named_modules()
        if name.rpartition(".")[2] in {"position_embeddings", "embed_positions"}
    )
