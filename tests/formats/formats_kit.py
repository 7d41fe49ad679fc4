"""Small values and surgery on artifacts, for the tests of floor 0. Needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from maskpack.formats import (
    Artifact,
    Backbone,
    BitMask,
    Patch,
    QuantTensor,
    Scheme,
    Source,
    TaskEntry,
    create_artifact,
    open_artifact,
)
from maskpack.formats.units import Units

ZERO_SHA = "0" * 64
SOURCE = Source("some/model", None, "bert", "12" * 32)
SCHEME = Scheme(4, 3, "minmax", 8)
FILES = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\n[UNK]\n"}


def make_tensor(rows: int, width: int, *, bits: int, group: int, seed: int = 0) -> QuantTensor:
    """Codes over the whole range and positive float16 scales."""
    rng = np.random.default_rng(seed)
    limit = 2 ** (bits - 1) - 1
    codes = rng.integers(-limit, limit, size=(rows, width), endpoint=True).astype(np.int8)
    scales = rng.uniform(0.01, 2.0, size=(rows, -(-width // group))).astype(np.float16)
    return QuantTensor(codes, scales, bits, group)


def make_backbone() -> Backbone:
    """Two linears of different widths, an embedding and two dense tensors."""
    return Backbone(
        linears={
            "layer.a.weight": make_tensor(6, 13, bits=4, group=5, seed=1),
            "layer.b.weight": make_tensor(4, 6, bits=8, group=6, seed=2),
        },
        embeddings={"words.weight": make_tensor(7, 6, bits=8, group=6, seed=3)},
        dense={
            "layer.a.bias": np.linspace(-1, 1, 6).astype(np.float16),
            "norm.weight": np.ones(6, dtype=np.float16),
        },
    )


def make_patch(seed: int = 0) -> Patch:
    """Random masks over `make_backbone()` and a head with two outputs."""
    rng = np.random.default_rng(seed)
    masks = {
        name: BitMask.from_bool(rng.random(tensor.shape) < 0.8)
        for name, tensor in make_backbone().linears.items()
    }
    weight = rng.normal(size=(2, 6)).astype(np.float16)
    return Patch(masks, {"out.weight": weight, "out.bias": np.zeros(2, dtype=np.float16)})


def make_entry(name: str, patch: Patch, *, value: float = 0.5) -> TaskEntry:
    """An entry that counts `patch` rightly."""
    return TaskEntry(
        name=name,
        file=f"tasks/{name}.safetensors",
        sha256=ZERO_SHA,
        kind="classification",
        labels=("no", "yes"),
        metric="accuracy",
        scores={"accuracy": value},
        zeros=patch.count.zeros,
        weights=patch.count.weights,
        max_length=16,
        data={"task": name},
        training={"seed": 0},
    )


def make_artifact(path: Path, task: str = "first", seed: int = 0) -> Artifact:
    """An artifact with one task."""
    patch = make_patch(seed)
    return create_artifact(
        path,
        make_backbone(),
        source=SOURCE,
        scheme=SCHEME,
        files=FILES,
        first=(make_entry(task, patch), patch),
    )


def tree(folder: Path) -> dict[str, bytes]:
    """Relative name -> content of every file below `folder`, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same_tensor(found: QuantTensor, expected: QuantTensor) -> None:
    assert (found.bits, found.group, found.zero_free) == (
        expected.bits,
        expected.group,
        expected.zero_free,
    )
    assert found.scales.dtype == expected.scales.dtype
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.scales, expected.scales)


def assert_same_backbone(found: Backbone, expected: Backbone) -> None:
    for ours, theirs in (
        (found.linears, expected.linears),
        (found.embeddings, expected.embeddings),
    ):
        assert set(ours) == set(theirs)
        for name, tensor in theirs.items():
            assert_same_tensor(ours[name], tensor)
    assert_same_dense(found.dense, expected.dense)


def assert_same_patch(found: Patch, expected: Patch) -> None:
    assert set(found.masks) == set(expected.masks)
    for name, mask in expected.masks.items():
        assert found.masks[name].shape == mask.shape
        np.testing.assert_array_equal(found.masks[name].packed, mask.packed)
    assert_same_dense(found.head, expected.head)
    assert_same_dense(found.dense, expected.dense)
    assert_same_dense(found.gains, expected.gains)
    assert (found.units is None) == (expected.units is None)
    if expected.units is not None:
        assert_same_units(found.units, expected.units)


def assert_same_units(found: Units, expected: Units) -> None:
    """The same groups in any order, with the same bits."""
    assert set(found.groups) == set(expected.groups)
    ours, theirs = found.by_place(), expected.by_place()
    for place, kept in theirs.items():
        np.testing.assert_array_equal(ours[place], kept)


def assert_same_dense(found: Any, expected: Any) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (np.float16, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


def header_of(data: bytes) -> dict[str, Any]:
    """The JSON header of a safetensors file."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def meta_of(data: bytes) -> dict[str, Any]:
    """The JSON of the metadata entry `maskpack`."""
    return json.loads(header_of(data)["__metadata__"]["maskpack"])


def rebuild(data: bytes, change: Callable[[dict, dict], object]) -> bytes:
    """A safetensors file with `change(meta, arrays)` done to it."""
    meta, arrays = meta_of(data), load(data)
    change(meta, arrays)
    return save(arrays, metadata={"maskpack": json.dumps(meta)})


def edit_manifest(folder: Path, change: Callable[[dict], object]) -> None:
    """Rewrite `maskpack.json` with `change(tree)` done to it."""
    path = folder / "maskpack.json"
    manifest = json.loads(path.read_text("utf-8"))
    change(manifest)
    path.write_text(json.dumps(manifest), "utf-8")


def edit_backbone(folder: Path, change: Callable[[dict, dict], object]) -> None:
    """Change the backbone and bring every digest that depends on it up to date."""
    path = folder / "backbone.safetensors"
    path.write_bytes(rebuild(path.read_bytes(), change))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_manifest(folder, lambda tree: tree["backbone"].update(sha256=digest))
    for task in open_artifact(folder).manifest.tasks:
        edit_patch(folder, task, lambda meta, _: meta.update(backbone_sha256=digest))


def edit_patch(folder: Path, task: str, change: Callable[[dict, dict], object]) -> None:
    """Change the patch of a task and bring its digest up to date."""
    path = folder / open_artifact(folder).entry(task).file
    path.write_bytes(rebuild(path.read_bytes(), change))
    reseal(folder, task)


def reseal(folder: Path, task: str) -> None:
    """Write the digest of a task's file, as it is now, into the manifest."""
    entry = open_artifact(folder).entry(task)
    digest = hashlib.sha256((folder / entry.file).read_bytes()).hexdigest()
    edit_manifest(folder, lambda tree: tree["tasks"][task].update(sha256=digest))


def start(script: str, *args: object, **environment: str) -> subprocess.Popen:
    """Start `script` in a fresh interpreter that can import this module."""
    path = os.pathsep.join(
        part for part in (str(Path(__file__).parent), os.environ.get("PYTHONPATH")) if part
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )


def run(script: str, *args: object, **environment: str) -> str:
    """What `script` prints; fails with its standard error if it fails."""
    process = start(script, *args, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out
