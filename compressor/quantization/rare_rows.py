"""Token embeddings whose frequent rows have 4 bits and whose rare rows have 2.

A row that texts rarely need adds little to the error of their embeddings, and most rows of a vocabulary are of that kind. The calibration
text says which: rows go by how often their tokens occur, those that do not occur by their number, because vocabularies are roughly in the
order of frequency. How many rows are wide is decided on text that their order has not seen: as few as keep the expected error at or
below that of 3 bits everywhere. Both halves of the calibration text take a turn.

An error in a frequent token counts less than its number of occurrences says, because a text says little by it. A token of probability `p`
has the weight `a / (a + p)`, with `a` = 1e-3 (SIF, Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline for sentence embeddings",
where it weights vectors of words). With these weights the errors of rows predict those of hidden states (docs/RESULTS.md, "Rows of two
widths"); with occurrences alone a few hundred rows would seem to be enough, and the states would be half as good.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from maskpack.compressor.quantization.calibration import Calibration
from maskpack.compressor.quantization.rounding import quantize_mse
from maskpack.formats import QuantTensor
from maskpack.formats.bits import RARE_BITS
from maskpack.formats.mixed_rows import MixedRows
from maskpack.models.inputs import ATTENTION
from maskpack.tasks.batches import EVAL_BATCH, evaluation_batches
from maskpack.tasks.preprocess import Preprocessor

FREQUENT_BITS = 4
_AS_GOOD_AS = 3
_SIF = 1e-3


def token_counts(preprocessor: Preprocessor, texts: Sequence[str], rows: int) -> NDArray[np.int64]:
    """How often each token occurs in the first and in the second half of some texts, `(2, rows)`.

    The halves are as unlike as parts of the text are: lines that are dealt to them in turn would be of the same documents.
    """
    counts = np.zeros((2, rows), dtype=np.int64)
    middle = len(texts) // 2
    for half, own in enumerate((texts[:middle], texts[middle:])):
        if not own:
            continue
        encoded = Calibration.of(preprocessor, own).encoded
        for batch in evaluation_batches(encoded.lengths, batch_size=EVAL_BATCH):
            feeds = encoded.feeds(batch)
            ids = feeds["input_ids"][feeds[ATTENTION] == 1]
            counts[half] += np.bincount(ids, minlength=rows)[:rows]
    return counts


def frequent_rows(
    weight: NDArray[np.float32], counts: NDArray[np.int64], special: Collection[int]
) -> NDArray[np.bool_]:
    """Which rows of a table get 4 bits, `(o,)`; the others get 2.

    Args:
        weight: the table, `(o, i)`.
        counts: of `token_counts`, `(2, o)`.
        special: tokens that no text says and models read, such as a mask: their rows are wide.
    """
    seen = np.flatnonzero(counts.sum(axis=0))
    widths = FREQUENT_BITS, _AS_GOOD_AS, RARE_BITS
    errors = np.stack([_row_errors(weight[seen], bits) for bits in widths])
    both = counts[:, seen].sum(axis=0)
    errors *= _SIF / (_SIF + both / max(1, both.sum()))
    needed = [
        _fewest(_order(counts[one]), seen, counts[other][seen] * errors)
        for one, other in ((0, 1), (1, 0))
    ]
    chosen = np.zeros(len(weight), dtype=np.bool_)
    chosen[_order(counts.sum(axis=0))[: max(needed)]] = True
    chosen[[token for token in special if token < len(weight)]] = True
    return chosen


def _order(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows, the most frequent first; of the same frequency the lower number first.

    >>> _order(np.array([0, 2, 0, 5])).tolist()
    [3, 1, 0, 2]
    """
    return np.argsort(-counts, kind="stable")


def _row_errors(weight: NDArray[np.float32], bits: int) -> NDArray[np.float64]:
    """Squared error of each row at this width."""
    if not len(weight):
        return np.zeros(0)
    lost = quantize_mse(weight, bits, None).dequantize() - weight
    return np.asarray(np.square(lost, dtype=np.float64).sum(axis=1))


def _fewest(order: NDArray[np.int64], seen: NDArray[np.int64], errors: NDArray[np.float64]) -> int:
    """How many rows of an order must be wide for the error of a text to be at most that of the middle width.

    Args:
        order: all rows.
        seen: the rows that have errors, `(n,)`.
        errors: of these in the text, where they are wide, of the middle width, and rare: `(3, n)`.
    """
    wide, middle, rare = errors
    gains = np.zeros(len(order))
    gains[seen] = rare - wide
    needed = (rare - middle).sum()
    return int(np.searchsorted(np.maximum.accumulate(np.cumsum(gains[order])), needed)) + 1


def quantize_rows(
    weight: NDArray[np.float32],
    frequent: NDArray[np.bool_],
    bits: int,
    keep: Callable[[QuantTensor], QuantTensor],
) -> QuantTensor:
    """A table of which some rows have codes of `bits` bits and the others of 2; of one width if all rows are of one kind.

    Args:
        weight: `(o, i)`; not modified.
        frequent: bool `(o,)`, the wide rows.
        bits: of these.
        keep: how codes are held.
    """
    if frequent.all() or not frequent.any():
        return keep(quantize_mse(weight, bits if frequent.all() else RARE_BITS, None))
    wide = quantize_mse(weight[frequent], bits, None)
    rare = quantize_mse(weight[~frequent], RARE_BITS, None)
    kind = np.result_type(wide.scales, rare.scales)  # scales that float16 cannot hold are float32
    wide, rare = (
        QuantTensor(one.codes, one.scales.astype(kind), one.bits, one.group, one.zero_free)
        for one in (wide, rare)
    )
    return MixedRows(keep(wide), keep(rare), frequent)
