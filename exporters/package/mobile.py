"""`.ort` files for ONNX Runtime's mobile builds, by the converter that ONNX Runtime ships.

The fixed style saves the graph as it is after optimisation: masks are folded into the weights and shared
weights are copied in, so that a task is one file.

The file is a FlatBuffer. Its table of kernel types comes out of a hash map with a random seed, so the same
graph gives other bytes in every run, and now and then a few more or less of them. `settle` cuts that table
out and writes it again at the end of the file, sorted. Field numbers are those of ORT's `ort.fbs`.

    root | old table | all else        ->        root | all else | padding | new table

A FlatBuffer is written from its end: what stands behind the old table never points into it, and is aligned by
its distance from the end.
"""

from __future__ import annotations

import io
import logging
import struct
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import flatbuffers

from maskpack.formats import ExportError
from maskpack.runtime.graph import first_line


def convert(graph: Path) -> bytes:
    """A graph, and the weights beside it, in ONNX Runtime's own format: the same bytes each time.

    Raises:
        ExportError: the converter refuses it.
    """
    from onnxruntime.tools.convert_onnx_models_to_ort import (  # noqa: PLC0415 - sets up logging
        OptimizationStyle,
        convert_onnx_models_to_ort,
    )

    with tempfile.TemporaryDirectory() as home, _quiet():
        try:
            convert_onnx_models_to_ort(
                graph,
                output_dir=Path(home),
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform="arm",  # leaves out what only x86 gains from
            )
        except Exception as error:  # the runtime's errors share no public base class
            raise ExportError(f"cannot convert `{graph}`: {first_line(error)}") from error
        (made,) = Path(home).glob("*.ort")
        return settle(made.read_bytes())


def required_operators(graphs: Sequence[Path]) -> bytes:
    """What a minimal build of ONNX Runtime must contain for these `.ort` files.

    The converter's own comment names paths of this machine; names of files replace it.
    """
    from onnxruntime.tools.ort_format_model import (  # noqa: PLC0415 - sets up logging
        create_config_from_models,
    )

    with tempfile.TemporaryDirectory() as home, _quiet():
        made = Path(home) / "config"
        create_config_from_models(graphs, made, enable_type_reduction=False)
        lines = made.read_text(encoding="utf-8").splitlines()
    names = ", ".join(sorted(graph.name for graph in graphs))
    kept = [line for line in lines if not line.startswith("#")]
    return "\n".join([f"# operators of {names}", *kept, ""]).encode()


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime's tools print what they do, log it, and leave a file for Python to close."""
    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield


_RESOLVER = 3  # field of the root table: the table of kernel types
_ALIGNED = 16

Argument = tuple[int, int]
"""Whether it is an input or an output, and its number."""

Kinds = tuple[tuple[str, tuple[Argument, ...]], ...]
"""Type parameters, and the arguments that have each of them."""


def settle(data: bytes) -> bytes:
    """An `.ort` file with its table of kernel types in the order of the names.

    Returns:
        The same bytes for files that differ in that order only; `data` itself if it has no such table.
    """
    reader = _Reader(data)
    root = reader.follow(0)
    place = reader.member(root, _RESOLVER)
    if place is None:
        return data
    entries = sorted(
        (reader.text(entry, 0), tuple(sorted(_kinds(reader, entry))))
        for entry in reader.tables(reader.enter(place), 0)
    )
    low, high = min(reader.seen)[0], max(end for _, end in reader.seen)
    assert max(root + reader.layout(root)[2], sum(reader.layout(root)[:2])) <= low, (
        "the root table does not stand before the old one"
    )
    room = bytes(-(low + len(data) - high) % _ALIGNED)
    settled = bytearray(data[:low] + room + data[high:])
    for member in reader.members(root):
        target = reader.follow(member)
        if target >= high:
            shift = low + len(room) - high
            struct.pack_into("<I", settled, member, target + shift - member)
    table = _build(entries)
    (inner,) = struct.unpack_from("<I", table)
    struct.pack_into("<I", settled, place, len(settled) + inner - place)
    return bytes(settled + table)


def _kinds(reader: _Reader, entry: int) -> Kinds:
    return tuple(
        (
            reader.text(kind, 0),
            tuple((reader.number(arg, 0, "<b"), reader.number(arg, 1, "<I")) for arg in args),
        )
        for kind in reader.tables(entry, 1)
        for args in [reader.tables(kind, 1)]
    )


@dataclass
class _Reader:
    """Tables, vectors and texts of a FlatBuffer, by position.

    Attributes:
        data: the file.
        seen: beginning and end of all that was entered.
    """

    data: bytes
    seen: list[tuple[int, int]] = field(default_factory=list)

    def follow(self, place: int) -> int:
        """The position that an offset points to."""
        (offset,) = struct.unpack_from("<I", self.data, place)
        return place + int(offset)

    def layout(self, table: int) -> tuple[int, int, int]:
        """Position and size of a table's layout, and size of the table."""
        (back,) = struct.unpack_from("<i", self.data, table)
        size, own = struct.unpack_from("<HH", self.data, table - back)
        return table - back, size, own

    def member(self, table: int, number: int) -> int | None:
        """The position of a field, or None if the table leaves it out."""
        layout, size, _ = self.layout(table)
        if 4 + 2 * number >= size:
            return None
        (offset,) = struct.unpack_from("<H", self.data, layout + 4 + 2 * number)
        return table + offset if offset else None

    def members(self, table: int) -> list[int]:
        """The positions of all fields of a table."""
        fields = range((self.layout(table)[1] - 4) // 2)
        return [place for number in fields if (place := self.member(table, number)) is not None]

    def enter(self, place: int) -> int:
        """The table that an offset points to, noted as seen."""
        table = self.follow(place)
        self.seen.append((table, table + self.layout(table)[2]))
        return table

    def tables(self, table: int, number: int) -> list[int]:
        """The tables in a field that is a vector of them."""
        place = self.member(table, number)
        if place is None:
            return []
        vector = self.follow(place)
        (count,) = struct.unpack_from("<I", self.data, vector)
        self.seen.append((vector, vector + 4 + 4 * count))
        return [self.enter(vector + 4 + 4 * item) for item in range(count)]

    def text(self, table: int, number: int) -> str:
        """The text in a field."""
        place = self.member(table, number)
        assert place is not None, "a name is required"
        start = self.follow(place)
        (size,) = struct.unpack_from("<I", self.data, start)
        self.seen.append((start, start + 4 + size + 1))
        return self.data[start + 4 : start + 4 + size].decode()

    def number(self, table: int, number: int, form: str) -> int:
        """The number in a field, 0 if it is left out."""
        place = self.member(table, number)
        return 0 if place is None else int(struct.unpack_from(form, self.data, place)[0])


def _build(entries: list[tuple[str, Kinds]]) -> bytes:
    """The table of kernel types as a FlatBuffer of its own."""
    builder = flatbuffers.Builder(4096)
    found = []
    for operator, kinds in entries:
        inner = [
            _named(builder, kind, [_argument(builder, arg) for arg in args]) for kind, args in kinds
        ]
        found.append(_named(builder, operator, inner))
    vector = _vector(builder, found)
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _argument(builder: flatbuffers.Builder, argument: Argument) -> int:
    builder.StartObject(2)
    builder.PrependInt8Slot(0, argument[0], 0)
    builder.PrependUint32Slot(1, argument[1], 0)
    return int(builder.EndObject())


def _named(builder: flatbuffers.Builder, name: str, tables: list[int]) -> int:
    """A table of a name and a vector of tables."""
    vector, text = _vector(builder, tables), builder.CreateString(name)
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    return int(builder.EndObject())


def _vector(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return int(builder.EndVector())
