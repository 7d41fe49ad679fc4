"""What lies at a path, for the hint of an error: somebody gave an export where an artifact was wanted.

A look at names and first bytes: whether the thing is sound is not looked at, and nothing is raised.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from maskpack.formats.schema import MANIFEST, PACKED_KIND

_LARGEST_HEADER = 1 << 20  # bytes that are looked at; a packed task's has some kilobytes
_ZIPPED = (b"PK\x03\x04", b"\x1f\x8b")
_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".parquet"}
_GRAPHS = {".onnx", ".ort", ".onnx_adapter"}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


class Thing(StrEnum):
    """What may lie at a path, in words for an error."""

    NOTHING = "there is no such file or folder"
    ARTIFACT = "it is an artifact"
    EXPORT = "it is an exported task"
    MOBILE = "it is a package for phones"
    MODEL = "it is a plain model"
    ARCHIVE = "it is an archive"
    PATCH = "it is a packed task"
    GRAPH = "it is a single graph"
    TABLE = "it is a file of rows"
    OTHER = "it is something else"


_NO_ARTIFACT = {
    Thing.NOTHING: "give the folder that `compress fit -o` wrote",
    Thing.EXPORT: "`compress predict {path}` answers with it; give the artifact that it was made from",
    Thing.MOBILE: "its `predict.py` answers; give the artifact that it was made from",
    Thing.MODEL: "learn a mask over it: `compress fit {path} --task TASK -o artifact`",
    Thing.ARCHIVE: "unpack it; `compress predict` answers with the folder in a package",
    Thing.PATCH: "add it to an artifact with its backbone: `compress unpack {path} ARTIFACT`",
    Thing.GRAPH: "`compress predict {parent}` answers with it; give the artifact that it was made from",
    Thing.TABLE: "learn an artifact from it: `compress fit demo --data {path} -o artifact`",
}
_NO_EXPORT = {
    Thing.NOTHING: "give the folder that `compress export --onnx -o` wrote",
    Thing.ARTIFACT: "make graphs of it: `compress export {path} --onnx --task TASK -o OUT`; "
    "`compress tasks {path}` names its tasks",
    Thing.MOBILE: "its `predict.py` answers; `compress package --target ort` makes what this reads",
    Thing.MODEL: "learn a mask over it with `compress fit {path}`, then `compress export --onnx`",
    Thing.ARCHIVE: "unpack it, and give the folder that was in it",
    Thing.PATCH: "add it to an artifact with its backbone: `compress unpack {path} ARTIFACT`; "
    "then `compress export ARTIFACT --onnx`",
    Thing.GRAPH: "give the folder that it lies in: `{parent}`",
    Thing.TABLE: "give the folder that `compress export --onnx -o` wrote; rows go to `--data`",
}


def what_is(path: Path) -> Thing:
    """What lies there, as far as a look can tell."""
    try:
        if path.is_dir():
            return _folder(path)
        return _file(path) if path.exists() else Thing.NOTHING
    except OSError:  # a name too long, a folder that is locked
        return Thing.OTHER


def instead_of_artifact(path: Path) -> tuple[str, str] | None:
    """What is there instead of an artifact, and the next step; None if there is nothing to say."""
    return _told(path, _NO_ARTIFACT)


def instead_of_export(path: Path) -> tuple[str, str] | None:
    """The same of an exported task."""
    return _told(path, _NO_EXPORT)


def _told(path: Path, hints: dict[Thing, str]) -> tuple[str, str] | None:
    thing = what_is(path)
    if thing not in hints:
        return None
    return str(thing), hints[thing].format(path=path, parent=path.parent)


def _folder(path: Path) -> Thing:
    if (path / MANIFEST).is_file():
        return Thing.ARTIFACT
    if any(path.glob("*.onnx")) or any(path.glob("*/model.onnx")):
        return Thing.EXPORT
    if any(path.glob("*.ort")):
        return Thing.MOBILE
    weights = any(next(path.glob(pattern), None) for pattern in _WEIGHTS)
    return Thing.MODEL if weights and (path / "config.json").is_file() else Thing.OTHER


def _file(path: Path) -> Thing:
    endings = {suffix.lower() for suffix in path.suffixes[-2:]}
    if endings & _TABLES:  # also `rows.csv.gz`
        return Thing.TABLE
    if endings & _GRAPHS:
        return Thing.GRAPH
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(_ZIPPED):
            return Thing.ARCHIVE
        header = file.read(min(int.from_bytes(start, "little"), _LARGEST_HEADER))
    return Thing.PATCH if PACKED_KIND.encode() in header else Thing.OTHER
