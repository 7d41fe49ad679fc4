"""Images to the pixel values of a model: the only code that does it, on devices and in training. numpy and Pillow alone.

What is done with pixels is in `runtime/pixels.py`; here files are opened, and what is wrong with them is said. An image is turned as its EXIF orientation says and becomes RGB first, as `load_image` of transformers
does it: palettes and grey become three channels, transparency is left out.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats.errors import DataError, ExportError, first_line
from maskpack.formats.extras import needed_for
from maskpack.runtime.pixels import PixelRule, PixelRuleError, is_deep, turned

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
_HINT = "give the model's own `preprocessor_config.json`, as `save_pretrained` of its processor writes it"

Image = Any
"""A path, bytes of a file, a data URL, an image of Pillow, or uint8 `(h, w)` or `(h, w, 3)`."""


@dataclass(frozen=True)
class ImageRule(PixelRule):
    """How images become pixel values, from `preprocessor_config.json`: a rule that reads files, with the errors of this package."""

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
            return cls.of_tree(tree)
        except PixelRuleError as error:
            raise ExportError(f"`{PROCESSOR}` {error}", error.advice or _HINT) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ExportError(f"`{PROCESSOR}` is damaged: {error!r}", _HINT) from error

    def pixels(self, image: Image, root: Path | None = None) -> NDArray[np.uint8]:
        """An image in the size that a model reads, uint8 `(h, w, 3)`.

        Args:
            image: see `Image`.
            root: folder that a path is relative to.

        Raises:
            DataError: it is no image, or a damaged one.
            MissingPackageError: Pillow is missing.
        """
        return self.pixels_of(open_image(image, root))


def open_image(image: Image, root: Path | None = None) -> Picture:
    """An image of Pillow, upright and in RGB.

    Raises:
        DataError: it is none, or it is damaged.
        MissingPackageError: Pillow is missing.
    """
    with needed_for("reading images"):
        from PIL import Image as pillow  # noqa: N813, PLC0415 - an optional extra
    shown = name_of(image)
    try:
        if isinstance(image, np.ndarray):
            picture = pillow.fromarray(_checked_array(image))
        elif isinstance(image, pillow.Image):
            picture = image
        else:
            picture = pillow.open(_opened(image, root))
        upright = turned(picture)
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads to
        raise _unreadable(shown, error, pillow) from error
    if is_deep(picture):
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
