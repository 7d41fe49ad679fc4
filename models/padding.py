"""The padding token on which tokenizer and configuration agree."""

from __future__ import annotations

from typing import Any

from maskpack.formats import ModelError
from maskpack.models.families import family_of


def settle_padding(tokenizer: Any, config: Any) -> None:
    """Make tokenizer and configuration agree on the padding token and its side, in place.

    A model that classifies the last token needs a padding token in its configuration. If the
    tokenizer has none for which the model has an embedding, the configuration's is taken, else the
    token that ends a text.

    Raises:
        ModelError: such a model has none of these tokens.
    """
    family = family_of(config.model_type)
    tokenizer.padding_side = "left" if family.pad_left else "right"
    if not family.last_token:
        return
    wanted = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id)
    usable = [one for one in wanted if one is not None and 0 <= one < config.vocab_size]
    if not usable:
        raise ModelError(
            f"a `{config.model_type}` classifies the last token before the padding, "
            "and its tokenizer names no token for padding or for the end of a text",
            "set `pad_token` in `tokenizer_config.json` to a token of the vocabulary",
        )
    config.pad_token_id = usable[0]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usable[0])


def set_pad_token(model: Any, pad: int | None) -> Any:
    """Set the padding token of a model that classifies the last token; return the model."""
    if family_of(model.config.model_type).last_token:
        model.config.pad_token_id = pad
    return model
