"""Floor 0: bytes. The artifact format, readable with numpy and safetensors alone.

Start at SPEC.md; then `tensors.py` (what a value is), `codec.py` (how it becomes bytes),
`reader.py` and `writer.py` (how the bytes lie on disk).
"""

from maskpack.formats.artifact import Backbone, Patch
from maskpack.formats.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    ExportError,
    Interrupted,
    MaskpackError,
    ModelError,
    VerifyError,
)
from maskpack.formats.reader import Artifact, check_artifact, is_artifact, open_artifact
from maskpack.formats.schema import FORMAT_VERSION, Manifest, Scheme, Source, TaskEntry
from maskpack.formats.tensors import BitMask, MaskCount, QuantTensor
from maskpack.formats.writer import add_task, check_vacant, create_artifact

__all__ = [
    "FORMAT_VERSION",
    "Artifact",
    "ArtifactError",
    "Backbone",
    "BitMask",
    "ConfigError",
    "DataError",
    "ExportError",
    "Interrupted",
    "Manifest",
    "MaskCount",
    "MaskpackError",
    "ModelError",
    "Patch",
    "QuantTensor",
    "Scheme",
    "Source",
    "TaskEntry",
    "VerifyError",
    "add_task",
    "check_artifact",
    "check_vacant",
    "create_artifact",
    "is_artifact",
    "open_artifact",
]
