"""What an edge program imports: onnxruntime, numpy and tokenizers; no torch.

session = Session("exported")            # a folder of `compress export`, or a folder of those
session.predict(["the printer is on fire"])[0].label

The names below are loaded on first use: what outputs mean is read without ONNX Runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskpack.formats.lazy import lazy_names

if TYPE_CHECKING:
    from maskpack.runtime.folding import materialize
    from maskpack.runtime.outputs import Answer, Embedding, Entities, Entity, Prediction
    from maskpack.runtime.session import Session

_HOME = {
    "Answer": "outputs",
    "Embedding": "outputs",
    "Entities": "outputs",
    "Entity": "outputs",
    "Prediction": "outputs",
    "Session": "session",
    "materialize": "folding",
}

__all__ = ["Answer", "Embedding", "Entities", "Entity", "Prediction", "Session", "materialize"]

__getattr__ = lazy_names(__name__, _HOME, {})
