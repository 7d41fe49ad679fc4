"""Classes for filling masks: transformers' own, which can compute logits at some tokens alone.

The decoder of a masked-language head is the table of token embeddings once more (Press & Wolf 2017, arXiv 1608.05859), so that it is
no parameter of the head: the table is the backbone's, quantised and frozen. Logits of all tokens are `(b, s, v)` for a vocabulary of
`v`, far more than the states that they are made of. A *cloze* class given `labels` applies its head at the tokens that have one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from maskpack.formats import ModelError
from maskpack.models.families import family_of

ENDING = "ForMaskedLM"
"""How classes of transformers end whose models fill masks."""


class _Cloze:
    """What a cloze class has over the class of transformers."""

    config: Any

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """Logits of `input_ids (b, s)`, and hidden states if they are asked for.

        Args:
            input_ids: `(b, s)`.
            attention_mask: `(b, s)`.
            labels: `(b, s)`, the right token where one is asked for, else negative. The logits are then those of these
                tokens alone, `(n, v)`, row by row. None: logits of all tokens, `(b, s, v)`.
            **inputs: of the class of transformers.
        """
        module: Any = self
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        inputs["return_dict"] = True
        if labels is None:
            return super().forward(**inputs)  # type: ignore[misc]
        base = getattr(module, family_of(module.config.model_type).base)
        places = labels >= 0

        def some(_: nn.Module, __: Any, found: Any) -> Any:
            found.last_hidden_state = found.last_hidden_state[places][None]
            return found

        hook = base.register_forward_hook(some)
        try:
            found = super().forward(**inputs)  # type: ignore[misc]
        finally:
            hook.remove()
        found.logits = found.logits[0]
        return found


def cloze_class(config: Any, native: type) -> type:
    """The class for a class of transformers: that itself, or the cloze class over one that fills masks."""
    del config
    return _cloze(native) if native.__name__.endswith(ENDING) else native


@cache
def _cloze(native: type) -> type:
    return type(native.__name__, (_Cloze, native), {"__module__": __name__})


def fills_masks(config: Any) -> bool:
    """Whether a configuration of `classifier_config` describes a model that fills masks."""
    return any(str(name).endswith(ENDING) for name in config.architectures or ())


def check_tied(model: Any) -> Any:
    """A model, unless it fills masks with a table of its own.

    Raises:
        ModelError: its decoder is not the table of token embeddings, so that a task would store a table.
    """
    if not isinstance(model, _Cloze):
        return model
    kind, base = model.config.model_type, family_of(model.config.model_type).base
    module: Any = model
    tables = [
        name
        for name, parameter in module.named_parameters()
        if parameter.ndim == 2
        and model.config.vocab_size in parameter.shape
        and not name.startswith(f"{base}.")
    ]
    if tables:
        raise ModelError(
            f"the head of `{kind}` for masks holds a table of its own, `{tables[0]}`, with a row for each of "
            f"{model.config.vocab_size:,} tokens",
            "give a model whose decoder is its table of token embeddings, such as one of BERT, RoBERTa or DistilBERT",
        )
    return model
