"""Whether two sides of a comparison number tokens alike. Logits of other numbers are logits of another text, and look like any others."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from maskpack.formats import Artifact, ExportError, ModelError, VerifyError
from maskpack.formats.errors import Hint
from maskpack.formats.files import scratch_folder
from maskpack.models.load import load_tokenizer
from maskpack.models.locate import resolve
from maskpack.models.tokenizer_files import shipped_tokenizer
from maskpack.runtime.task import TaskFiles
from maskpack.runtime.tokens import load_tokenizer as load_shipped
from maskpack.tasks.trim_alike import trim_alike

_LOG = logging.getLogger(__name__)

_SMALLER = Hint("make it smaller with the same texts, and compare with that")


@contextmanager
def with_tokens_of(files: TaskFiles | None, artifact: Artifact, task: str) -> Iterator[Artifact]:
    """The artifact that an exported task is compared with: it, or for as long as that takes one with the tokens of a graph that has fewer.

    Args:
        files: of the exported task; None: a graph alone, which has the artifact's tokens.
        artifact: where it came from.
        task: its name.

    Raises:
        VerifyError: a tokenizer that was not made from the artifact's.
    """
    own = shipped_tokenizer({name: artifact.file(name) for name in artifact.manifest.files})
    shipped = None if files is None or not files.tokenizer.is_file() else _vocabulary(files)
    if own is None or shipped is None or len(shipped) >= own.get_vocab_size():
        yield artifact
        return
    with scratch_folder() as folder:
        try:
            fewer = trim_alike(artifact, task, shipped, Path(folder) / artifact.path.name)
        except ModelError as error:
            raise VerifyError(str(error), error.advice) from error
        _LOG.info(
            "the graph has %s of %s tokens: it is compared with the artifact's task with these",
            *(f"{len(shipped):,}", f"{own.get_vocab_size():,}"),
        )
        yield fewer


def check_numbers_of_artifact(files: TaskFiles, artifact: Artifact) -> None:
    """Refuse an artifact whose numbers of tokens are not those of an exported task.

    Raises:
        ExportError: they are others.
    """
    names = artifact.manifest.files
    own = shipped_tokenizer({name: artifact.file(name) for name in names})
    if own is not None and files.tokenizer.is_file():
        _check(_vocabulary(files), own.get_vocab(), artifact.path.name)


def check_numbers_of_model(files: TaskFiles, model: str) -> None:
    """Refuse a model, folder or hub id, whose numbers of tokens are not those of an exported task.

    A model without a tokenizer, of which nobody can know, passes.

    Raises:
        ExportError: they are others.
    """
    if files.tokenizer.is_file():
        _check_model(_vocabulary(files), model)


def check_numbers_of_source(model: str, artifact: Artifact) -> None:
    """The same before a graph of an artifact is made, whose tokenizer it gets."""
    names = artifact.manifest.files
    own = shipped_tokenizer({name: artifact.file(name) for name in names})
    if own is not None:
        _check_model(own.get_vocab(), model)


def _check_model(shipped: Mapping[str, int], model: str) -> None:
    try:
        theirs = load_tokenizer(resolve(model)).get_vocab()
    except ModelError:
        return
    _check(shipped, theirs, model)


def _vocabulary(files: TaskFiles) -> Mapping[str, int]:
    found: Mapping[str, int] = load_shipped(files.tokenizer).get_vocab()
    return found


def moved_tokens(shipped: Mapping[str, int], theirs: Mapping[str, int]) -> int:
    """How many tokens of both have another number there; arguments: token -> number.

    >>> moved_tokens({"[CLS]": 0, "film": 1}, {"[CLS]": 0, "a": 1, "film": 2})
    1
    """
    return sum(theirs.get(token, number) != number for token, number in shipped.items())


def _check(shipped: Mapping[str, int], theirs: Mapping[str, int], name: str) -> None:
    if moved := moved_tokens(shipped, theirs):
        raise ExportError(
            f"`{name}` gives other numbers to {moved:,} of the {len(shipped):,} tokens of the graph",
            _SMALLER,
        )
