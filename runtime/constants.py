"""The constant part of an ONNX graph: what follows from its weights alone, computed value by value.

ONNX Runtime folds it whenever it makes a session, and holds all that comes on the way until it is done: 25 bytes a weight where codes are
unpacked and masked. Here one value is computed after the other, and each is written before the next one is begun.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from maskpack.formats.errors import ExportError, first_line
from maskpack.runtime.graph import session_options
from maskpack.runtime.messages import bytes_field, number_field, read_fields, read_number
from maskpack.runtime.providers import CPU
from maskpack.runtime.task import AGAIN

# numbers of fields, from onnx.proto
_IR, _GRAPH, _OPSET = 1, 7, 8  # of a model
_NODE, _GRAPH_NAME, _TENSOR, _INPUT, _OUTPUT = 1, 2, 5, 11, 12  # of a graph
_TAKES, _GIVES, _ATTRIBUTE = 1, 2, 5  # of a node
_SUBGRAPHS = (6, 11)  # of an attribute
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14  # of a tensor
_VALUE_NAME = 1

_TYPES = {
    np.dtype(kind): number
    for kind, number in (
        *(("f4", 1), ("u1", 2), ("i1", 3), ("u2", 4), ("i2", 5), ("i4", 6), ("i8", 7), ("?", 9)),
        *(("f2", 10), ("f8", 11), ("u4", 12), ("u8", 13)),
    )
}
"""Type of numpy -> its number in ONNX; only tensors of these are computed."""

INSIDE = 1024
"""Bytes from which a tensor lies in the file of weights."""


@dataclass(frozen=True, eq=False)
class Node:
    """A node.

    Attributes:
        raw: its field of the graph.
        takes: names of its inputs, and of what graphs within it take from outside.
        gives: names of its outputs.
        plain: whether there is no graph within.
    """

    raw: memoryview
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    plain: bool


@dataclass(frozen=True, eq=False)
class Tensor:
    """A constant that is stored.

    Attributes:
        raw: its field of the graph.
        shape: of it.
        type: number of its type.
        inside: its bytes; None where they lie in a file, or as numbers of their own in the field.
        place: where in the file, and how many bytes; None where they do not lie there.
    """

    raw: memoryview
    shape: tuple[int, ...]
    type: int
    inside: memoryview | None
    place: tuple[int, int] | None


class ConstantPart:
    """A graph and what in it is constant.

    Args:
        graph: the file.
        weights: the file that holds its large tensors.

    Raises:
        ExportError: it is no graph.
    """

    def __init__(self, graph: Path, weights: Path) -> None:
        self._weights = weights
        try:
            self._read(memoryview(graph.read_bytes()))
        except (OSError, ValueError) as error:
            raise ExportError(f"cannot load `{graph}`: {error}", AGAIN) from error

    def _read(self, data: memoryview) -> None:
        self._head = [f.raw for f in read_fields(data) if f.number in (_IR, _OPSET)]
        self._model = [(field.number, field.raw) for field in read_fields(data)]
        (graph,) = (_bytes(field.value) for field in read_fields(data) if field.number == _GRAPH)
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self._rest: list[tuple[int, memoryview]] = []
        self._given_back: set[str] = set()
        given: set[str] = set()
        for field in read_fields(graph):
            if field.number == _NODE:
                self.nodes.append(_node(field.raw, _bytes(field.value)))
            elif field.number == _TENSOR:
                name, tensor = _tensor(field.raw, _bytes(field.value))
                self.tensors[name] = tensor
            else:
                self._rest.append((field.number, field.raw))
                if field.number in (_INPUT, _OUTPUT):
                    names = given if field.number == _INPUT else self._given_back
                    names.add(_text(_bytes(field.value), _VALUE_NAME))
        self._fixed = self.tensors.keys() - given

    @cached_property
    def folded(self) -> list[Node]:
        """Nodes whose outputs follow from stored constants; they are left out of a graph that holds what is wanted of them."""
        known, made = set(self._fixed), []
        for node in self.nodes:  # in topological order, as the standard demands
            if node.plain and known.issuperset(filter(None, node.takes)) and self._foldable(node):
                known.update(node.gives)
                made.append(node)
        return made

    def _foldable(self, node: Node) -> bool:
        return not self._given_back.intersection(node.gives)

    @cached_property
    def wanted(self) -> list[str]:
        """Outputs of these nodes that the others take, in the order in which these are computed."""
        folded = set(map(id, self.folded))
        taken = {name for node in self.nodes if id(node) not in folded for name in node.takes}
        return [name for node in self.folded for name in node.gives if name in taken]

    @cached_property
    def kept(self) -> list[str]:
        """Stored constants that the other nodes take, or the graph gives back."""
        folded = set(map(id, self.folded))
        taken = {name for node in self.nodes if id(node) not in folded for name in node.takes}
        taken |= self._given_back | (self.tensors.keys() - self._fixed)
        return [name for name in self.tensors if name in taken]

    def stored(self, name: str) -> bytes | memoryview | None:
        """Bytes of a stored constant; None where its field holds them as numbers.

        Raises:
            ExportError: the file of weights ends before.
        """
        tensor = self.tensors[name]
        if tensor.inside is not None or tensor.place is None:
            return tensor.inside
        start, size = tensor.place
        with self._weights.open("rb") as file:
            file.seek(start)
            data = file.read(size)
        if len(data) != size:
            raise ExportError(f"`{self._weights}` ends before the tensor `{name}` does", AGAIN)
        return data

    def computed(self, name: str) -> NDArray[Any]:
        """The value of a name among `wanted`.

        Raises:
            ExportError: ONNX Runtime refuses to compute it.
        """
        options = session_options(threads=1)
        level = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_DISABLE_ALL  # or it would fold all of it
        options.enable_cpu_mem_arena = False
        try:
            session = onnxruntime.InferenceSession(self._part(name), options, [CPU])
            return np.asarray(session.run(None, {})[0], order="C")
        except Exception as error:
            raise ExportError(f"cannot fold `{name}`: {first_line(error)}") from error

    def _part(self, name: str) -> bytes:
        """The model that computes one value from constants."""
        needed, opened = {name}, [name]
        makers = {gives: node for node in self.folded for gives in node.gives}
        while opened:
            node = makers.get(opened.pop())
            new = set() if node is None else set(filter(None, node.takes)) - needed
            needed |= new
            opened += new
        nodes = [node.raw for node in self.folded if needed.intersection(node.gives)]
        tensors = [self._with_bytes(one) for one in self.tensors if one in needed]
        output = bytes_field(_OUTPUT, bytes_field(_VALUE_NAME, name.encode()))
        graph = b"".join((*nodes, bytes_field(_GRAPH_NAME, b"part"), *tensors, output))
        return b"".join((*self._head, bytes_field(_GRAPH, graph)))

    def _with_bytes(self, name: str) -> bytes | memoryview:
        """The field of a stored constant, which names no file."""
        tensor, data = self.tensors[name], None
        if tensor.place is not None:
            data = self.stored(name)
        return tensor.raw if data is None else stored_tensor(name, tensor.shape, tensor.type, data)

    def without(self, tensors: Sequence[bytes | memoryview]) -> Iterator[bytes]:
        """The model without the folded nodes, and with these fields as its constants, in pieces."""
        folded = set(map(id, self.folded))
        nodes = [node.raw for node in self.nodes if id(node) not in folded]
        graph = b"".join((*nodes, *tensors, *(raw for _, raw in self._rest)))
        for number, raw in self._model:
            yield bytes_field(_GRAPH, graph) if number == _GRAPH else bytes(raw)


def stored_tensor(name: str, shape: Sequence[int], kind: int, data: bytes | memoryview) -> bytes:
    """A field of a graph: a constant with its bytes."""
    return _described(name, shape, kind, bytes_field(_RAW, data))


def external_tensor(
    name: str, shape: Sequence[int], kind: int, file: str, start: int, size: int
) -> bytes:
    """A field of a graph: a constant whose bytes lie in a file beside it."""
    entries = (("location", file), ("offset", str(start)), ("length", str(size)))
    pairs = [
        bytes_field(_EXTERNAL, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))
        for key, value in entries
    ]
    return _described(name, shape, kind, b"".join(pairs) + number_field(_LOCATION, 1))


def type_of(array: NDArray[Any]) -> int:
    """Number of an array's type in ONNX.

    Raises:
        ExportError: it has none here.
    """
    if array.dtype not in _TYPES:
        raise ExportError(f"a constant of {array.dtype} cannot be stored")
    return _TYPES[array.dtype]


def _described(name: str, shape: Sequence[int], kind: int, data: bytes) -> bytes:
    dims = b"".join(number_field(_DIMS, size) for size in shape)
    head = dims + number_field(_TYPE, kind) + bytes_field(_NAME, name.encode())
    return bytes_field(_TENSOR, head + data)


def _node(raw: memoryview, data: memoryview) -> Node:
    takes: list[str] = []
    gives: list[str] = []
    plain = True
    for field in read_fields(data):
        if field.number in (_TAKES, _GIVES):
            (takes if field.number == _TAKES else gives).append(_decoded(field.value))
        elif field.number == _ATTRIBUTE:
            for inner in read_fields(_bytes(field.value)):
                if inner.number in _SUBGRAPHS:
                    plain = False
                    takes += _taken_within(_bytes(inner.value))
    return Node(raw, tuple(takes), tuple(gives), plain)


def _taken_within(graph: memoryview) -> Iterator[str]:
    """Names that nodes of a graph within a node take, whether or not that graph gives them itself."""
    for field in read_fields(graph):
        if field.number == _NODE:
            yield from _node(field.raw, _bytes(field.value)).takes
        elif field.number == _OUTPUT:
            yield _text(_bytes(field.value), _VALUE_NAME)


def _tensor(raw: memoryview, data: memoryview) -> tuple[str, Tensor]:
    name, shape, kind = "", [], 0
    inside: memoryview | None = None
    pairs: dict[str, str] = {}
    for field in read_fields(data):
        if field.number == _DIMS:
            shape += _numbers(field.value)
        elif field.number == _TYPE:
            kind = int(field.value) if isinstance(field.value, int) else 0
        elif field.number == _NAME:
            name = _decoded(field.value)
        elif field.number == _RAW:
            inside = _bytes(field.value)
        elif field.number == _EXTERNAL:
            entry = _bytes(field.value)
            pairs[_text(entry, 1)] = _text(entry, 2)
    place = (int(pairs.get("offset", 0)), int(pairs["length"])) if "length" in pairs else None
    return name, Tensor(raw, tuple(shape), kind, inside, place)


def _numbers(value: memoryview | int | None) -> list[int]:
    """Numbers of a repeated field, which may be packed into one."""
    if isinstance(value, int):
        return [value]
    found, place, data = [], 0, _bytes(value)
    while place < len(data):
        one, place = read_number(data, place)
        found.append(one)
    return found


def _text(data: memoryview, number: int) -> str:
    """The text in a message's field; empty if it has none."""
    return next((_decoded(one.value) for one in read_fields(data) if one.number == number), "")


def _decoded(value: memoryview | int | None) -> str:
    return bytes(_bytes(value)).decode()


def _bytes(value: memoryview | int | None) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("a field is no text and no message")  # noqa: TRY004 - the file's fault
    return value
