"""Beside floor 2: what an edge program imports. onnxruntime, numpy and tokenizers; no torch.

session = Session("exported")            # a folder of `compress export`, or a folder of those
session.predict(["the printer is on fire"])[0].label
"""

from maskpack.runtime.outputs import Prediction
from maskpack.runtime.session import Session, materialize

__all__ = ["Prediction", "Session", "materialize"]
