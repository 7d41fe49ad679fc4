"""Beside floor 2: what an edge program imports. onnxruntime, numpy and tokenizers; no torch.

from maskpack.runtime import Session
session = Session("exported")            # a folder of `compress export`, or a folder of those
session.predict(["the printer is on fire"])[0].label
"""

from maskpack.runtime.fold import materialize
from maskpack.runtime.session import Session
from maskpack.runtime.task import Prediction

__all__ = ["Prediction", "Session", "materialize"]
