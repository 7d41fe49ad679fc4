"""Images with a wrong answer, small enough to stand in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.images import DATA_URL, open_image
from maskpack.runtime.outputs import softmax
from maskpack.tasks.data.splits import Split

_EDGE = 96  # pixels of the longer edge
_QUALITY = 80  # of JPEG, of 100


@dataclass(frozen=True)
class WrongImage:
    """An image whose answer is wrong.

    Attributes:
        name: file and folder of the image; of one that stands in a table the number of its row.
        true, given: its class, and the one that the task gives.
        score: probability of that.
        thumbnail: the image as JPEG with a longer edge of at most 96 pixels, as a data URL.
    """

    name: str
    true: str
    given: str
    score: float
    thumbnail: str


def wrong_images(
    split: Split, labels: NDArray[Any], logits: NDArray[np.float32], names: Sequence[str], most: int
) -> tuple[WrongImage, ...]:
    """Images with wrong answers, those first of which the task is surest.

    Args:
        split: rows of images.
        labels: of the rows, `(rows)`.
        logits: `(rows, c)`.
        names: of the classes.
        most: images at most.
    """
    shares = softmax(logits)
    given = shares.argmax(axis=1)
    wrong = np.flatnonzero(given != labels)
    surest = wrong[np.argsort(-shares[wrong, given[wrong]], kind="stable")][:most]
    return tuple(
        WrongImage(
            name=_name(split.texts[row][0], row),
            true=names[labels[row]],
            given=names[given[row]],
            score=float(shares[row, given[row]]),
            thumbnail=thumbnail(split.texts[row][0], split.root),
        )
        for row in surest.tolist()
    )


def _name(image: str, row: int) -> str:
    """What an image is called, without folders above its own.

    >>> _name("/home/me/pets/cat/1.png", 3), _name("data:image/png;base64,", 3)
    ('cat/1.png', 'row 4')
    """
    return f"row {row + 1}" if image.startswith(DATA_URL) else "/".join(Path(image).parts[-2:])


def thumbnail(image: str, root: Path | None) -> str:
    """A small JPEG of an image, as a data URL.

    Raises:
        DataError: it is no image.
    """
    picture, made = open_image(image, root), io.BytesIO()
    picture.thumbnail((_EDGE, _EDGE))
    picture.save(made, "JPEG", quality=_QUALITY)
    return f"{DATA_URL}jpeg;base64,{base64.b64encode(made.getvalue()).decode()}"
