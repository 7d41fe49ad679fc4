"""The first part of a verdict: the files that are shipped read texts as training does.

Graphs are compared on tokens. Without this a device that cuts texts on the other side would answer at chance, and
every graph would be within its tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from maskpack.exporters.report import TextCheck
from maskpack.formats import TaskEntry
from maskpack.models.tokenizer_files import shipped_tokenizer
from maskpack.runtime.readers import text_reader
from maskpack.runtime.task import TaskFiles
from maskpack.runtime.tokens import TextReader, load_tokenizer
from maskpack.tasks.batches import Encoded, EncodedGroups, EncodedTokens
from maskpack.tasks.cloze import EncodedCloze
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import encode_for, prefixes_of, texts_of
from maskpack.tasks.pieces import EncodedPieces, EncodedTokenPieces
from maskpack.tasks.preprocess import READERS
from maskpack.tasks.probes import difference_of, encoded_by, first_difference, probe_rows
from maskpack.tasks.types import type_of
from maskpack.tasks.types.vectors import grouped_texts


@dataclass(frozen=True, eq=False)
class Reading:
    """What texts became.

    Attributes:
        check: for the report; None where devices have no reader for the task, or no files were given.
        findings: what is wrong.
        device, training: the evaluation rows as either side reads them; None without evaluation rows.
    """

    check: TextCheck | None
    findings: tuple[str, ...]
    device: Encoded | None
    training: Encoded | None

    @classmethod
    def of_training(cls, training: Encoded | None, *findings: str) -> Reading:
        """The rows as training reads them, where no device is looked at."""
        return cls(None, findings, training, training)

    @classmethod
    def of_another(cls, training: Encoded | None, files: TaskFiles, entry: TaskEntry) -> Reading:
        """The same where the files describe another task than that of the artifact."""
        told = f"`{files.config.name}` describes another task than `{entry.name}` of the artifact"
        return cls.of_training(training, told)


def read_texts(
    context: ModelContext,
    entry: TaskEntry,
    files: TaskFiles,
    split: Split | None,
    training: Encoded | None,
) -> Reading:
    """Compare the tokens of evaluation rows and of probes; arguments as of `Compare` in `readings.py`.

    Raises:
        ExportError: the tokenizer or the configuration cannot be read.
    """
    if type_of(entry).preprocessor not in READERS:
        return Reading.of_training(training)
    config, tokenizer = files.read_config(), load_tokenizer(files.tokenizer)
    outputs = (config.kind, config.labels, config.texts or texts_of(entry))
    if outputs != (entry.kind, entry.labels, texts_of(entry)):
        return Reading.of_another(training, files, entry)
    own = shipped_tokenizer(context.files)
    reader, findings = TextReader.of(tokenizer, config), []
    device = None
    if split is not None and training is not None:
        assert isinstance(training, EncodedTokens)
        rows, device = _by_device(reader, entry, split, training, files)
        if (found := difference_of(rows, device, training)) is not None:
            findings.append(str(found))
    both = [tokenizer, *([] if own is None else [own])]
    probes = probe_rows(both, texts_of(entry), entry.max_length)
    if (found := first_difference(reader, partial(encode_for, context, entry), probes)) is not None:
        findings.append(str(found))
    count = 0 if split is None else len(split)
    return Reading(TextCheck(count, len(probes), not findings), tuple(findings), device, training)


def _by_device(
    reader: TextReader,
    entry: TaskEntry,
    split: Split,
    training: EncodedTokens,
    files: TaskFiles,
) -> tuple[Sequence[tuple[str, ...]], EncodedTokens]:
    """The rows as the device reads them: what is read together, and its tokens."""
    types = training.types is not None
    if isinstance(training, EncodedCloze):
        read = encoded_by(reader, split, types=types)
        return split.texts, training.over(read.ids, read.types)
    if isinstance(training, EncodedPieces):
        own = text_reader(files, reader.config, {}, stride=split.windows.stride)
        read = encoded_by(own, split, types=types)
        if isinstance(training, EncodedTokenPieces):
            return split.texts, read
        return split.texts, replace(training, ids=read.ids, types=read.types)
    if not isinstance(training, EncodedGroups):
        return split.texts, encoded_by(reader, split, types=types)
    texts = [(text,) for row in grouped_texts(split.prefixed(prefixes_of(entry))) for text in row]
    bare = replace(reader, config=replace(reader.config, prefixes=()))
    read = encoded_by(bare, Split(texts, np.zeros(len(texts), dtype=np.int64)), types=types)
    return texts, replace(training, ids=read.ids, types=read.types)
