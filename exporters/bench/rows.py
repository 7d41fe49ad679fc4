"""What a benchmark gives graphs: texts, or images. One line in `ROWS` for each of what devices read. No torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from maskpack.exporters.options import BenchRequest
from maskpack.formats.errors import ConfigError, DataError, Hint
from maskpack.models.families import IMAGES, TEXT
from maskpack.runtime.readers import Readable, image_reader
from maskpack.runtime.task import TaskConfig, TaskFiles
from maskpack.runtime.tokens import load_tokenizer
from maskpack.tasks.data.images import files_below
from maskpack.tasks.data.text_lines import lines_in

BatchShape = tuple[int, int]
"""Rows of a run, and tokens of a text or pixels of an image."""

_SENTENCE = "the parcel came late and one of the two cups in it was broken"


@dataclass(frozen=True)
class BenchRows:
    """Rows of tasks that read texts, or images.

    Attributes:
        noise: what graphs get where no rows are given, in words.
        shapes: of all runs, the largest last.
        vocabulary: tokens that random ones are chosen from.
        given: the rows of a request, or None, and what they are in words.
        example: a row that any such task answers.
    """

    noise: str
    shapes: Callable[[BenchRequest, TaskFiles], list[BatchShape]]
    vocabulary: Callable[[TaskFiles], int]
    given: Callable[[BenchRequest, TaskConfig], tuple[list[Readable], str] | None]
    example: Callable[[TaskConfig], Readable]


def rows_of(config: TaskConfig) -> BenchRows:
    """The rows of a task."""
    return ROWS[config.decoder.reads]


def _shapes_of_texts(request: BenchRequest, files: TaskFiles) -> list[BatchShape]:
    del files
    return request.shapes


def _given_texts(request: BenchRequest, config: TaskConfig) -> tuple[list[Readable], str] | None:
    """Lines of a file, in their order; for a task on pairs a tab separates them.

    Raises:
        ConfigError: images were given.
        DataError: the file cannot be read, is not UTF-8, or holds no text.
    """
    if request.images:
        hint = Hint("give `texts`")
        raise ConfigError(f"`{config.name}` reads texts, not images", hint)
    if request.texts is None:
        return None
    lines = [line for line in lines_in(request.texts) if line]
    if not lines:
        raise DataError(f"`{request.texts}` holds no text")
    return [_row(line, config.texts) for line in lines], request.texts.name


def _row(line: str, texts: int | None) -> Readable:
    first, tab, second = line.partition("\t")
    return (first, second) if tab and texts != 1 else line


def _example_of_texts(config: TaskConfig) -> Readable:
    text = _SENTENCE if config.mask is None else f"{_SENTENCE} {config.mask[1]}"
    return (text, text) if config.texts == 2 else text


def _shapes_of_images(request: BenchRequest, files: TaskFiles) -> list[BatchShape]:
    """A graph reads images of one size: batches alone differ.

    Raises:
        ExportError: what says how images are read is missing or damaged.
    """
    height, width = image_reader(files, files.read_config(), {}).rule.size
    return [(batch, height * width) for batch in sorted(request.batches)]


def _given_images(request: BenchRequest, config: TaskConfig) -> tuple[list[Readable], str] | None:
    """Paths of images, those in folders too.

    Raises:
        ConfigError: texts were given.
        DataError: a folder holds no image.
    """
    if request.texts is not None:
        raise ConfigError(f"`{config.name}` reads images, not texts", Hint("give `images`"))
    if not request.images:
        return None
    paths = [file for path in request.images for file in files_below(path)]
    return [path.as_posix() for path in paths], f"{len(paths)} images"


ROWS: Mapping[str, BenchRows] = {
    TEXT: BenchRows(
        noise="random tokens",
        shapes=_shapes_of_texts,
        vocabulary=lambda files: int(
            load_tokenizer(files.tokenizer).get_vocab_size(with_added_tokens=False)
        ),
        given=_given_texts,
        example=_example_of_texts,
    ),
    IMAGES: BenchRows(
        noise="random pixels",
        shapes=_shapes_of_images,
        vocabulary=lambda _: 0,
        given=_given_images,
        example=lambda _: np.zeros((1, 1, 3), dtype=np.uint8),
    ),
}
"""What a device reads -> the rows of a benchmark."""
