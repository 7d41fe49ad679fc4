"""Traced graphs on disk, where every process of one run of the tests finds them: tracing is most of the time of an export."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, MutableMapping
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest


class KeptGraphs(MutableMapping[str, bytes]):
    """What `exporters/graph/trace.py` keeps in memory, in a folder. Nothing is removed from it.

    A key says all that a graph depends on, so each kind of graph is still traced, by who needs it first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def _path(self, kind: str) -> Path:
        return self.folder / hashlib.sha256(kind.encode()).hexdigest()

    def __getitem__(self, kind: str) -> bytes:
        try:
            return self._path(kind).read_bytes()
        except FileNotFoundError:
            raise KeyError(kind) from None

    def __setitem__(self, kind: str, graph: bytes) -> None:
        """Other processes see all of a file or none."""
        if not self._path(kind).exists():
            with NamedTemporaryFile(dir=self.folder, delete=False) as file:
                file.write(graph)
            Path(file.name).replace(self._path(kind))

    def pop(self, kind: str, default: bytes = b"") -> bytes:
        """Look a graph up; it stays, for the others."""
        return self.get(kind, default)

    def __delitem__(self, kind: str) -> None:
        """Leave it, for the others."""

    def __iter__(self) -> Iterator[str]:
        """None of them is old."""
        return iter(())

    def __len__(self) -> int:
        return 0


def read_operators_once(patch: pytest.MonkeyPatch) -> None:
    """Let the tracer keep what it reads from the sources of its 497 operators, always the same: a seventh of its time."""
    try:
        from torch.onnx._internal._lazy_import import onnxscript_apis

        read = onnxscript_apis.get_torchlib_ops
    except (ImportError, AttributeError):  # a release that has it elsewhere reads it anew
        return
    patch.setattr(onnxscript_apis, "get_torchlib_ops", cache(read))
