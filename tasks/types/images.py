"""Tasks on images: one label an image, any number of them, or a number. A row's text is the path of an image, or the image itself as a data URL."""

from __future__ import annotations

from typing import ClassVar

from maskpack.models.families import IMAGES
from maskpack.tasks.types.base import TaskType
from maskpack.tasks.types.multi_label import MultiLabel
from maskpack.tasks.types.regression import Regression
from maskpack.tasks.types.single_label import SingleLabel


class OfImages(TaskType):
    """A type whose rows are images."""

    pipeline_tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    preprocessor = "images"
    reads = IMAGES
    texts: ClassVar[int | None] = 1


class ImageClassification(OfImages, SingleLabel):
    """One of several labels for each image."""

    name = "image-classification"
    summary = "one of several labels of an image"
    pictured = True


class ImageMultiLabel(OfImages, MultiLabel):
    """Any number of labels for each image."""

    name = "image-multi-label"
    summary = "any number of labels of an image"


class ImageRegression(OfImages, Regression):
    """A number for each image."""

    name = "image-regression"
    summary = "a number of an image"
