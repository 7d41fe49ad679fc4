"""Images to the pixel values of a model: the only code that does it, on devices and in training. numpy and Pillow alone.

What is done with an image is what transformers' own processors of ViT, DeiT, BiT and CLIP do, bit for bit: resize, cut out the
centre, rescale, normalise. An image is turned as its EXIF orientation says and becomes RGB first, as `load_image` of transformers
does it: palettes and grey become three channels, transparency is left out.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import DataError, ExportError, first_line
from maskpack.formats.extras import needed_for

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PROCESSOR = "preprocessor_config.json"
"""File of transformers that says how a model reads images."""

KNOWN = ("ViTImageProcessor", "DeiTImageProcessor", "BitImageProcessor", "CLIPImageProcessor")
"""Processors of transformers whose settings are followed."""

DATA_URL = "data:image/"
"""How an image begins that stands in a cell itself (RFC 2397)."""

IMAGES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"),
)
"""Endings of files of images."""

_CHANNELS = 3
_LEVELS = 256
_FILTERS = range(6)  # of Pillow's `Resampling`
_DEEP = ("I", "F")  # how Pillow's modes of more than 8 bits a channel begin
_HINT = "give the model's own `preprocessor_config.json`, as `save_pretrained` of its processor writes it"

Image = Any
"""A path, bytes of a file, a data URL, an image of Pillow, or uint8 `(h, w)` or `(h, w, 3)`."""


@dataclass(frozen=True)
class ImageRule:
    """How images become pixel values, from `preprocessor_config.json`.

    Attributes:
        resize: height and width; one number: the shorter edge, the other as the image's proportions say; None: not at all.
        resample: number of Pillow's filter.
        crop: height and width of the part around the centre that stays, or of a black frame around a smaller image; None: all.
        factor: by which 0 to 255 are multiplied; None: they stay.
        mean, std: of each channel, subtracted and divided by; None: values stay.
    """

    resize: tuple[int, int] | int | None
    resample: int
    crop: tuple[int, int] | None
    factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __post_init__(self) -> None:
        sizes = [self.resize] if isinstance(self.resize, int) else [*(self.resize or ())]
        if any(type(size) is not int or size < 1 for size in (*sizes, *(self.crop or ()))):
            raise ExportError(f"`{PROCESSOR}` has the sizes {self.resize} and {self.crop}", _HINT)
        if self.crop is None and not isinstance(self.resize, tuple):
            raise ExportError(
                f"`{PROCESSOR}` leaves images in sizes of their own, and a graph has one",
                "give a `size` of `height` and `width`, or a `crop_size`",
            )
        if self.resample not in _FILTERS:
            raise ExportError(f"`{PROCESSOR}` has the filter {self.resample!r}", _HINT)
        for numbers in (self.mean or (), self.std or ()):
            if len(numbers) not in {0, _CHANNELS} or not np.isfinite(numbers).all():
                raise ExportError(f"`{PROCESSOR}` has {numbers} where 3 numbers are expected")
        if 0.0 in (self.std or ()):
            raise ExportError(f"`{PROCESSOR}` divides by {self.std}", _HINT)

    @classmethod
    def of_json(cls, data: bytes | str) -> ImageRule:
        """The rule of a `preprocessor_config.json`, as `models/image_files.py` keeps it.

        Raises:
            ExportError: it is damaged, or of a processor that is not followed.
        """
        try:
            tree = json.loads(data)
            kind = str(tree["image_processor_type"]).removesuffix("Fast")
            if kind not in KNOWN:
                raise ExportError(
                    f"`{PROCESSOR}` is of a `{kind}`, whose images are not read here",
                    f"processors that are followed: {', '.join(KNOWN)}",
                )
            return cls(
                resize=_resized(tree["size"]) if tree["do_resize"] else None,
                resample=int(tree["resample"]),
                crop=_pair(tree["crop_size"]) if tree.get("do_center_crop") else None,
                factor=float(tree["rescale_factor"]) if tree["do_rescale"] else None,
                mean=_numbers(tree["image_mean"]) if tree["do_normalize"] else None,
                std=_numbers(tree["image_std"]) if tree["do_normalize"] else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ExportError(f"`{PROCESSOR}` is damaged: {error!r}", _HINT) from error

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what a model reads."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize

    def pixels(self, image: Image, root: Path | None = None) -> NDArray[np.uint8]:
        """An image in the size that a model reads, uint8 `(h, w, 3)`.

        Args:
            image: see `Image`.
            root: folder that a path is relative to.

        Raises:
            DataError: it is no image, or a damaged one.
            MissingPackageError: Pillow is missing.
        """
        picture = open_image(image, root)
        if self.resize is not None:
            picture = picture.resize(_width_height(self.resize, picture.size), self.resample)
        whole: NDArray[np.uint8] = np.asarray(picture)
        return whole if self.crop is None else centre(whole, *self.crop)

    def values(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What a model reads, float32 `(b, 3, h, w)`, of images `(b, h, w, 3)` of the right size."""
        made = np.empty(
            (len(pixels), _CHANNELS, *pixels.shape[1:3]), dtype=np.float32
        )  # channel by channel: a copy in another order of axes would cost as much again
        for channel in range(_CHANNELS):
            np.take(self._levels[channel], pixels[..., channel], out=made[:, channel])
        return made

    @cached_property
    def _levels(self) -> NDArray[np.float32]:
        """The value of each level of each channel, `(3, 256)`: rescaled in float64, normalised in float32, as transformers does."""
        levels = np.arange(_LEVELS, dtype=np.float64)
        some = (levels if self.factor is None else levels * self.factor).astype(np.float32)
        every = np.repeat(some[None], _CHANNELS, axis=0)
        if self.mean is None or self.std is None:
            return every
        mean, std = (np.array(one, dtype=np.float32)[:, None] for one in (self.mean, self.std))
        return np.asarray((every - mean) / std)


def _pair(size: Mapping[str, Any] | int) -> tuple[int, int]:
    """Height and width; one number is both."""
    return (size, size) if isinstance(size, int) else (size["height"], size["width"])


def _resized(size: Mapping[str, Any] | int) -> tuple[int, int] | int:
    if isinstance(size, Mapping) and "shortest_edge" in size:
        if "longest_edge" in size:
            raise ValueError(f"size {dict(size)}")
        return int(size["shortest_edge"])
    return _pair(size)


def _numbers(values: Any) -> tuple[float, ...]:
    some = values if isinstance(values, list) else [values] * _CHANNELS
    return tuple(float(value) for value in some)


def _width_height(wanted: tuple[int, int] | int, own: tuple[int, int]) -> tuple[int, int]:
    """Width and height of an image after it was resized.

    Args:
        wanted: height and width, or the shorter edge.
        own: width and height before.

    >>> _width_height((4, 6), (30, 20)), _width_height(10, (30, 20)), _width_height(10, (20, 35))
    ((6, 4), (15, 10), (10, 17))
    """
    if isinstance(wanted, tuple):
        return wanted[1], wanted[0]
    longer = int(wanted * max(own) / min(own))
    return (wanted, longer) if own[0] <= own[1] else (longer, wanted)


def centre(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The part of an image `(h, w, 3)` around its centre; where the image is smaller, with black around it.

    As `center_crop` of transformers, which puts the odd pixel of a frame before the image.

    >>> centre(np.ones((1, 2, 3), dtype=np.uint8), 2, 1)[..., 0].tolist()
    [[0], [1]]
    """
    high, wide = pixels.shape[:2]
    top, left = (high - height) // 2, (wide - width) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + height, left : left + width]
    framed = np.zeros((max(height, high), max(width, wide), _CHANNELS), dtype=np.uint8)
    above, before = ceil((len(framed) - high) / 2), ceil((framed.shape[1] - wide) / 2)
    framed[above : above + high, before : before + wide] = pixels
    top, left = top + above, left + before
    return framed[max(0, top) : top + height, max(0, left) : left + width]


def open_image(image: Image, root: Path | None = None) -> Picture:
    """An image of Pillow, upright and in RGB.

    Raises:
        DataError: it is none, or it is damaged.
        MissingPackageError: Pillow is missing.
    """
    with needed_for("reading images"):
        from PIL import Image as pillow  # noqa: N813, PLC0415 - an optional extra
        from PIL import ImageOps  # noqa: PLC0415
    shown = name_of(image)
    try:
        if isinstance(image, np.ndarray):
            picture = pillow.fromarray(_checked_array(image))
        elif isinstance(image, pillow.Image):
            picture = image
        else:
            picture = pillow.open(_opened(image, root))
        # the first picture of several; `load` reads all of a file, and so finds one that is cut off
        picture.load()
        upright = ImageOps.exif_transpose(picture)
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads to
        raise _unreadable(shown, error, pillow) from error
    if picture.mode.startswith(_DEEP):
        raise DataError(
            f"{shown} has more than 8 bits a pixel (mode {picture.mode})",
            "save it with 8 bits, from black to white as you want it read",
        )
    return upright.convert("RGB")


def _unreadable(shown: str, error: Exception, pillow: Any) -> DataError:
    """The error for what Pillow cannot read."""
    if isinstance(error, FileNotFoundError):
        return DataError(f"there is no {shown}", "give a path that is there")
    if isinstance(error, IsADirectoryError | PermissionError):
        return DataError(f"{shown} cannot be read: {error.strerror}", "give the file of an image")
    if isinstance(error, pillow.UnidentifiedImageError):
        return DataError(
            f"{shown} is no image that Pillow reads", "leave it out, or save it as PNG"
        )
    return DataError(
        f"{shown} cannot be read as an image: {first_line(error)}",
        "it may be cut off or damaged: get it again, or leave it out",
    )


def name_of(image: Image) -> str:
    """An image in words, for an error."""
    if isinstance(image, Path) or (isinstance(image, str) and not image.startswith(DATA_URL)):
        return f"image `{Path(image).as_posix()}`"
    if isinstance(image, str):
        return f"image `{image[:40]}...`"
    if isinstance(image, bytes):
        return f"image of {len(image):,} bytes"
    return "image"


def _opened(image: Image, root: Path | None) -> io.BytesIO:
    """The bytes of a file."""
    if isinstance(image, bytes):
        return io.BytesIO(image)
    if isinstance(image, str) and image.startswith(DATA_URL):
        return io.BytesIO(bytes_of_url(image))
    if not isinstance(image, str | Path):
        raise DataError(
            f"{image!r:.80} is no image",
            "give a path, bytes, an image of Pillow, or an array of uint8 `(h, w, 3)`",
        )
    # Pillow would leave a file open that it cannot read to its end
    return io.BytesIO((Path(image) if root is None else root / image).read_bytes())


def url_of_bytes(data: bytes) -> str:
    """Bytes of a file of an image as a data URL. Inverse of `bytes_of_url`.

    >>> bytes_of_url(url_of_bytes(b"GIF89a"))
    b'GIF89a'
    """
    return f"{DATA_URL}*;base64,{base64.b64encode(data).decode()}"


def bytes_of_url(url: str) -> bytes:
    """Bytes of a data URL. Inverse of `url_of_bytes`.

    Raises:
        DataError: it holds no bytes in base64.
    """
    head, _, body = url.partition(",")
    try:
        return base64.b64decode(body if head.endswith(";base64") else "?", validate=True)
    except binascii.Error as error:
        raise DataError(f"`{url[:40]}` is no data URL in base64") from error


def _checked_array(values: NDArray[Any]) -> NDArray[np.uint8]:
    """An array of an image, if it is one.

    Raises:
        DataError: it is not uint8 `(h, w)` or `(h, w, 3)`.
    """
    colours = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == _CHANNELS)
    if values.dtype != np.uint8 or not colours or not values.size:
        raise DataError(
            f"an array of {values.dtype} {values.shape} is no image",
            "give uint8 `(h, w, 3)`, or `(h, w)` of grey",
        )
    return values
