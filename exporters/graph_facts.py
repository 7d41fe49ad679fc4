"""Sizes of an exported graph, and the zeros of masks in it, from the bytes of its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx.numpy_helper import to_array

from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.arithmetic.base import Arithmetic, Read
from maskpack.exporters.graph.builder import module_of, modules_of, shrunk_of
from maskpack.exporters.graph.editor import MASKS
from maskpack.exporters.graph.external_masks import Form, unstack_bits, unstack_flips
from maskpack.exporters.graph.positions import LEFT_OUT, LONGEST
from maskpack.exporters.graph.units import ALL, Kept, Shrunk, as_index, index_names, take
from maskpack.exporters.report import GraphFacts
from maskpack.formats import Artifact, ExportError, Patch, QuantTensor
from maskpack.formats.errors import first_line
from maskpack.formats.tensorfile import Arrays
from maskpack.runtime.task import HIDDEN, find_trunk
from maskpack.tasks.context import backbone_for


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
    held = tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if (below := trunk_of(model, graph)) is not None:
        tensors = {**{tensor.name: tensor for tensor in _read(below).graph.initializer}, **held}
    patch, read = artifact.patch(task), partial(_constant, tensors, graph.parent)
    own = {name: read(name) for name in tensors if name.startswith(f"{MASKS}.")}
    used = backbone_for(artifact, artifact.entry(task)).linears
    look = _Graph(artifact, patch, ARITHMETICS[compute], read, {**own, **inputs}, base, held, used)
    zeros, removed, left_out, wrong = look.counts()
    return GraphFacts(
        bytes=graph.stat().st_size,
        nodes=_nodes(model.graph),
        opset=next(item.version for item in model.opset_import if item.domain == ""),
        ir_version=model.ir_version,
        masked_weights=patch.count.weights,
        mask_zeros=patch.count.zeros,
        code_zeros=zeros,
        removed=removed,
        left_out=left_out,
        wrong=wrong,
        **_cut_of(model),
    )


def _cut_of(model: onnx.ModelProto) -> dict[str, int]:
    """What a graph says of rows of positions that were left out; nothing of one that has all."""
    told = {entry.key: entry.value for entry in model.metadata_props}
    found = told.get(LONGEST, ""), told.get(LEFT_OUT, "")
    if not all(number.isdecimal() for number in found):
        return {}
    return {"longest": int(found[0]), "cut_bytes": int(found[1])}


def _nodes(graph: onnx.GraphProto) -> int:
    """Nodes of a graph and of the branches in it."""
    inner = (one.g for node in graph.node for one in node.attribute if one.HasField("g"))
    return len(graph.node) + sum(map(_nodes, inner))


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


def trunk_of(model: onnx.ModelProto, graph: Path) -> Path | None:
    """The graph that computes the hidden states which a graph reads; None: it reads tokens, or there is none beside it."""
    reads = any(value.name == HIDDEN for value in model.graph.input)
    return find_trunk(graph.parent) if reads else None


def _constant(tensors: Mapping[str, onnx.TensorProto], folder: Path, name: str) -> Any:
    """A constant as an array; None if there is none. One that lies beside the graph is read alone."""
    return to_array(tensors[name], str(folder)) if name in tensors else None


Counts = tuple[int, int, int, int]
"""Zeros, those of them that the mask removes, weights that a graph leaves out, integers that are not the backbone's."""


@dataclass(frozen=True, eq=False)
class _Graph:
    """Constants of a graph beside what they should be.

    Attributes:
        artifact, patch, arithmetic: what the graph is made of.
        read: reads a constant.
        masks: constants and inputs that all modules share, by name.
        base: attribute of the classifier that holds the encoder.
        held: names of the constants that the graph itself holds; others are a trunk's.
        linears: of the backbone, those that the task uses.
    """

    artifact: Artifact
    patch: Patch
    arithmetic: Arithmetic
    read: Read
    masks: Mapping[str, NDArray[Any]]
    base: str
    held: Collection[str]
    linears: Mapping[str, QuantTensor]

    @cached_property
    def shrunk(self) -> Shrunk | None:
        """What the graph may leave out."""
        return shrunk_of(self.artifact, self.patch.units, self.arithmetic)

    @cached_property
    def beside(self) -> dict[str, NDArray[np.bool_]]:
        """Weights that masks beside the codes remove, by module."""
        linears = self.linears.items()
        sizes = {module_of(self.base, name): tensor.size for name, tensor in linears}
        own = {module: size for module, size in sizes.items() if self._holds(module)}
        return _removed_by_masks(dict(self.masks), own)

    def _holds(self, module: str) -> bool:
        """Whether the codes of a module are the graph's own, and not those of a trunk below it."""
        parts = (f"{module}.codes", f"{module}.fields")
        return any(part in self.held for part in parts) or all(self.read(n) is None for n in parts)

    @cached_property
    def lists(self) -> dict[str, bytes]:
        """Lists of kept rows and columns that the graph should hold beside whole codes, by name."""
        kept = {} if self.shrunk is None else modules_of(self.base, self.shrunk)
        return {f"{MASKS}.{name}": key for key, name in index_names(kept).items()}

    def counts(self) -> Counts:
        """Sums over all masked linears."""
        sums = np.zeros(4, dtype=np.int64)
        for name in self.patch.masks:
            sums += self.count(name)
        zeros, removed, left_out, wrong = sums.tolist()
        return zeros, removed, left_out, wrong

    def count(self, name: str) -> Counts:
        """Count the integers of one masked linear; of one that the graph does not hold nothing counts."""
        module, whole = module_of(self.base, name), self.artifact.backbone.linears[name]
        gone = ~np.ascontiguousarray(self.patch.masks[name].to_bool().T)
        kept = ALL if self.shrunk is None else self.shrunk.held.get(name, ALL)
        if (
            self.shrunk is not None
            and name in self.shrunk.gone
            and not self._has_codes(module, whole)
        ):
            return (whole.size, int(gone.sum()), whole.size, 0)
        small = None if kept.is_all else self._small(module, whole, kept)
        if small is None:
            stored = self.arithmetic.codes(self.read, module, whole)
            if stored is None or stored.size != whole.size:
                return (0, 0, 0, 0)
            is_zero = (stored == 0) | self.beside.get(module, np.False_)
            return (int(is_zero.sum()), int((is_zero & gone.reshape(-1)).sum()), 0, 0)
        outside = ~kept.inside(np.ones(whole.size, dtype=np.bool_), whole.shape)
        zero = outside.copy()
        zero[~outside] = (small == 0).reshape(-1)
        removed = int((zero & gone.reshape(-1)).sum())
        return int(zero.sum()), removed, int(outside.sum()), self._wrong(name, kept, small)

    def _has_codes(self, module: str, whole: QuantTensor) -> bool:
        """Whether the graph has codes of a module, be they of all of it or not."""
        return self.arithmetic.codes(self.read, module, whole) is not None

    def _small(self, module: str, whole: QuantTensor, kept: Kept) -> NDArray[np.int8] | None:
        """The masked codes that the graph takes of a module, `(i, o)`; None if it holds the whole matrix."""
        tensor = kept.tensor(whole)
        if not self.lists.keys() & self.masks.keys():
            codes = self.arithmetic.codes(self.read, module, tensor)
            fits = codes is not None and codes.size == tensor.size
            return codes.reshape(tensor.shape[::-1]) if fits and codes is not None else None
        codes = self.arithmetic.codes(self.read, module, whole)
        if codes is None or codes.size != whole.size:
            return None
        masked = np.where(self.beside.get(module, np.False_), np.int8(0), codes)
        return kept.of(masked.reshape(whole.shape[::-1]))

    def _wrong(self, name: str, kept: Kept, small: NDArray[np.int8]) -> int:
        """Integers of a small matrix that do not stand for the weights at their places in the backbone."""
        module, listed = module_of(self.base, name), self.lists.keys() & self.masks.keys()
        held = {one: as_index(self.masks[one]).tobytes() for one in listed}
        if listed and held != self.lists:
            return small.size
        tensor = kept.tensor(self.patch.linear_over(self.artifact.backbone, name))
        own = {f"{module}.scales": kept.rows, f"{module}.factor": kept.columns} if listed else {}

        def fitting(sibling: str) -> int:
            def read(constant: str) -> NDArray[Any] | None:
                there = constant != f"{module}.factor"
                array = self.read(constant if there else f"{sibling}.factor")
                places = own.get(constant)
                return array if array is None or array.ndim != 1 else take(array, places, 0)

            return int(self.arithmetic.fits(read, module, small, tensor).sum())

        return small.size - max(map(fitting, self._with_one_input(name)))

    def _with_one_input(self, name: str) -> list[str]:
        """Modules whose divisors may be those of a linear: those of one input are stored once."""
        module, linears = module_of(self.base, name), self.linears
        if self.read(f"{module}.factor") is not None:
            return [module]
        holder, kept = name.rsplit(".", 2)[0], {} if self.shrunk is None else self.shrunk.linears

        def read_by(one: str) -> NDArray[np.intp]:
            columns = kept.get(one, ALL).columns
            return np.arange(linears[one].shape[1]) if columns is None else columns

        def reads_alike(other: str) -> bool:
            return other.rsplit(".", 2)[0] == holder and np.array_equal(
                read_by(name), read_by(other)
            )

        return [module, *(module_of(self.base, other) for other in linears if reads_alike(other))]


def _removed_by_masks(arrays: Arrays, sizes: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Weights that a graph removes from shared codes, by module; empty for a folded graph."""
    if (flips := arrays.get(f"{MASKS}.{Form.FLIPS}")) is not None:
        return unstack_flips(flips, sizes)
    if (bits := arrays.get(f"{MASKS}.{Form.BITS}")) is not None:
        return unstack_bits(bits, sizes)
    return {}
