"""Labels of rows as a device reads them: where words begin, or of windows. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskpack.runtime.task import TaskConfig
from maskpack.runtime.tokens import Tokens
from maskpack.runtime.windows import Window
from maskpack.tasks.data.splits import Split
from maskpack.tasks.types.entities import tags_on_tokens
from maskpack.tasks.windows import WindowRule, labels_of


def labels_on(rows: Sequence[Tokens], split: Split, config: TaskConfig) -> NDArray[Any]:
    """Labels of outputs for each token, as training has them.

    Args:
        rows: of tokens; a row of the split may be several windows.
        split: the texts.
        config: of the task.
    """
    if config.mask is not None:  # they follow from the tokens
        return np.zeros(len(rows), dtype=np.int64)
    if not config.decoder.windows:
        return _tags(rows, split, config.max_length)
    windows: list[list[Window]] = [[] for _ in split.texts]
    for one in rows:
        assert one.window is not None
        windows[one.row].append(one.window)
    contexts = [row[1] for row in split.texts]
    return labels_of(split.labels, contexts, windows, WindowRule(config.stride, config.no_answer))


def _tags(rows: Sequence[Tokens], split: Split, max_length: int) -> NDArray[np.int64]:
    """Numbers of tags of each text; of texts in windows, each of which knows the words of its text, those of the texts' own tokens."""
    texts = [*{one.row: one for one in rows}.values()]  # the last window of each
    lengths = (max_length if one.window is None else one.window.stop for one in texts)
    return tags_on_tokens(split.labels, texts, split.texts, max(1, *lengths))
