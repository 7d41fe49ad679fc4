"""What is done with the pixels of an image: resize, cut out the centre, rescale, normalise. numpy and Pillow alone.

Bit for bit what transformers' own processors of ViT, DeiT, BiT and CLIP do. `runtime/images.py` reads files and raises this package's errors;
a package of exported tasks gets a copy of this file, so that both give the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing import Self

    from PIL.Image import Image as Picture

_CHANNELS = 3
_LEVELS = 256
_FILTERS = range(6)  # of Pillow's `Resampling`
_DEEP = ("I", "F")  # how Pillow's modes of more than 8 bits a channel begin


class PixelRuleError(ValueError):
    """A rule that cannot be followed.

    Attributes:
        advice: what to do; None: give the file that belongs to the model.
    """

    def __init__(self, fact: str, advice: str | None = None) -> None:
        super().__init__(fact)
        self.advice = advice


@dataclass(frozen=True)
class PixelRule:
    """How an image in RGB becomes pixel values.

    Attributes:
        resize: height and width; one number: the shorter edge, the other as the image's proportions say; None: not at all.
        resample: number of Pillow's filter.
        crop: height and width of the part around the centre that stays, or of a black frame around a smaller image; None: all.
        factor: by which 0 to 255 are multiplied; None: they stay.
        mean, std: of each channel, subtracted and divided by; None: values stay.

    Raises:
        PixelRuleError: it cannot be followed.
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
            raise PixelRuleError(f"has the sizes {self.resize} and {self.crop}")
        if self.crop is None and not isinstance(self.resize, tuple):
            raise PixelRuleError(
                "leaves images in sizes of their own, and a graph has one",
                "give a `size` of `height` and `width`, or a `crop_size`",
            )
        if self.resample not in _FILTERS:
            raise PixelRuleError(f"has the filter {self.resample!r}")
        for numbers in (self.mean or (), self.std or ()):
            if len(numbers) not in {0, _CHANNELS} or not np.isfinite(numbers).all():
                raise PixelRuleError(f"has {numbers} where 3 numbers are expected")
        if 0.0 in (self.std or ()):
            raise PixelRuleError(f"divides by {self.std}")

    @classmethod
    def of_tree(cls, tree: Mapping[str, Any]) -> Self:
        """The rule of a `preprocessor_config.json` of transformers.

        Raises:
            PixelRuleError: it cannot be followed.
            ValueError, KeyError, TypeError, AttributeError: it is damaged.
        """
        return cls(
            resize=_resized(tree["size"]) if tree["do_resize"] else None,
            resample=int(tree["resample"]),
            crop=_pair(tree["crop_size"]) if tree.get("do_center_crop") else None,
            factor=float(tree["rescale_factor"]) if tree["do_rescale"] else None,
            mean=_numbers(tree["image_mean"]) if tree["do_normalize"] else None,
            std=_numbers(tree["image_std"]) if tree["do_normalize"] else None,
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what a model reads."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize

    def pixels_of(self, picture: Picture) -> NDArray[np.uint8]:
        """An image of Pillow in RGB in the size that a model reads, uint8 `(h, w, 3)`."""
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


def turned(picture: Picture) -> Picture:
    """A whole image, turned as its EXIF orientation says: of several in a file the first. Pillow's errors where the file is damaged."""
    from PIL import ImageOps  # noqa: PLC0415 - an optional extra

    picture.load()  # reads all of a file, and so finds one that is cut off
    return ImageOps.exif_transpose(picture)


def is_deep(picture: Picture) -> bool:
    """Whether an image has more than 8 bits a channel, of which RGB would keep the lowest."""
    return picture.mode.startswith(_DEEP)


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
