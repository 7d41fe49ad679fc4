"""Whether every token of a tokenizer has an embedding; where some have none, they are refused or get one."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import torch

from maskpack.formats import ModelError

_LOG = logging.getLogger(__name__)
_SHOWN = 3


def settle_vocabulary(
    tokenizer: Any, model: Any, *, name: str, resize: bool, unused: Collection[str] = ()
) -> None:
    """Make sure that a model has an embedding for each token, in place. Embeddings without a token are fine.

    Args:
        tokenizer: of the model.
        model: the classifier; its embeddings grow, and its configuration's vocabulary.
        name: of the model, for errors.
        resize: whether tokens without an embedding get one, else they are refused.
        unused: tokens that no text is padded or framed with, and that need none.

    Raises:
        ModelError: a token has no embedding, and `resize` is False.
    """
    size = int(model.get_input_embeddings().weight.shape[0])
    odd = beyond(tokenizer.get_vocab(), size)
    if not set(odd) - set(unused):
        return
    listed = ", ".join(f"`{token}`" for token in odd[:_SHOWN])
    if not resize:
        more = f" and {len(odd) - _SHOWN} more" if odd[_SHOWN:] else ""
        raise ModelError(
            f"the tokenizer of `{name}` has {len(odd)} tokens for which the model has no embedding: "
            f"{listed}{more}; its vocabulary is of {size}",
            "give the model that was trained with them, or `resize_embeddings` to give each the mean of all "
            "embeddings, which no training changes",
        )
    wanted = 1 + max(tokenizer.get_vocab().values())
    resize_to(model, wanted)
    _LOG.warning(
        "the model has %d embeddings more than `%s`, for %s: they are the mean of the others, and stay so",
        *(wanted - size, name, listed),
    )


def beyond(vocabulary: Mapping[str, int], size: int) -> list[str]:
    """Tokens whose id is no row of a table of `size` embeddings, in their order.

    >>> beyond({"a": 0, "c": 3, "b": 2}, 2)
    ['b', 'c']
    """
    return sorted(
        (one for one, place in vocabulary.items() if place >= size), key=vocabulary.__getitem__
    )


def resize_to(model: Any, size: int) -> Any:
    """The model with at least so many embeddings; a new one is the mean of the others.

    `resize_token_embeddings` of transformers alone would draw it next to that mean, otherwise on each machine.
    """
    if not size:
        return model
    held = model.get_input_embeddings().weight.shape[0]
    if held < size:
        model.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            weight = model.get_input_embeddings().weight
            weight[held:] = weight[:held].double().mean(dim=0).to(weight.dtype)
    return model
