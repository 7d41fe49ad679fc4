"""Classes for question answering with one tensor of logits.

transformers' classes give the logits of the first and of the last token of an answer as two outputs, `start_logits` and `end_logits`,
each `(b, s)`. A *spans* class is the same class, with `logits (b, s, 2)` beside them: so code that works on logits needs not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor

from maskpack.models.families import family_of

_ENDING = "ForQuestionAnswering"
_HEADS = ("qa_outputs", "classifier")  # the second in ModernBERT
OUTPUTS = "graph_outputs"
"""Attribute of a class whose graphs have other outputs than `logits`."""


@dataclass
class SpanOutput:
    """Output of a spans class.

    Attributes:
        start_logits, end_logits: `(b, s)`.
        logits: both, `(b, s, 2)`.
        hidden_states: of each layer, if they were asked for.
    """

    start_logits: Tensor
    end_logits: Tensor
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class _Spans:
    """What a spans class has over the class of transformers."""

    graph_outputs = ("start_logits", "end_logits")

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> SpanOutput:
        """Logits of `input_ids (b, s)`, and hidden states if they are asked for."""
        module: Any = self
        head, kept = module.get_submodule(_head_of(module)), list[Tensor]()
        hook = head.register_forward_hook(lambda _, __, logits: kept.append(logits))
        try:
            found = super().forward(  # type: ignore[misc]
                input_ids=input_ids,
                attention_mask=attention_mask,
                **{**inputs, "return_dict": True},
            )
        finally:
            hook.remove()
        (logits,) = kept  # before transformers splits them, which graphs would do with sequences
        start, end = logits[..., 0], logits[..., 1]
        return SpanOutput(start, end, logits, found.hidden_states)


def _head_of(module: Any) -> str:
    """Name of the linear whose outputs are the logits."""
    return next(name for name in _HEADS if hasattr(module, name))


def spans_class(config: Any, native: type) -> type:
    """The class for a class of transformers: that itself, or the spans class over one for question answering."""
    return (
        _spans(native, family_of(config.model_type).base) if _ENDING in native.__name__ else native
    )


@cache
def _spans(native: type, base: str) -> type:
    """The class; its encoder is called as in the family's other classes, which Llama's for question answering does not."""
    own = {"__module__": __name__, "base_model_prefix": base}
    return type(native.__name__, (_Spans, native), own)


def reading_class(config: Any, wanted: type) -> type:
    """The class that reads a checkpoint for a class: transformers' own if it wrote it and calls the encoder otherwise."""
    native = wanted.__mro__[2] if issubclass(wanted, _Spans) else wanted
    written = native.__name__ in (config.architectures or ())
    return native if written and _prefix(native) != _prefix(wanted) else wanted


def as_read(model: Any, wanted: type) -> Any:
    """A model of `reading_class` as one of the class that was wanted, in place."""
    own, encoder = _prefix(wanted), _prefix(type(model))
    if own != encoder:
        model.__class__ = wanted
        setattr(model, own, getattr(model, encoder))
        delattr(model, encoder)
    return model


def native_names(model: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state by the names that transformers' class has."""
    if not isinstance(model, _Spans):
        return dict(state)
    own, native = (f"{_prefix(one)}." for one in (type(model), type(model).__mro__[2]))
    return {
        f"{native}{name.removeprefix(own)}" if name.startswith(own) else name: value
        for name, value in state.items()
    }


def _prefix(model_class: type) -> str:
    """What a class calls its encoder."""
    return str(getattr(model_class, "base_model_prefix"))  # noqa: B009 - types know nothing of it
