"""The first part of a verdict: the files that are shipped read texts as training does.

Graphs are compared on tokens. Without this a device that cuts texts on the other side would answer at chance, and
every graph would be within its tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from maskpack.exporters.report import TextCheck
from maskpack.formats import TaskEntry
from maskpack.models.tokenizer_files import shipped_tokenizer
from maskpack.runtime.task import TaskFiles
from maskpack.runtime.tokens import TextReader, load_tokenizer
from maskpack.tasks.batches import Encoded
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split
from maskpack.tasks.evaluation.evaluate import encode_for, texts_of
from maskpack.tasks.preprocess import READERS
from maskpack.tasks.probes import difference_of, encoded_by, first_difference, probe_rows
from maskpack.tasks.types import type_of


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


def read_texts(
    context: ModelContext, entry: TaskEntry, files: TaskFiles | None, split: Split | None
) -> Reading:
    """Compare the tokens of evaluation rows and of probes.

    Args:
        context: of the artifact's encoder.
        entry: of the task in the manifest.
        files: of the exported task; None: a graph alone.
        split: the evaluation rows, or None.

    Raises:
        ExportError: the tokenizer or the configuration cannot be read.
    """
    training = None if split is None else encode_for(context, entry, split)
    if files is None or type_of(entry).preprocessor not in READERS:
        return Reading(None, (), training, training)
    config, tokenizer = files.read_config(), load_tokenizer(files.tokenizer)
    outputs = (config.kind, config.labels, config.texts or texts_of(entry))
    findings = []
    if outputs != (entry.kind, entry.labels, texts_of(entry)):
        findings.append(
            f"`{files.config.name}` describes another task than `{entry.name}` of the artifact"
        )
        return Reading(None, tuple(findings), training, training)
    reader = TextReader.of(tokenizer, config)
    device = None
    if split is not None and training is not None:
        device = encoded_by(reader, split, types=training.types is not None)
        if (found := difference_of(split.texts, device, training)) is not None:
            findings.append(str(found))
    own = shipped_tokenizer(context.files)
    both = [tokenizer, *([] if own is None else [own])]
    probes = probe_rows(both, texts_of(entry), entry.max_length)
    if (found := first_difference(reader, partial(encode_for, context, entry), probes)) is not None:
        findings.append(str(found))
    rows = 0 if split is None else len(split)
    return Reading(TextCheck(rows, len(probes), not findings), tuple(findings), device, training)
