"""Floor 0: bytes. The artifact format, readable with numpy and safetensors alone.

Start at SPEC.md; then `tensors.py` (what a value is), `codec.py` (how it becomes bytes),
`reader.py` and `writer.py` (how the bytes lie on disk), `units.py` (heads and neurons), `packed.py` and `coded.py` (a task as one small
file), `algebra.py` (tasks moved and compared), `delta.py` (one release to the next).
"""

from maskpack.formats.algebra import (
    Difference,
    Overlap,
    difference,
    merge_tasks,
    overlaps,
    pack_task,
    remove_task,
    rename_task,
    unpack_task,
)
from maskpack.formats.counts import MaskCount
from maskpack.formats.delta import Delta, DeltaFile, apply_delta, write_delta
from maskpack.formats.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    ExportError,
    Interrupted,
    MaskpackError,
    MissingPackageError,
    ModelError,
    VerifyError,
)
from maskpack.formats.reader import Artifact, check_artifact, is_artifact, open_artifact
from maskpack.formats.schema import FORMAT_VERSION, Manifest, Scheme, Source, TaskEntry
from maskpack.formats.tensors import Backbone, BitMask, Patch, QuantTensor
from maskpack.formats.unit_costs import UnitCosts, UnitShape
from maskpack.formats.writer import add_task, check_vacant, create_artifact

__all__ = [
    "FORMAT_VERSION",
    "Artifact",
    "ArtifactError",
    "Backbone",
    "BitMask",
    "ConfigError",
    "DataError",
    "Delta",
    "DeltaFile",
    "Difference",
    "ExportError",
    "Interrupted",
    "Manifest",
    "MaskCount",
    "MaskpackError",
    "MissingPackageError",
    "ModelError",
    "Overlap",
    "Patch",
    "QuantTensor",
    "Scheme",
    "Source",
    "TaskEntry",
    "UnitCosts",
    "UnitShape",
    "VerifyError",
    "add_task",
    "apply_delta",
    "check_artifact",
    "check_vacant",
    "create_artifact",
    "difference",
    "is_artifact",
    "merge_tasks",
    "open_artifact",
    "overlaps",
    "pack_task",
    "remove_task",
    "rename_task",
    "unpack_task",
    "write_delta",
]
