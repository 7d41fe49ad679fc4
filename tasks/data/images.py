"""Rows of images: folders with a folder for each class, and tables that name files.

A row's text is a path below a folder, `Split.root`, so that moving the folder changes no row; or the image itself, as a data URL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from maskpack.formats import DataError
from maskpack.runtime.images import DATA_URL, IMAGES
from maskpack.tasks.data.cells import Row

IMAGE_COLUMNS = ("image", "label")
"""Columns of rows that are read from a folder of images."""

_TRAIN = ("train", "training")
_FURTHER = ("val",)  # of evaluation splits, beside the names that files have
_NO_DATA = {"thumbs.db", "desktop.ini", "__macosx"}
_WEB = ("http://", "https://")
_FORM = "a folder for each class, with images in it: `cat/1.png`, `dog/2.jpg`; beside each other, or in `train` and `validation`"


def is_image_folder(path: Path) -> bool:
    """Whether a folder holds folders of images; it is looked into until one is found."""
    if not path.is_dir():
        return False
    home = _split_in(path, _TRAIN) or path
    return any(_is_image(file) for folder in _folders(home) for file in _files(folder))


def is_bare_folder(path: Path) -> bool:
    """Whether a folder holds images in no folder of a class."""
    return path.is_dir() and any(_is_image(file) for file in path.iterdir())


def image_splits(folder: Path, dev: Sequence[str]) -> tuple[Path, Path | None]:
    """The folder of training classes, and that of evaluation classes if there is one.

    Args:
        folder: of the data.
        dev: names of evaluation splits; the first that is there is taken.
    """
    train = _split_in(folder, _TRAIN)
    return (folder, None) if train is None else (train, _split_in(folder, (*dev, *_FURTHER)))


def image_rows(folder: Path) -> list[Row]:
    """Path below the folder and class of each image, sorted by path.

    Raises:
        DataError: an image in no class, a class without an image, a file that is no image by its name.
    """
    loose = next((file for file in sorted(folder.iterdir()) if _is_image(file)), None)
    if loose is not None:
        raise DataError(f"`{loose.as_posix()}` lies in no folder of a class", f"expected {_FORM}")
    rows: list[Row] = []
    for home in sorted(_folders(folder)):
        paths = sorted(file.relative_to(folder).as_posix() for file in _files(home))
        odd = next((path for path in paths if not _is_image(folder / path)), None)
        if odd is not None:
            raise DataError(
                f"`{odd}` in `{folder.as_posix()}` is no image by its name",
                f"put it elsewhere; endings of images: {', '.join(IMAGES)}",
            )
        if not paths:
            raise DataError(
                f"the class `{home.name}` in `{folder.as_posix()}` has no image",
                "put images there, or remove the folder",
            )
        rows += [(path, home.name) for path in paths]
    if not rows:
        raise DataError(f"`{folder.as_posix()}` has no images", f"expected {_FORM}")
    return rows


def files_below(path: Path) -> list[Path]:
    """The images in a folder and below it, sorted; of a file that file.

    Raises:
        DataError: there is no image in the folder.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in _files(path) if _is_image(file))
    if not found:
        raise DataError(f"`{path.as_posix()}` holds no image", f"endings: {', '.join(IMAGES)}")
    return found


def path_of(image: str, root: Path) -> str:
    """Where an image of a table lies: its path is relative to a folder; a data URL stays."""
    return image if image.startswith(DATA_URL) else (root / image).as_posix()


def check_files(rows: Sequence[Row], root: Path, where: str) -> None:
    """Raise DataError, which names the row, unless each image of a table is there.

    Args:
        rows: with an image first.
        root: folder that paths are relative to.
        where: the table, in words.
    """
    for number, (image, *_) in enumerate(rows, start=1):
        if image.startswith(_WEB):
            raise DataError(
                f"data row {number} of {where} names an image of the web, `{image:.60}`",
                "fetch the images, and name the files",
            )
        if not image.startswith(DATA_URL) and not (image and (root / image).is_file()):
            raise DataError(
                f"data row {number} of {where} names the image `{image:.80}`, and there is no such file",
                f"paths are relative to `{root.as_posix()}`",
            )


def digests(rows: Sequence[tuple[str, ...]], root: Path) -> Iterator[str]:
    """SHA-256 of the bytes of each image: equal images are equal rows, whatever they are called.

    Raises:
        DataError: a file cannot be read.
    """
    for image, *_ in rows:
        if image.startswith(DATA_URL):
            yield hashlib.sha256(image.encode()).hexdigest()
            continue
        try:
            yield hashlib.sha256((root / image).read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(
                f"cannot read `{(root / image).as_posix()}`: {error.strerror}"
            ) from error


def _split_in(folder: Path, names: Sequence[str]) -> Path | None:
    """The first folder with one of these names that holds folders."""
    found = (folder / name for name in names if (folder / name).is_dir())
    return next((one for one in found if any(True for _ in _folders(one))), None)


def _folders(folder: Path) -> Iterator[Path]:
    return (one for one in folder.iterdir() if one.is_dir() and _counts(one))


def _files(folder: Path) -> Iterator[Path]:
    """Files in a folder and in those below it."""
    for one in folder.iterdir():
        if not _counts(one):
            continue
        if one.is_dir():
            yield from _files(one)
        else:
            yield one


def _counts(path: Path) -> bool:
    """Whether a file is the user's own, and not what a system puts beside it."""
    return not path.name.startswith(".") and path.name.casefold() not in _NO_DATA


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGES and _counts(path) and path.is_file()
