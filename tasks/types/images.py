"""Image classification: one label an image. A row's text is the path of an image, or the image itself as a data URL."""

from __future__ import annotations

from maskpack.models.families import IMAGES
from maskpack.tasks.types.single_label import SingleLabel


class ImageClassification(SingleLabel):
    """One of several labels for each image."""

    name = "image-classification"
    summary = "one of several labels of an image"
    pipeline_tag = "image-classification"
    auto_class = "AutoModelForImageClassification"
    preprocessor = "images"
    reads = IMAGES
    pictured = True
    texts = 1
