"""What a device reads: texts as tokens, images as pixels. One line in `READERS` for each.

A reader turns rows into what a batch is made of, and says what a row is that cannot be read. `OutputDecoder.reads` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import ExportError, MaskpackError
from maskpack.runtime.images import Image, ImageRule
from maskpack.runtime.outputs import ReadText
from maskpack.runtime.task import AGAIN, TaskConfig, TaskFiles
from maskpack.runtime.tokens import TextReader, load_tokenizer

Readable = Any
"""A text, a pair of texts, or an image: a path, bytes of a file, an image of Pillow, or uint8 `(h, w, 3)`."""


class Reader(Protocol):
    """Reads the rows of a task."""

    @property
    def way(self) -> tuple[Hashable, ...]:
        """What readers must have in common so that they make the same batch of a row."""

    @property
    def stride(self) -> int | None:
        """Tokens that neighbouring windows share; None: rows are not cut into windows."""

    @property
    def most(self) -> int | None:
        """Rows that are held at once; None: all, so that those of similar length share a batch."""

    def encode(self, rows: Sequence[Readable], *, second: bool = False) -> list[Any]:
        """Each row as a model reads it; of a task that cuts rows into windows all windows, one row behind the other.

        With `second` what stands before second texts stands before them.

        Raises:
            MaskpackError: a row cannot be read.
        """

    def encode_each(self, rows: Sequence[Readable]) -> list[tuple[Any, ...] | MaskpackError]:
        """Each row as a model reads it, one or more windows of it; or what is wrong with it."""

    def problem(self, row: Readable) -> MaskpackError | None:
        """What keeps a row from being read, as far as its form shows it."""

    def batch(self, rows: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Rows as one batch, name of an input -> values."""

    def told(self, row: Readable, read: Any) -> ReadText:
        """What a decoder may know of a row.

        Args:
            row: as it was given.
            read: as a model reads it.
        """


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image as a model reads it.

    Attributes:
        values: uint8 `(h, w, 3)`.
    """

    values: NDArray[np.uint8]
    window: None = None
    is_cut: bool = False

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, eq=False)
class ImageReader:
    """Reads the images of a task.

    Attributes:
        rule: of its `preprocessor_config.json`.
        config: of the task.
    """

    rule: ImageRule
    config: TaskConfig
    stride: ClassVar[int | None] = None
    most: ClassVar[int | None] = 1024

    @property
    def way(self) -> tuple[Hashable, ...]:
        """The rule."""
        return (self.rule,)

    def encode(self, rows: Sequence[Image], *, second: bool = False) -> list[Pixels]:
        """The pixels of each image.

        Raises:
            DataError: one is no image.
        """
        del second
        found = []
        for number, one in enumerate(map(self._one, rows), start=1):
            if isinstance(one, MaskpackError):
                raise type(one)(f"row {number}: {one}", one.advice) from one
            found.append(one)
        return found

    def encode_each(self, rows: Sequence[Image]) -> list[tuple[Any, ...] | MaskpackError]:
        """The pixels of each image, or what is wrong with it."""
        read = map(self._one, rows)
        return [one if isinstance(one, MaskpackError) else (one,) for one in read]

    def _one(self, image: Image) -> Pixels | MaskpackError:
        try:
            return Pixels(self.rule.pixels(image))
        except MaskpackError as error:
            return error

    def problem(self, row: Image) -> None:
        """None: an image is read once, and what is wrong with it is found then."""
        del row

    def batch(self, rows: Sequence[Pixels]) -> dict[str, NDArray[Any]]:
        """`pixel_values`, float32 `(b, 3, h, w)`."""
        return {"pixel_values": self.rule.values(np.stack([row.values for row in rows]))}

    def told(self, row: Image, read: Pixels) -> ReadText:
        """Nothing: answers are labels."""
        del row, read
        return ReadText("")


Known = MutableMapping[Hashable, Any]
"""What readers of a session have loaded."""


def text_reader(
    place: TaskFiles, config: TaskConfig, known: Known, *, stride: int | None = None
) -> TextReader:
    """The reader of a task's texts; tasks whose texts are cut alike share a tokenizer.

    With `stride` texts are cut into windows that share so many tokens.
    """
    stride = config.stride if stride is None else stride
    longest = config.max_length if stride is None else 0  # 0: rows are read whole
    same = _digest(place.tokenizer, known)
    how = (same, longest, config.truncation_left, config.split_special_tokens)
    if how not in known:
        known[how] = load_tokenizer(place.tokenizer)
    return TextReader.of(known[how], config, stride=stride)


def _digest(path: Path, known: Known) -> str:
    """Of a file, so that exports of one artifact share a tokenizer; the path of one that cannot be read. Computed once a path."""
    if path not in known:
        try:
            known[path] = file_sha256(path)
        except OSError:
            known[path] = str(path)
    return str(known[path])


def image_reader(place: TaskFiles, config: TaskConfig, known: Known) -> ImageReader:
    """The reader of a task's images.

    Raises:
        ExportError: the file of the image processor is missing or damaged.
    """
    del known
    try:
        data = place.processor.read_bytes()
    except OSError as error:
        raise ExportError(f"cannot read `{place.processor}`: {error.strerror}", AGAIN) from error
    return ImageReader(ImageRule.of_json(data), config)


READERS: Mapping[str, Callable[[TaskFiles, TaskConfig, Known], Reader]] = {
    "text": text_reader,
    "images": image_reader,
}
"""What a device reads -> function that makes the reader of a task from its files."""
