"""Messages of protobuf, of which ONNX graphs are made, without the package onnx: read field by field, and written.

A message is a row of fields; a field is a key, `number * 8 + kind`, and a value. Kinds: 0 a number, 1 and 5 eight and four bytes, 2 a length
and so many bytes, which may be a message again. Numbers have seven bits a byte, the lowest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_WIDTHS = {0: None, 1: 8, 2: -1, 5: 4}
_BYTES = 2  # the kind of texts, bytes and messages


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: which, as `onnx.proto` counts them.
        value: bytes of a field that has a length; a number; None of other kinds.
        raw: the whole field, to be copied.
    """

    number: int
    value: memoryview | int | None
    raw: memoryview


def read_fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message, in its order.

    Raises:
        ValueError: it is no message.

    >>> [(field.number, field.value) for field in read_fields(memoryview(bytes.fromhex("08ac02")))]
    [(1, 300)]
    """
    place, size = 0, len(data)
    while place < size:
        start = place
        key, place = read_number(data, place)
        width = _WIDTHS.get(key & 7, 0)
        value: memoryview | int | None = None
        if width is None:
            value, place = read_number(data, place)
            yield Field(key >> 3, value, data[start:place])
            continue
        if width == 0:
            raise ValueError(f"field {key >> 3} is of the unknown kind {key & 7}")
        if width == -1:
            width, place = read_number(data, place)
        if place + width > size:
            raise ValueError(f"field {key >> 3} is cut off")
        if key & 7 == _BYTES:
            value = data[place : place + width]
        place += width
        yield Field(key >> 3, value, data[start:place])


def read_number(data: memoryview, place: int) -> tuple[int, int]:
    """A number, and where it ends.

    >>> read_number(memoryview(bytes([0xAC, 0x02])), 0)
    (300, 2)
    """
    value = shift = 0
    while place < len(data) and shift < 70:
        byte = data[place]
        value, place = value | (byte & 0x7F) << shift, place + 1
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number is cut off")


def number(value: int) -> bytes:
    """A number of 0 or more. Inverse of `read_number`.

    >>> number(300).hex()
    'ac02'
    """
    made = bytearray()
    while value >= 0x80:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def number_field(field: int, value: int) -> bytes:
    """A field that is a number.

    >>> number_field(1, 300).hex()
    '08ac02'
    """
    return number(field << 3) + number(value)


def bytes_field(field: int, value: bytes | memoryview) -> bytes:
    """A field that is text, bytes or a message.

    >>> bytes_field(2, b"hi").hex()
    '12026869'
    """
    return b"".join((number(field << 3 | _BYTES), number(len(value)), value))
