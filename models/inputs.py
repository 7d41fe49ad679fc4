"""What encoders read: tokens of texts, or pixels of images. A dict is the registry; `Family.reads` names the entry.

An entry says which class loads an encoder, and what the inputs of a graph are: names, axes, an example for the tracer, and
inputs of random values, on which a graph is compared with torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maskpack.models.families import IMAGES, TEXT, Family, image_size_of

Arrays = dict[str, NDArray[Any]]
"""Name of an input -> its values."""

BatchShape = tuple[int, int, bool]
"""Rows of a batch, tokens of a row, and whether there is padding."""

BATCH, SEQUENCE = "batch", "sequence"
"""Names of axes that differ from run to run."""

PIXELS, ATTENTION = "pixel_values", "attention_mask"
CHANNELS = 3


class ModelInputs(ABC):
    """What encoders of one kind read.

    Attributes:
        auto_class: class of transformers that loads an encoder inside a classifier.
        element: type of a graph's inputs, as ONNX Runtime spells it.
    """

    auto_class: ClassVar[str]
    element: ClassVar[str]

    @abstractmethod
    def axes(self, family: Family, config: Mapping[str, Any]) -> dict[str, list[str | int]]:
        """Name of each input of a graph, in order -> its axes.

        Args:
            family: the architecture.
            config: of the model.
        """

    @abstractmethod
    def example(self, family: Family, config: Mapping[str, Any]) -> tuple[NDArray[Any], ...]:
        """Inputs for a tracer, in the order of `axes`: two rows or more, since an axis of one would become constant."""

    @abstractmethod
    def shapes(
        self, family: Family, config: Mapping[str, Any], wanted: Sequence[BatchShape]
    ) -> tuple[BatchShape, ...]:
        """Those of some shapes that a model can read, each as near as it can."""

    @abstractmethod
    def random(self, family: Family, config: Mapping[str, Any], shape: BatchShape) -> Arrays:
        """Random inputs of one shape, the same in every run."""


class Tokens(ModelInputs):
    """Token ids of texts, padded."""

    auto_class = "AutoModelForSequenceClassification"
    element = "tensor(int64)"

    def axes(self, family: Family, config: Mapping[str, Any]) -> dict[str, list[str | int]]:
        """`(batch, sequence)` of each."""
        names = ["input_ids", ATTENTION]
        names += ["token_type_ids"] if family.token_kinds(config) else []
        return {name: [BATCH, SEQUENCE] for name in names}

    def example(self, family: Family, config: Mapping[str, Any]) -> tuple[NDArray[Any], ...]:
        """Two rows of five tokens, one of them with padding."""
        ids = np.array([[5, 6, 7, 8, 9], [5, 6, 7, 1, 1]])
        attention = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
        return (ids, attention, np.zeros_like(ids))[: len(self.axes(family, config))]

    def shapes(
        self, family: Family, config: Mapping[str, Any], wanted: Sequence[BatchShape]
    ) -> tuple[BatchShape, ...]:
        """All of them, with no more tokens than the model has positions for."""
        longest = family.longest_input(config)
        return tuple((batch, min(length, longest), padded) for batch, length, padded in wanted)

    def random(self, family: Family, config: Mapping[str, Any], shape: BatchShape) -> Arrays:
        """Random tokens, int64 `(b, s)`."""
        batch, sequence, padded = shape
        rng = np.random.default_rng([batch, sequence])
        pad, vocabulary = int(config.get("pad_token_id") or 0), int(config["vocab_size"])
        ids = rng.integers(0, vocabulary, (batch, sequence), dtype=np.int64)
        ids[ids == pad] = (pad + 1) % vocabulary
        attention = np.ones_like(ids)
        if padded:
            left = family.pad_left
            for row in range(1, batch):
                gap = row * sequence // (batch + 1)
                attention[row, slice(gap) if left else slice(sequence - gap, None)] = 0
            ids[attention == 0] = pad
        feeds: Arrays = {"input_ids": ids, ATTENTION: attention}
        if kinds := family.token_kinds(config):
            feeds["token_type_ids"] = attention * rng.integers(0, kinds, ids.shape)
        return feeds


class Pixels(ModelInputs):
    """Values of the pixels of images, all of one size."""

    auto_class = "AutoModelForImageClassification"
    element = "tensor(float)"

    def axes(self, family: Family, config: Mapping[str, Any]) -> dict[str, list[str | int]]:
        """`(batch, 3, h, w)`."""
        del family
        return {PIXELS: [BATCH, CHANNELS, *image_size_of(config)]}

    def example(self, family: Family, config: Mapping[str, Any]) -> tuple[NDArray[Any], ...]:
        """Two images."""
        return (self.random(family, config, (2, 0, False))[PIXELS],)

    def shapes(
        self, family: Family, config: Mapping[str, Any], wanted: Sequence[BatchShape]
    ) -> tuple[BatchShape, ...]:
        """One of each number of images: their size is the model's."""
        tokens = family.longest_input(config)
        return tuple((batch, tokens, False) for batch in dict.fromkeys(one[0] for one in wanted))

    def random(self, family: Family, config: Mapping[str, Any], shape: BatchShape) -> Arrays:
        """Images of noise, float32 `(b, 3, h, w)`, of about the size of normalised values; see `smooth_noise`."""
        del family
        rng = np.random.default_rng([shape[0], shape[1]])
        return {PIXELS: smooth_noise(rng, shape[0], *image_size_of(config))}


def smooth_noise(
    rng: np.random.Generator, count: int, height: int, width: int
) -> NDArray[np.float32]:
    """Images of coloured noise whose amplitudes fall with their frequency f as 1 / f, float32 `(count, 3, h, w)`.

    Amplitudes of photographs fall so (Field 1987, J. Opt. Soc. Am. A 4, 2379): what is smooth and what is fine have the weights in
    them that they have there, and channels are alike. Each channel of an image has mean 0 and deviation 1.
    """
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    falls = 1.0 / np.maximum(frequency, 1.0 / max(height, width))
    noise = rng.standard_normal((count, CHANNELS, height, width))
    noise += rng.standard_normal((count, 1, height, width))
    smooth = np.fft.ifft2(np.fft.fft2(noise) * falls).real
    smooth -= smooth.mean(axis=(2, 3), keepdims=True)
    deviation = np.maximum(smooth.std(axis=(2, 3), keepdims=True), 1e-9)  # of one pixel it is 0
    return np.asarray(smooth / deviation, dtype=np.float32)


INPUTS: dict[str, ModelInputs] = {TEXT: Tokens(), IMAGES: Pixels()}
"""What encoders read -> the entry."""


def inputs_of(family: Family) -> ModelInputs:
    """What an architecture reads."""
    return INPUTS[family.reads]
