"""A task's weights unpacked, masked and folded once, at install, instead of whenever a session is made.

ONNX Runtime takes up to 25 bytes a weight to fold a graph while it makes a session, and frees them afterwards. Here one matrix
is folded after the other (`constants.py`), so that an installation takes little more memory than the largest of them.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import ConfigError
from maskpack.formats.tensorfile import Buffer
from maskpack.formats.waiting import announced
from maskpack.formats.writer import new_folder, write_bytes, write_pieces
from maskpack.runtime.constants import (
    INSIDE,
    ConstantPart,
    external_tensor,
    stored_tensor,
    type_of,
)
from maskpack.runtime.loading import check_task
from maskpack.runtime.task import WEIGHTS, TaskConfig, TaskFiles, pick_task

_LOG = logging.getLogger(__name__)
Constant = tuple[str, tuple[int, ...], int, Buffer]
"""Name, shape, number of the type, and bytes; None for bytes that its field holds in another form."""

_PAGE = 4096  # a tensor begins on a page, so that a runtime can map it


def materialize(folder: Path, out: Path, *, task: str | None = None) -> Path:
    """Write a task with its weights unpacked and masked; its graph.

    The result is a folder as any exported one, with a `backbone.bin` of the task's own. The folding is kept,
    fusions that depend on the machine are left to the session: operators are those that the export wrote. An int8
    graph has ONNX Runtime's attention in a branch, unless it was exported with `--plain-attention`, and an nbits
    graph its `MatMulNBits`; all others are standard.

    Args:
        folder: an exported one, in the shared or folded layout.
        out: folder to make.
        task: which; needed where there are several.

    Raises:
        ConfigError: no such task, none named of several, or one of the swap or the trunk layout.
        ExportError: its files do not belong together, or ONNX Runtime refuses the graph.
    """
    place = pick_task(folder, task)
    config = place.read_config()
    _check_foldable(place, config)
    check_task(place, config)
    part = ConstantPart(place.graph, place.weights)
    with new_folder(out) as build, announced(_LOG, f"unpacking `{config.name}`"):
        tensors: list[bytes | memoryview] = []
        write_pieces(build / WEIGHTS, _weights(part, tensors))
        write_pieces(build / f"{config.name}.onnx", part.without(tensors))
        own = replace(config, weights=(WEIGHTS, file_sha256(build / WEIGHTS)))
        write_bytes(build / f"{config.name}.json", own.to_json().encode())
        beside = place.tokenizer.with_name("tokenizer_config.json")  # a package for the web has it
        for path in (place.tokenizer, beside, place.processor):
            if path.is_file():
                shutil.copy(path, build / path.name)
    return out / f"{config.name}.onnx"


def _weights(part: ConstantPart, tensors: list[bytes | memoryview]) -> Iterator[Buffer]:
    """Large constants of a graph, each on a page of its own; fields for all of them are added to `tensors`.

    A value is computed when its turn comes, and let go before the next one.
    """
    end = 0
    for name, shape, kind, data in chain(_kept(part), _computed(part)):
        if data is None:
            tensors.append(part.tensors[name].raw)
            continue
        if len(data) < INSIDE:
            tensors.append(stored_tensor(name, shape, kind, data))
            continue
        yield bytes(-end % _PAGE)
        start = end + -end % _PAGE
        end = start + len(data)
        tensors.append(external_tensor(name, shape, kind, WEIGHTS, start, len(data)))
        yield data


def _kept(part: ConstantPart) -> Iterator[Constant]:
    for name in part.kept:
        tensor = part.tensors[name]
        yield name, tensor.shape, tensor.type, part.stored(name)


def _computed(part: ConstantPart) -> Iterator[Constant]:
    for name in part.wanted:
        array = part.computed(name)
        yield name, array.shape, type_of(array), array.reshape(-1).view(np.uint8).data


def _check_foldable(place: TaskFiles, config: TaskConfig) -> None:
    """Raise ConfigError if a task's graph is not its own, or not whole."""
    if place.adapter is not None:
        raise ConfigError(
            f"`{config.name}` is an adapter: its mask comes with every run and cannot be folded",
            "export it in the `shared` layout",
        )
    if place.trunk is not None:
        raise ConfigError(
            f"`{config.name}` stands on a trunk that other tasks share, and would lose it",
            "export it in the `shared` layout",
        )
