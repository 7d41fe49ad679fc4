"""Gram matrices of the inputs of an encoder's linears on unlabelled texts, or images.

Texts come from a file of the user or from the shipped samples; images from a file or folder of the user, or from the rows of the task that is
learned. Labels are not used, so all tasks can share a backbone that is quantised with them. `CALIBRATIONS` has a line for each of
what encoders read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from maskpack.compressor.quantization.gptq import Gram
from maskpack.compressor.quantization.layerwise import BEFORE, BEHIND, LayerwiseEncoder
from maskpack.formats import ConfigError, DataError, QuantTensor
from maskpack.formats.errors import Hint
from maskpack.models.families import IMAGES, TEXT, family_of
from maskpack.models.inputs import ATTENTION
from maskpack.models.linears import layer_of
from maskpack.models.placement import to_numpy
from maskpack.tasks.batches import Encoded, evaluation_batches, joined
from maskpack.tasks.data.images import files_below
from maskpack.tasks.data.splits import Split, load_data
from maskpack.tasks.data.text_lines import lines_in
from maskpack.tasks.preprocess import Preprocessor
from maskpack.tasks.task import TASKS

_SAMPLES = ("reviews", "tickets")
_ROWS = 20_000  # more than any quantiser uses
_TOKENS = 32_768  # behind a Gram matrix: some twenty an input of a wide layer
_LENGTH = 64
_PAIR_EVERY, _PAIR_LENGTH = 3, 128
_BATCH = 32
_IMAGES = 2_000  # are decoded at most; a Gram matrix needs less than 200 of 14 x 14 patches


def calibration_texts(path: Path | None) -> tuple[str, ...]:
    """Lines of a text file, or the sentences of the shipped samples.

    Raises:
        DataError: the file cannot be read, or holds no text.
    """
    if path is None:
        splits = [load_data(TASKS[name]).train for name in _SAMPLES]
        return tuple(row[0] for split in splits for row in split.texts)
    texts = tuple(line.strip() for line in lines_in(path) if line.strip())
    if not texts:
        raise DataError(f"the calibration text `{path}` is empty", "one sentence or more a line")
    return texts


def calibration_images(path: Path | None, rows: Split | None) -> Split:
    """Images of a file or folder, or those of a task, taken evenly from all of them in a fixed random order.

    Args:
        path: of the user.
        rows: of the task that is learned, with images first.

    Raises:
        ConfigError: neither is there.
        DataError: the folder holds no image.
    """
    if path is not None:
        rows = Split(tuple((file.as_posix(),) for file in files_below(path)), np.zeros(0))
    if rows is None or not len(rows.texts):
        raise ConfigError(
            "codes of these widths are calibrated on images, and there are none",
            Hint("give a folder of images as `calibration`"),
        )
    order = np.random.default_rng(0).permutation(len(rows.texts))[:_IMAGES]
    texts = tuple((rows.texts[index][0],) for index in order.tolist())
    return Split(texts, np.zeros(len(texts), dtype=np.int64), root=None if path else rows.root)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Texts as tokens, or images as pixels, for an encoder.

    Attributes:
        encoded: the rows, with labels that are not used.
    """

    encoded: Encoded

    @classmethod
    def of(
        cls, preprocessor: Preprocessor, texts: Iterable[str], *, pairs: bool = False
    ) -> Calibration:
        """Tokenise texts taken evenly from the whole collection, in a fixed random order.

        Args:
            preprocessor: of the encoder.
            texts: a sentence each.
            pairs: whether every third row is a text and the one after it. Without pairs and long rows, token
                types and far positions would not be calibrated.
        """
        rows = list(texts)
        order = np.random.default_rng(0).permutation(len(rows))[:_ROWS]
        paired = (np.arange(len(order)) % _PAIR_EVERY == 0) & pairs
        single = [(rows[index],) for index in order[~paired]]
        double = [(rows[index], rows[(index + 1) % len(rows)]) for index in order[paired]]
        parts = [
            preprocessor.encode(
                Split(tuple(part), np.zeros(len(part), dtype=np.int64)), max_length=length
            )
            for part, length in ((single, _LENGTH), (double, _PAIR_LENGTH))
            if part
        ]
        return cls(joined(parts))

    def first(self, tokens: int) -> Encoded:
        """The first rows, up to a total number of tokens, or all."""
        enough = int(np.searchsorted(np.cumsum(self.encoded.lengths), tokens)) + 1
        return self.encoded.take(np.arange(min(enough, len(self.encoded))))


def _of_texts(
    preprocessor: Preprocessor, path: Path | None, rows: Split | None, *, refined: bool
) -> Calibration:
    del rows  # general text serves all tasks that come to share the backbone
    return Calibration.of(preprocessor, calibration_texts(path), pairs=refined)


def _of_images(
    preprocessor: Preprocessor, path: Path | None, rows: Split | None, *, refined: bool
) -> Calibration:
    del refined
    return Calibration(preprocessor.encode(calibration_images(path, rows), max_length=1))


CALIBRATIONS: Mapping[str, Callable[..., Calibration]] = {TEXT: _of_texts, IMAGES: _of_images}
"""What an encoder reads -> function of its preprocessor, a path of the user, rows of the task that is learned, and whether codes are refined."""


def blocks_of(names: Iterable[str]) -> list[list[str]]:
    """Parameter names by encoder layer, first layer first.

    Others come first if they stand before every layer, as a projection of the embeddings, else last.

    >>> blocks_of(["project.weight", "layer.1.q.weight", "pooler.weight", "layer.0.k.weight"])
    [['project.weight'], ['layer.0.k.weight'], ['layer.1.q.weight'], ['pooler.weight']]
    """
    blocks: dict[float, list[str]] = {}
    for name in names:
        layer = layer_of(name)
        outside = float("inf") if any(index >= 0 for index in blocks) else -1.0
        blocks.setdefault(outside if layer is None else layer, []).append(name)
    return [blocks[index] for index in sorted(blocks)]


class Calibrator:
    """Computes Gram matrices block by block, with the earlier blocks already quantised.

    Quantising a block changes the inputs of the next one, whose codes should correct that error too
    (Frantar et al. 2022, section 4). Beside the inputs of a layer for all texts, the float weights of one layer are held.

    Args:
        base: the encoder.
        calibration: text, or images.
        tables: embeddings that are quantised already.
    """

    def __init__(
        self,
        base: nn.Module,
        calibration: Calibration,
        tables: Mapping[str, QuantTensor] | None = None,
    ) -> None:
        encoded, config = calibration.first(_TOKENS), cast("Any", base).config
        rows = evaluation_batches(encoded.lengths, batch_size=_BATCH)
        self._encoder = LayerwiseEncoder(base, [encoded.feeds(one) for one in rows])
        self.settle(tables or {})
        self._time_first = family_of(config.model_type).time_first

    def blocks(self, names: Iterable[str]) -> Iterator[dict[str, Gram]]:
        """For each block of `names`, parameter name -> Gram matrix; `settle` it before the next."""
        outside = BEFORE
        for block in blocks_of(names):
            layer = layer_of(block[0])
            yield self._grams(block, outside if layer is None else layer)
            outside = BEHIND

    def settle(self, tensors: Mapping[str, QuantTensor]) -> None:
        """Write the quantised weights of a block into the model."""
        self._encoder.settle(tensors)

    def _grams(self, names: Iterable[str], layer: int) -> dict[str, Gram]:
        grams: dict[str, Tensor] = {}
        present: list[Tensor | None] = []

        def watch(name: str, module: nn.Module) -> Any:
            def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                seen, here = inputs[0], present[-1]
                # inputs of a layer's linear include padding; a pooler has one row a text, and a projection of
                # relative positions no text at all
                by_token = here is not None and seen.shape[:2] == here.shape
                rows = seen[here] if by_token else seen.flatten(0, -2)
                grams[name] = grams[name].addmm_(rows.T, rows) if name in grams else rows.T @ rows

            return module.register_forward_pre_hook(note)

        def begin(feeds: dict[str, Tensor]) -> None:
            here = (
                feeds[ATTENTION].bool() if ATTENTION in feeds else None
            )  # patches are never padding
            present.append(here.T if here is not None and self._time_first else here)

        self._encoder.advance(layer)
        model = self._encoder.model
        hooks = [watch(name, model.get_submodule(name.removesuffix(".weight"))) for name in names]
        try:
            self._encoder.run(layer, begin)
        finally:
            for hook in hooks:
                hook.remove()
        return {name: to_numpy(gram) for name, gram in grams.items()}
