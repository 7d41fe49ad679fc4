"""The image processor beside a model: the file that an artifact keeps of it, and the size of what it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maskpack.formats import ModelError
from maskpack.formats.errors import first_line
from maskpack.formats.extras import needed_for
from maskpack.models.failures import waiting_for
from maskpack.models.families import INPUT_SIZE, Family, image_size_of
from maskpack.models.hub_files import file_of, reading_options
from maskpack.models.inputs import CHANNELS

PROCESSOR = "preprocessor_config.json"
_NOT_KEPT = ("processor_class", "auto_map", "_processor_class")  # of the whole that it was saved in


def load_processor(location: str, *, revision: str | None = None) -> Any:
    """Load a model's image processor, the one that computes with numpy and Pillow.

    Raises:
        ModelError: there is none beside the model, or it cannot be read.
        MissingPackageError: Pillow is missing.
    """
    with needed_for("reading images"):
        import PIL  # noqa: F401, PLC0415 - transformers gives a class that cannot be made without it
    from transformers import AutoImageProcessor  # noqa: PLC0415 - needed for images only

    if file_of(location, PROCESSOR, revision=revision) is None:
        raise ModelError(
            f"`{location}` has no `{PROCESSOR}`, which says how the model reads images",
            "save it beside the model: `AutoImageProcessor.from_pretrained(...).save_pretrained(DIR)`",
        )
    options = reading_options(location, revision)
    try:
        with waiting_for(location):
            return AutoImageProcessor.from_pretrained(
                location, use_fast=False, trust_remote_code=False, **options
            )
    except Exception as error:  # whatever a value of the wrong type leads to in transformers
        raise ModelError(
            f"`{PROCESSOR}` of `{location}` cannot be read: {first_line(error)}",
            "save it beside the model: `AutoImageProcessor.from_pretrained(...).save_pretrained(DIR)`",
        ) from error


def processor_files(processor: Any) -> dict[str, bytes]:
    """What an artifact keeps of a processor, name -> bytes: all of its settings, those with usual values too."""
    tree = {name: one for name, one in processor.to_dict().items() if name not in _NOT_KEPT}
    return {PROCESSOR: (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode()}


def settle_size(processor: Any, config: Any, family: Family, *, name: str) -> None:
    """Let a configuration name the size of the images that its model will read, in place.

    Args:
        processor: of the model.
        config: of transformers.
        family: its architecture.
        name: of the model, for an error.

    Raises:
        ModelError: the processor gives images of another size than the model has positions for, or the model reads no colours.
    """
    tree = config.to_dict()
    channels = tree.get("num_channels", CHANNELS)
    if channels != CHANNELS:
        raise ModelError(
            f"`{name}` reads images of {channels} channels, {CHANNELS} are expected",
            "give a model of coloured images; grey ones are read as such",
        )
    given = _size_given(processor)
    if given is None or given == image_size_of(tree):
        return  # what has no one size is refused by whoever reads the processor's rule
    if not family.any_size:
        high, wide = image_size_of(tree)
        raise ModelError(
            f"`{PROCESSOR}` of `{name}` gives images of {given[0]} x {given[1]} pixels, "
            f"the model reads {high} x {wide}",
            "set `size` or `crop_size` there, or `image_size` in `config.json`, as the model was trained",
        )
    setattr(config, INPUT_SIZE, list(given))


def _size_given(processor: Any) -> tuple[int, int] | None:
    """Height and width of what a processor gives; None: they differ."""
    cut = getattr(processor, "do_center_crop", False)
    size = processor.crop_size if cut else processor.size if processor.do_resize else None
    if not isinstance(size, Mapping) or not {"height", "width"} <= set(size):
        return None
    return int(size["height"]), int(size["width"])
