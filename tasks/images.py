"""Images of a split as a model reads them: pixels in memory or in a file, values batch by batch.

A batch is decoded, resized and cut once, when a split is encoded; what is kept is 8 bits a channel. Rescaling and normalising, which
make four bytes of each, happen when a batch is asked for.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ArtifactError, DataError, MaskpackError, ModelError
from maskpack.formats.waiting import Counted
from maskpack.formats.writer import write_bytes
from maskpack.models.families import IMAGES, Family, family_of, image_size_of
from maskpack.models.inputs import PIXELS, smooth_noise
from maskpack.runtime.images import PROCESSOR, ImageRule
from maskpack.runtime.outputs import ReadText
from maskpack.tasks.data.splits import Split
from maskpack.tasks.encoded import Encoded, Feeds, joined_labels

_LOG = logging.getLogger(__name__)

_MOST_IN_MEMORY = (
    2**28
)  # bytes of pixels; more lie in a file without a name, of which memory holds what it has room for
_SAMPLES = 64  # images, of which the peaks of activations are measured


@dataclass(frozen=True, eq=False)
class EncodedImages(Encoded):
    """A split as pixels.

    Attributes:
        pixels: uint8 `(rows, h, w, 3)`.
        rule: makes a model's values of them.
        tokens: of a row, as the model counts them: patches and its own ones.
        labels, labelled, per_token, pad: see `Encoded`.
    """

    pixels: NDArray[np.uint8]
    rule: ImageRule
    tokens: int
    labels: NDArray[Any]
    labelled: NDArray[np.bool_] | None = None
    per_token: bool = False
    pad: int = 0

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The same for all rows."""
        return np.full(len(self), self.tokens, dtype=np.int64)

    def take(self, rows: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order given."""
        labelled = None if self.labelled is None else self.labelled[rows]
        pixels = _room((len(rows), *self.pixels.shape[1:]))
        np.take(self.pixels, rows, axis=0, out=pixels)
        return replace(self, pixels=pixels, labels=self.labels[rows], labelled=labelled)

    def feeds(self, rows: NDArray[np.intp]) -> Feeds:
        """The rows as one batch, float32 `(b, 3, h, w)`."""
        return {PIXELS: self.rule.values(self.pixels[rows])}

    def of_longest(
        self, logits: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        """The logits: an image has one output."""
        del rows
        return logits

    def read_by(self, config: Mapping[str, Any]) -> Self:
        """The same."""
        del config
        return self

    def refusal(self, name: str, config: Mapping[str, Any]) -> MaskpackError | None:
        """Of a model that reads texts, or images of another size."""
        family, own = family_of(config["model_type"]), self.pixels.shape[1:3]
        if family.reads != IMAGES:
            return ModelError(f"{name} reads no images")
        size = image_size_of(config)
        if family.any_size or size == own:
            return None
        return ModelError(
            f"{name} reads images of {size[0]} x {size[1]} pixels, the rows have {own[0]} x {own[1]}",
            "give one that reads images of the same size",
        )

    def followed_by(self, others: Sequence[EncodedImages]) -> Self:
        """The rows and, behind them, those of others."""
        parts: tuple[EncodedImages, ...] = (self, *others)
        pixels = _room((sum(map(len, parts)), *self.pixels.shape[1:]))
        np.concatenate([part.pixels for part in parts], out=pixels)
        return replace(self, pixels=pixels, **joined_labels(parts))


def _room(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array for pixels: in memory, or of many in a file that is gone with the array."""
    if np.prod(shape, dtype=np.int64) <= _MOST_IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    with tempfile.TemporaryFile() as file:  # the map holds it open
        return np.memmap(cast("Any", file), dtype=np.uint8, mode="w+", shape=shape)


@dataclass(frozen=True, eq=False)
class ImagePreprocessor:
    """Images, as the image processor beside the model says.

    Attributes:
        rule: what is done with an image.
        tokens: of an image, as the model counts them.
        file: bytes of the processor's file.
    """

    rule: ImageRule
    tokens: int
    file: bytes
    pad: ClassVar[tuple[int, str]] = (0, "")
    pad_left: ClassVar[bool] = False
    truncation_left: ClassVar[bool] = False
    split_special_tokens: ClassVar[bool] = False
    keeps_labels: ClassVar[bool] = False
    by_pages: ClassVar[bool] = False
    cuts: ClassVar[bool] = False
    mask: ClassVar[None] = None

    @classmethod
    def of_files(
        cls, files: Mapping[str, bytes], family: Family, config: Mapping[str, Any]
    ) -> ImagePreprocessor:
        """The preprocessor of files that an artifact keeps.

        Raises:
            ArtifactError: there is no file of an image processor among them.
            ExportError: it is damaged, or of a processor that is not followed.
        """
        if PROCESSOR not in files:
            raise ArtifactError(
                f"there is no `{PROCESSOR}`, and a task of images needs one",
                "give a model that reads images, such as a ViT",
            )
        return cls(
            ImageRule.of_json(files[PROCESSOR]), family.longest_input(config), files[PROCESSOR]
        )

    def encode(self, split: Split, *, max_length: int) -> EncodedImages:
        """Decode the images of a split.

        Raises:
            DataError: one is no image, or damaged.
        """
        del max_length
        pixels = _room((len(split), *self.rule.size, 3))
        counted = Counted(_LOG, "reading images", len(split))
        for number, row in enumerate(split.texts):
            try:
                pixels[number] = self.rule.pixels(row[0], split.root)
            except DataError as error:
                where = "" if split.root is None else f" (in `{split.root.as_posix()}`)"
                raise DataError(f"row {number + 1}: {error}{where}", error.advice) from error
            counted.add(1)
        return EncodedImages(pixels, self.rule, self.tokens, split.labels)

    def samples(self) -> EncodedImages:
        """Images of noise whose spectrum falls as that of photographs does; see `sample_images`."""
        pixels = sample_images(_SAMPLES, *self.rule.size)
        labels = np.zeros(_SAMPLES, dtype=np.int64)
        return EncodedImages(pixels, self.rule, self.tokens, labels)

    def full_lengths(self, rows: Sequence[tuple[str, ...]]) -> NDArray[np.int64]:
        """Tokens of each row."""
        return np.full(len(rows), self.tokens, dtype=np.int64)

    def told(self, split: Split, *, max_length: int) -> list[list[ReadText]]:
        """Nothing of each row: answers are labels."""
        del max_length
        return [[ReadText("")] for _ in split.texts]

    def save(self, folder: Path) -> None:
        """Write the file as transformers loads it."""
        write_bytes(folder / PROCESSOR, self.file)


def sample_images(count: int, height: int, width: int) -> NDArray[np.uint8]:
    """Images of the noise of `smooth_noise`, from dark to bright and with little contrast to much, uint8 `(count, h, w, 3)`; the same each time.

    Peaks of activations are measured on them, because no photographs ship with the package.
    """
    rng = np.random.default_rng(0)
    noise = smooth_noise(rng, count, height, width)
    light, contrast = (rng.uniform(*each, (count, 1, 1, 1)) for each in ((64, 192), (16, 80)))
    levels = np.clip(np.rint(light + contrast * noise), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))
