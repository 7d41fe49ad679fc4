"""Tokens of a split. Rows that stand in a cache get theirs there too, page by page, and once for all runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, cast

import numpy as np

from maskpack.formats.waiting import Counted
from maskpack.tasks.batches import Encoded, EncodedTokens, joined
from maskpack.tasks.data import stored_rows
from maskpack.tasks.data.cache import Recipe
from maskpack.tasks.data.splits import Split
from maskpack.tasks.data.stored_rows import StoredRows
from maskpack.tasks.preprocess import Preprocessor
from maskpack.tasks.token_rows import TokenRows

_LOG = logging.getLogger(__name__)
_SAMPLE = 256  # rows that tell how long the others are
_IDS, _TYPES = "ids", "types"


def encode_split(
    preprocessor: Preprocessor,
    split: Split,
    *,
    max_length: int,
    files: Mapping[str, bytes],
    prefixes: Sequence[str],
) -> Encoded:
    """A split as tokens.

    Args:
        preprocessor: makes them.
        split: texts with what stands before them.
        max_length: tokens a row is cut to.
        files: that the preprocessor was made from.
        prefixes: what stands before the texts.

    Raises:
        DataError: a row cannot be read, or the cache cannot be written.
    """

    def encode(some: Split) -> Encoded:
        return preprocessor.encode(some, max_length=max_length)

    def tokens(some: Split) -> EncodedTokens:
        return cast("EncodedTokens", encode(some))  # labels stay only where rows become tokens

    rows = split.texts
    if not isinstance(rows, StoredRows) or not preprocessor.keeps_labels or split.windows.texts:
        if len(split) <= stored_rows.PAGE or not preprocessor.by_pages:
            return encode(split)
        return cast("Encoded", joined([*map(encode, split.pages())]))
    of = {"rows": rows.key, "prefixes": list(prefixes), "max_length": max_length}
    of |= _made_by(preprocessor, files)
    table = rows.table.cache.table(_recipe(split, of, tokens))
    ids, types = (_mapped(table, name) for name in (_IDS, _TYPES))
    assert ids is not None
    return EncodedTokens(ids, types, split.labels, preprocessor.pad[0], preprocessor.pad_left)


def _recipe(
    split: Split, of: Mapping[str, Any], encode: Callable[[Split], EncodedTokens]
) -> Recipe:
    """How the table of a split's tokens is made, from all that decides what stands in it."""
    what = f"the tokens of {len(split):,} rows"
    return Recipe(
        kind="tokens",
        what=what,
        of=of,
        pages=lambda: _pages(split, encode, what),
        size=lambda: _size(split, encode),
    )


def _made_by(preprocessor: Preprocessor, files: Mapping[str, bytes]) -> dict[str, Any]:
    """What decides how a preprocessor reads a text, as JSON has it."""
    own = type(preprocessor)
    return {
        "preprocessor": f"{own.__module__}.{own.__qualname__}",
        "files": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)},
        "packages": {name: version(name) for name in ("tokenizers", "transformers")},
    }


def _pages(split: Split, encode: Callable[[Split], EncodedTokens], what: str) -> Iterator[Any]:
    """Tokens as record batches."""
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    counted = Counted(_LOG, f"cutting rows to tokens, for {what}", len(split))
    for page in split.pages():
        made = encode(page)
        columns = {_IDS: _lists(made.ids, pa.int32())}
        if made.types is not None:
            columns[_TYPES] = _lists(made.types, pa.uint8())
        yield pa.record_batch(columns)
        counted.add(len(page))


def _lists(rows: TokenRows, kind: Any) -> Any:
    """Rows as a list array. Inverse of `_mapped`."""
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    ends = np.concatenate([[0], np.cumsum(rows.lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(rows.flat()).cast(kind))


def _mapped(table: Any, name: str) -> TokenRows | None:
    """A column of lists as rows that are not copied; None: there is no such column."""
    if name not in table.column_names:
        return None
    chunks = table.column(name).chunks
    parts = [chunk.values.to_numpy(zero_copy_only=True) for chunk in chunks]
    return TokenRows.of_flat(
        parts, [np.diff(chunk.offsets.to_numpy()).astype(np.int64) for chunk in chunks]
    )


def _size(split: Split, encode: Callable[[Split], EncodedTokens]) -> int:
    """Bytes of all tokens, from those of some rows."""
    some = split.take(np.linspace(0, len(split) - 1, min(_SAMPLE, len(split))).astype(np.intp))
    made = encode(replace(some, texts=tuple(some.texts)))
    each = 4 if made.types is None else 5
    return int(made.lengths.mean() * each + 8) * len(split)
