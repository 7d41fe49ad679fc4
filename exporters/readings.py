"""The first part of a verdict: what is shipped reads rows as training does. One line in `READINGS` for each kind of rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from maskpack.exporters.report import TextCheck
from maskpack.exporters.texts import Reading, read_texts
from maskpack.formats import ExportError, TaskEntry
from maskpack.models.families import IMAGES, TEXT
from maskpack.models.image_files import load_processor
from maskpack.models.inputs import PIXELS
from maskpack.runtime.images import ImageRule
from maskpack.runtime.task import TaskFiles
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split
from maskpack.tasks.encoded import Encoded
from maskpack.tasks.evaluation.evaluate import encode_for
from maskpack.tasks.images import EncodedImages, sample_images
from maskpack.tasks.types import type_of

_PROBES = ((1, 1), (2, 5), (7, 3), (64, 48), (48, 64), (300, 211), (512, 512))
"""Height and width of the images on which a processor of transformers and our own reading are compared."""


def read_images(
    context: ModelContext,
    entry: TaskEntry,
    files: TaskFiles,
    split: Split | None,
    training: Encoded | None,
) -> Reading:
    """Compare the file that is shipped with the one of training, and what it does with what transformers does by it; arguments as of `Compare`.

    Raises:
        ExportError: the file or the configuration cannot be read.
    """
    del context
    config = files.read_config()
    if (config.kind, config.labels) != (entry.kind, entry.labels):
        return Reading.of_another(training, files, entry)
    try:
        rule = ImageRule.of_json(files.processor.read_bytes())
    except OSError as error:
        raise ExportError(f"cannot read `{files.processor}`: {error.strerror}") from error
    findings = list(_differences(rule, files))
    if training is not None:
        assert isinstance(training, EncodedImages)
        if rule != training.rule:
            findings.append(f"`{files.processor.name}` reads images otherwise than training did")
    count = 0 if split is None else len(split)
    check = TextCheck(count, len(_PROBES), not findings)
    return Reading(check, tuple(findings), training, training)


def _differences(rule: ImageRule, files: TaskFiles) -> list[str]:
    """Sizes of images of which transformers makes other values by the same file."""
    processor = load_processor(str(files.processor.parent))
    findings = []
    for height, width in _PROBES:
        (pixels,) = sample_images(1, height, width)
        options = {"return_tensors": "np", "input_data_format": "channels_last"}
        wanted = processor(pixels, **options)[PIXELS]
        found = rule.values(rule.pixels(pixels)[None])
        if not np.array_equal(found, wanted):
            findings.append(
                f"an image of {height} x {width} pixels is read otherwise than transformers reads it"
            )
    return findings


Compare = Callable[[ModelContext, TaskEntry, TaskFiles, Split | None, Encoded | None], Reading]
"""The encoder of an artifact, the entry of a task, its exported files, the evaluation rows, and those as training reads them -> what was found."""

READINGS: dict[str, Compare] = {TEXT: read_texts, IMAGES: read_images}
"""What devices read, as of `OutputDecoder.reads` -> function that compares it with what training reads."""


def read_rows(
    context: ModelContext, entry: TaskEntry, files: TaskFiles | None, split: Split | None
) -> Reading:
    """Compare what a device reads with what training reads.

    Args:
        context: of the artifact's encoder.
        entry: of the task in the manifest.
        files: of the exported task; None: a graph alone, which reads nothing itself.
        split: the evaluation rows, or None.

    Raises:
        ExportError: a file of the task cannot be read.
    """
    training = None if split is None else encode_for(context, entry, split)
    if files is None:
        return Reading.of_training(training)
    return READINGS[type_of(entry).decoder.reads](context, entry, files, split, training)
