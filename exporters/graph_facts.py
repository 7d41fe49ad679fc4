"""Sizes of an exported graph, and the zeros of masks in it, from the bytes of its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.graph.builder import module_of
from maskpack.exporters.graph.editor import MASKS
from maskpack.exporters.graph.external_masks import Form, unstack_bits, unstack_flips
from maskpack.exporters.report import GraphFacts
from maskpack.formats import Artifact, ExportError, Patch
from maskpack.formats.codec import Arrays
from maskpack.formats.errors import first_line


def graph_facts(
    graph: Path,
    artifact: Artifact,
    task: str,
    compute: str,
    base: str,
    inputs: Mapping[str, NDArray[np.generic]],
) -> GraphFacts:
    """Sizes, and the zeros of masks, read from a graph's file.

    Args:
        graph: the file.
        artifact: the artifact of its task.
        task: the task that it is of.
        compute: its arithmetic.
        base: attribute of the classifier that holds the encoder.
        inputs: values of the task that replace constants of the graph.
    """
    model = _read(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    patch, read = artifact.patch(task), partial(_constant, tensors, graph.parent)
    own = {name: read(name) for name in tensors if name.startswith(f"{MASKS}.")}
    masks = {**own, **inputs}
    zeros, removed = _count_zeros(
        artifact, patch, partial(module_of, base), ARITHMETICS[compute].codes, read, masks
    )
    return GraphFacts(
        bytes=graph.stat().st_size,
        nodes=len(model.graph.node),
        opset=next(item.version for item in model.opset_import if item.domain == ""),
        ir_version=model.ir_version,
        masked_weights=patch.count.weights,
        mask_zeros=patch.count.zeros,
        code_zeros=zeros,
        removed=removed,
    )


def _read(graph: Path) -> onnx.ModelProto:
    """The graph without what lies beside it.

    Raises:
        ExportError: bytes that are no graph.
    """
    try:
        model = onnx.load(str(graph), load_external_data=False)
    except DecodeError as error:
        raise ExportError(f"onnx refuses the graph `{graph}`: {first_line(error)}") from error
    if not model.opset_import:
        raise ExportError(f"onnx refuses the graph `{graph}`: it names no operators")
    return model


def _constant(tensors: Mapping[str, onnx.TensorProto], folder: Path, name: str) -> Any:
    """A constant as an array; None if there is none. One that lies beside the graph is read alone."""
    return to_array(tensors[name], str(folder)) if name in tensors else None


def _count_zeros(
    artifact: Artifact,
    patch: Patch,
    module_of_name: Callable[[str], str],
    codes: Callable[..., NDArray[Any] | None],
    read: Callable[[str], NDArray[Any] | None],
    masks: Mapping[str, Any],
) -> tuple[int, int]:
    """Zeros among the codes of masked linears, and how many of them the patch removes."""
    linears = {module_of_name(name): each for name, each in artifact.backbone.linears.items()}
    beside = _removed_by_masks(dict(masks), {name: tensor.size for name, tensor in linears.items()})
    zeros = removed = 0
    for name, mask in patch.masks.items():
        module = module_of_name(name)
        stored = codes(read, module, linears[module])
        if stored is None or stored.size != linears[module].size:
            continue
        is_zero = (stored == 0) | beside.get(module, np.False_)
        zeros += int(is_zero.sum())
        removed += int((is_zero & ~np.ascontiguousarray(mask.to_bool().T).reshape(-1)).sum())
    return zeros, removed


def _removed_by_masks(arrays: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Weights that a graph removes from shared codes, by module; empty for a folded graph."""
    if (flips := arrays.get(f"{MASKS}.{Form.FLIPS}")) is not None:
        return unstack_flips(flips, sizes)
    if (bits := arrays.get(f"{MASKS}.{Form.BITS}")) is not None:
        return unstack_bits(bits, sizes)
    return {}
