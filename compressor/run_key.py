"""What a checkpoint belongs to: a digest of all that determines a run's result."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from maskpack.formats.codec import file_sha256
from maskpack.models.pooling import pooling_in
from maskpack.tasks.task import Unlabelled

if TYPE_CHECKING:
    from maskpack.compressor.prepare import PreparedRun


def run_key(run: PreparedRun) -> str:
    """Digest of all that determines the result. Device and number of processes do not: a run goes on elsewhere."""
    request = run.request
    parts = (
        request.config.sha256(),
        run.data.train.sha256(),
        run.data.outputs,
        run.prepared.source.weights_sha256,
        run.prepared.scheme,
        *(() if run.head is None else ("own head", run.data.labels)),
        *run.learned_from,
        *(() if run.train.labelled is None else (run.train.labelled.tobytes(),)),
        *(() if request.texts is None else (_texts(request.texts),)),
        *run.data.task.read_as,
        *(() if request.config.speedup is None else (run.unit_costs,)),
        *(() if (pooling := pooling_in(run.described)) is None else (str(pooling),)),
    )
    taught = run.data.train.unlabelled if run.data.task.unlabelled is Unlabelled.TEACH else ()
    return digest_of(chain(parts, taught))


def _texts(texts: Path) -> str:
    """Digest of rows without labels: of a file its bytes, of a folder of images their names."""
    if texts.is_file():
        return file_sha256(texts)
    return digest_of(("names", *sorted(path.name for path in texts.rglob("*"))))


def digest_of(parts: Iterable[object]) -> str:
    """Digest of the text of a tuple of two parts or more, which is never made: it may be of millions of rows."""
    digest, before = hashlib.sha256(b"("), ""
    for part in parts:
        digest.update(f"{before}{part!r}".encode())
        before = ", "
    digest.update(b")")
    return digest.hexdigest()
