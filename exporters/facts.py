"""What lies in a graph's file: sizes, and the zeros that its masks leave, counted from its own bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from maskpack.compressor.models.families import family_of
from maskpack.exporters.graph.blocks import blocking_of, from_blocks
from maskpack.exporters.graph.editor import MASKS
from maskpack.exporters.graph.flips import unstack_bits, unstack_flips
from maskpack.exporters.graph.masks import Form
from maskpack.exporters.graph.surgery import module_of
from maskpack.exporters.report import GraphFacts
from maskpack.formats import Artifact, Patch, QuantTensor
from maskpack.formats.bits import unpack_codes
from maskpack.formats.tensorfile import Arrays


def graph_facts(
    graph: Path, artifact: Artifact, task: str, inputs: Mapping[str, NDArray[np.generic]]
) -> GraphFacts:
    """Sizes and counts, read from the file itself.

    Args:
        graph: its file.
        artifact: where it came from.
        task: its task.
        inputs: what the task gives the graph in place of its own constants.
    """
    model = onnx.load(str(graph))
    patch: Patch = artifact.patch(task)
    base = family_of(artifact.manifest.source.model_type).base
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    linears = {module_of(base, name): tensor for name, tensor in artifact.backbone.linears.items()}
    own = {name: to_array(tensors[name]) for name in tensors if name.startswith(f"{MASKS}.")}
    sizes = {name: tensor.codes.size for name, tensor in linears.items()}
    beside = _removed_beside({**own, **inputs}, sizes)
    zeros = removed = 0
    for name, mask in patch.masks.items():
        module = module_of(base, name)
        found = _zeros_of(tensors, module, linears[module])
        if found is None:
            continue
        if module in beside:
            found = found | beside[module]
        zeros += int(found.sum())
        removed += int((found & ~np.ascontiguousarray(mask.to_bool().T).reshape(-1)).sum())
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


def _zeros_of(
    tensors: Mapping[str, onnx.TensorProto], module: str, tensor: QuantTensor
) -> NDArray[np.bool_] | None:
    """Where a module's constant codes are 0, flat in the graph's order; None if they are not there."""
    if f"{module}.blocks" in tensors:
        blocking = blocking_of(module, tensor)
        codes = from_blocks(to_array(tensors[f"{module}.blocks"]), blocking).reshape(-1)
    elif f"{module}.codes" in tensors:
        codes = to_array(tensors[f"{module}.codes"]).reshape(-1)
    elif f"{module}.fields" in tensors:
        packed = to_array(tensors[f"{module}.fields"])[None]
        codes = unpack_codes(packed, tensor.bits, tensor.codes.size, zero_free=tensor.zero_free)[0]
    else:
        return None
    if codes.size != tensor.codes.size:
        return None
    zeros: NDArray[np.bool_] = codes == 0
    return zeros


def _removed_beside(arrays: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """What a graph removes from codes that it shares, by module; nothing in a folded one."""
    if (flips := arrays.get(f"{MASKS}.{Form.FLIPS}")) is not None:
        return unstack_flips(flips, sizes)
    if (bits := arrays.get(f"{MASKS}.{Form.BITS}")) is not None:
        return unstack_bits(bits, sizes)
    return {}
