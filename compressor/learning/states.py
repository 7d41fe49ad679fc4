"""What a model says of every token after each layer, and how far two models are apart in it.

A student that copies a teacher from inside learns from every token of every layer, not from one label
a row: a narrow backbone copies the float model (`quantizers/refine.py`), a mask its fine-tuned teacher
(`teacher.py`). As in TinyBERT (Jiao et al. 2020, arXiv 1909.10351, eq. 8), whose projection is not
needed between models of one shape, and with each layer's error over its own variance, so that no
layer speaks louder than another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from maskpack.compressor.models.families import token_kinds


@dataclass(frozen=True, eq=False)
class Guide:
    """A teacher whose hidden states a student follows.

    Attributes:
        model: the teacher, in evaluation mode.
        weight: of the distance in a step's loss.
    """

    model: Any
    weight: float

    def states(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The teacher's states of a batch, without gradients; it is fed what its family reads."""
        known = inputs
        if not self._reads_types:
            known = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        with torch.no_grad():
            return states_of(self.model(**known, output_hidden_states=True), inputs)

    @cached_property
    def _reads_types(self) -> bool:
        return token_kinds(self.model.config.to_dict()) > 0


def states_of(outputs: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """What each layer says of the tokens that are no padding.

    Args:
        outputs: of a model that was asked for its hidden states.
        inputs: the batch, with `attention_mask`.

    Returns:
        float32 `(tokens, i)` for each layer; last the pooler's `(b, i)`, where the model shows it.
    """
    present = inputs["attention_mask"].bool()
    states = [state[present].float() for state in outputs.hidden_states[1:]]
    pooled = getattr(outputs, "pooler_output", None)
    return states if pooled is None else [*states, pooled.float()]


def distance(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Squared error over the variance of what is wanted, a mean over layers.

    >>> wanted = [torch.tensor([[1.0, -1.0]]), torch.tensor([[10.0, -10.0]])]
    >>> found = [torch.zeros(1, 2), torch.tensor([[10.0, -10.0]])]
    >>> distance(found, wanted)  # 1 / 2 at the first layer (torch's variance is 2), 0 at the second
    tensor(0.2500)
    """
    pairs = zip(found, wanted, strict=True)
    return torch.stack([functional.mse_loss(a, b) / b.var() for a, b in pairs]).mean()
