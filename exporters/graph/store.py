"""Constants of a large graph in files: beside the graph when it is written, in a scratch file while it is made.

So a graph is made and written without more than one matrix in memory. A file of ONNX holds less than 2 GB; more than
`MOST_INLINE` bytes of constants lie in `model.onnx_data`, which ONNX Runtime, Optimum and transformers.js find by the
graph's own reference to it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.formats.tensorfile import Buffer
from maskpack.formats.writer import write_pieces

MOST_INLINE = 2**29
"""Bytes of constants from which a graph has them in a file of their own."""

_PAGE = 4096
_WORTH_IT = 1024  # bytes from which a constant lies in a file
_SCRATCH, _FILE = "maskpack.scratch", "constants"


class Scratch:
    """A file for constants of graphs that are being made.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._end = folder, 0

    def keep(self, array: NDArray[Any], name: str) -> ir.TensorProtocol:
        """The array as a tensor that is read from the file when it is used; a small one stays in memory."""
        if array.nbytes < _WORTH_IT:
            return ir.tensor(array, name=name)
        start = -(-self._end // _PAGE) * _PAGE
        with (self.folder / _FILE).open("ab") as file:
            file.truncate(start)
            file.write(_bytes_of(array))
        self._end = start + array.nbytes
        kind = ir.DataType.from_numpy(array.dtype)
        return ir.ExternalTensor(
            _FILE,
            start,
            array.nbytes,
            kind,
            shape=ir.Shape(array.shape),
            name=name,
            base_dir=self.folder,
        )


@contextmanager
def scratch_in(folder: Path, *, needed: bool) -> Iterator[Scratch | None]:
    """A scratch file in a folder, until the block ends; None if there is no need of one."""
    if not needed:
        yield None
        return
    with tempfile.TemporaryDirectory(
        dir=folder, prefix=".constants-", ignore_cleanup_errors=True
    ) as place:
        yield Scratch(Path(place))


def put_scratch(graph: ir.Graph, scratch: Scratch | None) -> None:
    """Let constants that are added to a graph go to a file from now on; None: stay in memory."""
    graph.meta[_SCRATCH] = scratch


def scratch_of(graph: ir.Graph) -> Scratch | None:
    """The scratch file of a graph, if it has one."""
    scratch = graph.meta.get(_SCRATCH)
    return scratch if isinstance(scratch, Scratch) else None


def reread(proto: onnx.ModelProto, scratch: Scratch | None) -> ir.Model:
    """A serialised graph as one that finds its constants in the same scratch file."""
    model = ir.serde.deserialize_model(proto)
    put_scratch(model.graph, scratch)
    for value in model.graph.initializers.values():
        if scratch is not None and isinstance(value.const_value, ir.ExternalTensor):
            value.const_value.base_dir = scratch.folder
    return model


def kept(graph: ir.Graph, array: NDArray[Any], name: str) -> ir.TensorProtocol:
    """A constant of a graph, in its scratch file if it has one."""
    scratch, own = scratch_of(graph), np.asarray(array, order="C")  # a number keeps its shape
    return ir.tensor(own, name=name) if scratch is None else scratch.keep(own, name)


def constant_bytes(model: ir.Model) -> int:
    """Bytes of a graph's constants that are not in a file beside it."""
    held = (value.const_value for value in model.graph.initializers.values())
    return sum(one.nbytes for one in held if one is not None and not is_beside(one))


def in_memory(model: ir.Model) -> ir.Model:
    """Take constants out of the scratch file; returns the model."""
    for name, value in model.graph.initializers.items():
        held = value.const_value
        if isinstance(held, ir.ExternalTensor) and not is_beside(held):
            array = np.frombuffer(_read(held), dtype=held.dtype.numpy())
            value.const_value = ir.tensor(array.reshape(held.shape.numpy()), name=name)
    return model


def is_beside(tensor: ir.TensorProtocol) -> bool:
    """Whether a constant lies in a file beside the graph, not in a scratch file."""
    return isinstance(tensor, ir.ExternalTensor) and not tensor.base_dir


def move_beside(model: ir.Model, path: Path) -> str:
    """Write the constants of a graph into a file that will lie beside it, one after the other; its SHA-256."""
    large = {
        name: value
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes >= _WORTH_IT
    }
    places: dict[str, int] = {}

    def pieces() -> Iterator[Buffer]:
        end = 0
        for name, value in large.items():
            held = value.const_value
            assert held is not None
            yield bytes(-end % _PAGE)
            places[name] = end + -end % _PAGE
            yield _read(held)
            end = places[name] + held.nbytes

    digest = write_pieces(path, pieces())
    for name, value in large.items():
        held = value.const_value
        assert held is not None
        shape = ir.Shape(held.shape.numpy())
        value.const_value = ir.ExternalTensor(
            path.name, places[name], held.nbytes, held.dtype, shape=shape, name=name
        )
    return digest


def _read(tensor: ir.TensorProtocol) -> Buffer:
    """The bytes of a constant; those in a file are read and not mapped, so that they can be let go."""
    if not isinstance(tensor, ir.ExternalTensor):
        return _bytes_of(tensor.numpy())
    with Path(tensor.path).open("rb") as file:
        file.seek(tensor.offset or 0)
        return file.read(tensor.nbytes)


def _bytes_of(array: NDArray[Any]) -> Buffer:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
