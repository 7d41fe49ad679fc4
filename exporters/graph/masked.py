"""A classifier in torch to a graph with masked integers: trace it, cut it, drop what is empty, rewrite its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import onnx_ir as ir
from onnx_ir.passes import PassError, Sequential, common

from maskpack.exporters.arithmetic.base import Arithmetic
from maskpack.exporters.graph.emptied import drop_emptied
from maskpack.exporters.graph.passes import (
    GeluInFusedOrder,
    MaskLinears,
    QuantizeEmbeddings,
    ResidualAsSum,
    RewriteContext,
)
from maskpack.exporters.graph.store import put_scratch
from maskpack.exporters.graph.trace import trace
from maskpack.exporters.graph.trunk import Part
from maskpack.exporters.graph.units import Shrunk
from maskpack.formats import Backbone, ExportError
from maskpack.models.families import Family

Value = TypeVar("Value")


def masked_graph(
    model: Any,
    family: Family,
    backbone: Backbone,
    arithmetic: Arithmetic,
    context: RewriteContext,
    part: Part | None = None,
) -> ir.Model:
    """Trace a classifier in evaluation mode, and put integer weights in place of its floats.

    Args:
        model: the classifier.
        family: its architecture.
        backbone: its integers.
        arithmetic: of its linears.
        context: masks and shared state.
        part: of the traced graph that is wanted; None: all of it.

    Raises:
        ExportError: torch cannot trace it, or a weight is not used as one of its kind.
    """
    traced = trace(model, family, states=part is not None)
    linears, tables = (under(family.base, each) for each in (backbone.linears, backbone.embeddings))
    if part is not None:
        traced = part.cut(traced)
        linears, tables = part.only(linears, family.base), part.only(tables, family.base)
    if context.shrunk is not None:
        gone = _drop_emptied(traced, context.shrunk, family.base)
        linears = {name: each for name, each in linears.items() if name not in gone}
    passes = Sequential(
        MaskLinears(linears, arithmetic.emit, context),
        QuantizeEmbeddings(tables, arithmetic.tied),
        ResidualAsSum(),
        GeluInFusedOrder(),
        common.RemoveUnusedNodesPass(),
        common.TopologicalSortPass(),  # constants that linears share may stand after their first reader
    )
    put_scratch(traced.graph, context.scratch)
    return _run(passes, traced, arithmetic)


def _run(passes: Sequential, model: ir.Model, arithmetic: Arithmetic) -> ir.Model:
    """The model behind all passes, finished; an error of ours is raised as it is."""
    try:
        made = passes(model).model
        return made if arithmetic.finish is None else arithmetic.finish(made)
    except PassError as error:
        if isinstance(error.__cause__, ExportError):
            raise error.__cause__ from None
        raise


def _drop_emptied(traced: ir.Model, shrunk: Shrunk, base: str) -> frozenset[str]:
    """Drop the sub-layers that lost all of their units; the linears that go with them, by name inside the classifier."""
    readers, gone = (
        frozenset(under(base, dict.fromkeys(n))) for n in (shrunk.readers, shrunk.gone)
    )
    drop_emptied(traced, sorted(readers), sorted(gone))
    return gone


def under(base: str, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Names inside the encoder to names inside the classifier."""
    return {f"{base}.{name}": tensor for name, tensor in tensors.items()}
