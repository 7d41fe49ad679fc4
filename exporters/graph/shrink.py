"""A classifier whose linears and attention are as small as the units of a task; biases of such graphs over shared ones.

Tracing the small classifier gives a graph whose products, views and heads have the right sizes. How an attention counts
its heads differs by family and release of transformers: some views say `(heads, width)`, others `(-1, width)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes import InPlacePass, PassResult
from torch import nn

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.external_masks import Masks
from maskpack.exporters.graph.trace import PREFIX
from maskpack.exporters.graph.units import Kept, Shrunk
from maskpack.formats import ExportError
from maskpack.formats.errors import Hint
from maskpack.formats.units import ROWS, UnitGroup

_COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head")
_WIDTHS = ("all_head_size", "split_size", "dim")  # of all heads together
_BY_HEAD = {"r_r_bias": 0, "r_s_bias": 0, "r_w_bias": 0, "seg_embed": 1}  # XLNet's, and their axis


def shrink(base: nn.Module, shrunk: Shrunk) -> None:
    """Make the linears and attentions of an encoder smaller, in place.

    Values of weights are let go: the encoder is for tracing.

    Args:
        base: an encoder of `build_outline`.
        shrunk: what its graph holds.

    Raises:
        ExportError: an attention counts its heads in a way that is not known.
    """
    for name, kept in shrunk.linears.items():
        linear = base.get_submodule(name.removesuffix(".weight"))
        assert isinstance(linear, nn.Linear), name
        _shrink_linear(linear, kept)
    for group, held in zip(shrunk.units.groups, shrunk.units.kept, strict=True):
        if group.kind == "heads" and not held.all():
            _shrink_heads(base, group, np.flatnonzero(held))


def _shrink_linear(linear: nn.Linear, kept: Kept) -> None:
    outputs, inputs = linear.weight.shape
    if kept.rows is not None:
        outputs = len(kept.rows)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias.detach()[torch.from_numpy(kept.rows)])
    if kept.columns is not None:
        inputs = len(kept.columns)
    linear.out_features, linear.in_features = outputs, inputs
    linear.weight = nn.Parameter(torch.zeros(()).expand(outputs, inputs))


def _shrink_heads(base: nn.Module, group: UnitGroup, held: NDArray[np.intp]) -> None:
    """Let the modules that hold the projections of a group know fewer heads."""
    for path in dict.fromkeys(_parent(part.name) for part in group.parts if part.axis == ROWS):
        module = base.get_submodule(path)
        for name in (*_COUNTS, *_WIDTHS):
            whole = getattr(module, name, None)
            if isinstance(whole, int):
                if whole % group.count:
                    raise ExportError(
                        f"`{path}.{name}` is {whole}, no multiple of the {group.count} heads of layer {group.layer}",
                        Hint("export it in the `swap` layout, which keeps zeros in their places"),
                    )
                setattr(module, name, whole // group.count * len(held))
        for name, axis in _BY_HEAD.items():
            if isinstance(value := getattr(module, name, None), nn.Parameter):
                setattr(module, name, nn.Parameter(value.detach().index_select(axis, _index(held))))


def _index(places: NDArray[np.intp]) -> torch.Tensor:
    return torch.from_numpy(places)


def _parent(name: str) -> str:
    """Path of the module that holds a linear.

    >>> _parent("h.0.attn.c_attn.weight")
    'h.0.attn'
    """
    return name.removesuffix(".weight").rpartition(".")[0]


class GatherBiases(InPlacePass):
    """Take the biases of shrunk linears from the whole ones, which tasks share.

    Args:
        biases: name of a module -> its whole bias.
        masks: what the graph holds of each module.
    """

    def __init__(self, biases: Mapping[str, NDArray[np.float32]], masks: Masks) -> None:
        super().__init__()
        self.biases, self.masks = biases, masks

    def call(self, model: ir.Model) -> PassResult:
        """Rewrite every bias that the graph reads."""
        graph, changed = model.graph, False
        for module, whole in self.biases.items():
            name = f"{PREFIX}{module}.bias"
            small = graph.initializers.get(name)
            if small is None or not list(small.consumers()):
                continue
            del graph.initializers[name]
            first = _first(graph, small.consumers())
            editor = GraphEditor(graph, first, f"{PREFIX}{module}")
            rows = self.masks.kept(module).rows
            taken = self.masks.taken(editor, whole, "bias", rows, 0)
            small.replace_all_uses_with(taken)
            changed = True
        return PassResult(model, modified=changed)


def _first(graph: ir.Graph, nodes: Iterable[ir.Node]) -> ir.Node:
    """The one of some nodes that stands first in a graph."""
    wanted = set(nodes)
    return next(node for node in graph if node in wanted)


def whole_biases(
    dense: Mapping[str, NDArray[Any]], shrunk: Shrunk, base: str
) -> dict[str, NDArray[np.float32]]:
    """Name of a shrunk module -> its whole bias; modules that keep all rows, or have no bias, are not here."""
    found = {}
    for name, kept in shrunk.linears.items():
        path = name.removesuffix(".weight")
        if kept.rows is not None and f"{path}.bias" in dense:
            found[f"{base}.{path}"] = dense[f"{path}.bias"].astype(np.float32)
    return found
