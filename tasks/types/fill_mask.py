"""Filling masks: which token stands where the mask token does. A text is its own label.

What a model learns are tokens of a text that are hidden from it (`runtime/cloze.py`), others in every epoch:

    loss = mean over hidden tokens of -log p(token)

Labels are the tokens on which metrics are measured, int32 `(rows, k, 3)`: place, right token, token that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.formats import ConfigError, DataError
from maskpack.runtime.cloze import unigram
from maskpack.tasks.data.cells import NO_LABEL
from maskpack.tasks.types.base import WithoutLabels
from maskpack.tasks.types.single_label import CrossEntropy


class FillMask(WithoutLabels, CrossEntropy):
    """Tokens that fill masks; losses are those of one label, of each hidden token."""

    name = "fill-mask"
    summary = "the token where a mask stands, learned from texts without labels"
    problem_type = None
    usual_metrics = ("perplexity", "masked_accuracy")
    pipeline_tag = "fill-mask"
    auto_class = "AutoModelForMaskedLM"
    preprocessor = "cloze"
    texts = 1
    own_label = True

    def label_column(self, label: str | None, texts: Sequence[str | None]) -> str | None:
        """The column of the text."""
        if label not in {None, texts[0]}:
            raise ConfigError(
                f"a text is its own label in a {self.name} task, and `label_field` is `{label}`",
                "leave `label_field` out",
            )
        return texts[0]

    def lacks_label(self, cell: str) -> bool:
        """Whether there is no text; `none` is one."""
        return cell == NO_LABEL or not cell.strip()

    def check_cell(self, cell: str, row: str, column: str) -> str:
        """The text."""
        if self.lacks_label(cell):
            raise DataError(
                f"{row} has no text in `{column}`",
                "leave the row out, or learn with `unlabelled` skip",
            )
        return cell

    def encode(
        self, cells: Sequence[str], names: Sequence[str], separator: str | None, split: str
    ) -> NDArray[Any]:
        """Nothing is known of a row before it is cut to tokens: zeros `(rows)`."""
        del names, separator, split
        return np.zeros(len(cells), dtype=np.int64)

    def places(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the `k` hidden tokens each row has, `(rows, k)`: as many in every epoch."""
        return np.asarray(labels[:, :, 0] >= 0)

    def answers(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """What is known of the hidden tokens, `(rows, k, 3)`; see `runtime.cloze.reduced`."""
        return logits

    def measured(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of the right tokens: of a model that is sure of them logarithms of probabilities are near 0."""
        return logits[..., 2]

    def answered(self, logits: NDArray[np.float32], labels: NDArray[Any]) -> NDArray[Any]:
        """The same of the hidden tokens alone, `(n, 3)`."""
        return logits[self.places(labels)]

    def right(self, labels: NDArray[Any]) -> NDArray[Any]:
        """The hidden tokens `(n)`."""
        return np.asarray(labels[self.places(labels)][:, 1])

    def constants(self, labels: NDArray[Any]) -> list[NDArray[Any]]:
        """The answer that knows how often each token is, and no text."""
        return [unigram(self.right(labels))]
