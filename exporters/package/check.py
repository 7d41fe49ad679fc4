"""Whether a package answers as what it was made from, and holds what its checksums say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from maskpack.exporters.package.source import Source
from maskpack.exporters.package.target import Target
from maskpack.exporters.session import ort_predict
from maskpack.exporters.timing import Feeds
from maskpack.formats import ExportError, VerifyError
from maskpack.formats.digest import file_sha256

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""What the examples feed; a graph that asks for more is none of theirs."""

LARGEST_DIFFERENCE = 1e-5
"""Of a logit, between a packaged graph and the one it was made from."""

_SHAPES = (
    (1, 1),
    (1, 7),
    (3, 33),
    (2, 128),
)  # rows, tokens; each row is a token shorter than the last

Logits = list[NDArray[np.float32]]


def check_graph(session: Any, source: Source, target: Target) -> None:
    """Raise ExportError unless the examples can feed a graph and find its answer."""
    names = {value.name for value in session.get_inputs()}
    more = names - set(INPUTS)
    if source.place.adapter is None or target is not Target.ORT:
        more |= {value.name for value in session.get_overridable_initializers()}
    if more:
        raise ExportError(
            f"`{source.place.graph.name}` takes `{min(more)}` as an input, packages for {target} are "
            "of graphs that take tokens alone",
            "export with `--layout folded` or `--layout shared`",
        )
    if "logits" not in {value.name for value in session.get_outputs()}:
        raise ExportError(f"`{source.place.graph.name}` has no output `logits`")


def probes(source: Source) -> list[Feeds]:
    """Random tokens of a task, padded, within what its texts are cut to: the same in every call.

    Raises:
        ExportError: its tokenizer cannot be loaded.
    """
    try:
        tokenizer = Tokenizer.from_file(str(source.place.tokenizer))
    except Exception as error:  # the library raises bare `Exception`
        raise ExportError(f"cannot load `{source.place.tokenizer}`: {error}") from error
    rng, vocabulary = np.random.default_rng(0), tokenizer.get_vocab_size()
    found = []
    for rows, width in _SHAPES:
        size = min(width, source.card.max_length)
        ids = rng.integers(0, vocabulary, (rows, size), dtype=np.int64)
        kept = np.maximum(size - np.arange(rows), 1)[:, None]
        attention = (np.arange(size) < kept).astype(np.int64)
        ids[attention == 0] = source.card.pad[0]
        types = rng.integers(0, 2, ids.shape, dtype=np.int64) * attention
        found.append(dict(zip(INPUTS, (ids, attention, types), strict=True)))
    return found


def answers(session: Any, source: Source) -> Logits:
    """Logits of a graph on the probes of its task."""
    return [ort_predict(session)(feeds) for feeds in probes(source)]


def judge(wanted: Logits, found: Logits, task: str) -> float:
    """The largest difference of a logit.

    Raises:
        VerifyError: it is larger than a package may have, or no number.
    """
    pairs = zip(wanted, found, strict=True)
    largest = max(float(np.abs(first - second).max()) for first, second in pairs)
    if not largest <= LARGEST_DIFFERENCE:
        raise VerifyError(
            f"the packaged graph of `{task}` is off by {largest:.2g}, at most {LARGEST_DIFFERENCE} "
            "is allowed"
        )
    return largest


def read_checksums(text: str) -> dict[str, str]:
    """Name -> SHA-256 of a file in the form of `sha256sum`."""
    return {line[66:]: line[:64] for line in text.splitlines()}


def check_files(folder: Path, checksums: str) -> None:
    """Raise VerifyError unless the files on disk are those that the checksums name.

    Args:
        folder: of the package.
        checksums: name of the file with them.
    """
    wanted = read_checksums((folder / checksums).read_text(encoding="utf-8"))
    compare(wanted, folder_digests(folder), checksums)


def folder_digests(folder: Path) -> dict[str, str]:
    """Name of a file inside a folder -> SHA-256, in the order of the names."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    return {name: file_sha256(folder / name) for name in names}


def compare(wanted: dict[str, str], found: dict[str, str], checksums: str) -> None:
    """Raise VerifyError unless all files but that of the checksums are those that it names."""
    found = {name: digest for name, digest in found.items() if name != checksums}
    wrong = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if wrong:
        raise VerifyError(f"`{wrong[0]}` is not what `{checksums}` says", "is the disk full?")
