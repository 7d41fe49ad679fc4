"""The recipe, read it first: load, quantise, mask, train, freeze, measure, write.

Each step is one call; the steps themselves are in `steps.py`, in the same order. `prepare` loads and
`write` writes; what lies between them touches no file but its checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import replace

from maskpack.compressor.learning.news import Observe
from maskpack.compressor.measure import measure
from maskpack.compressor.request import FitRequest
from maskpack.compressor.results import RunResult
from maskpack.compressor.steps import learn, prepare, write

__all__ = ["FitRequest", "fit_task"]


def fit_task(request: FitRequest, *, observe: Observe = lambda _: None) -> RunResult:
    """Learn a mask for one task over a frozen integer backbone, and write it.

    The backbone comes from the artifact at `request.out`, if there is one, or is quantised from the
    pretrained model. Its weights are frozen; scores behind the mask bits and a small head are
    trained; the scores become bits; what is measured is what is written.

    Args:
        request: what to learn, from what, and where to write it.
        observe: called after every step, for progress bars.

    Raises:
        MaskpackError: see `formats/errors.py`; what was at `request.out` before is still there.
    """
    # data, backbone, tokenizer; refuses here what cannot end well
    run = prepare(request, observe=observe)

    # scores and head, on frozen codes
    started = time.perf_counter()
    learned = learn(run, observe=observe)
    seconds = time.perf_counter() - started

    # scores of the patch as it will be read back: bits and float16
    entry, result = measure(run, learned, seconds=seconds)

    # a new artifact, or one more task in an old one
    size = write(run, entry, learned.patch)
    return replace(result, patch_bytes=size)
