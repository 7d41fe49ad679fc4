"""A task's weights unpacked, masked and folded once, at install, instead of whenever a session is made.

Folding takes several bytes a weight while a session is made, and frees them afterwards.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime

from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import ConfigError, ExportError, first_line
from maskpack.formats.writer import new_folder, write_bytes
from maskpack.runtime.graph import session_options
from maskpack.runtime.loading import check_task
from maskpack.runtime.providers import CPU
from maskpack.runtime.task import WEIGHTS, TaskConfig, TaskFiles, pick_task

_LEAST = 1024  # bytes from which a constant lies in the file of weights


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
    with new_folder(out) as build:
        graph = build / f"{config.name}.onnx"
        options = session_options(threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(graph)
        for key, value in (("file_name", WEIGHTS), ("min_size_in_bytes", str(_LEAST))):
            entry = f"session.optimized_model_external_initializers_{key}"
            options.add_session_config_entry(entry, value)
        try:
            onnxruntime.InferenceSession(str(place.graph), options, [CPU])
        except Exception as error:
            raise ExportError(f"cannot fold `{place.graph}`: {first_line(error)}") from error
        own = replace(config, weights=(WEIGHTS, file_sha256(build / WEIGHTS)))
        write_bytes(build / f"{config.name}.json", own.to_json().encode())
        for path in (place.tokenizer, place.processor):
            if path.is_file():
                shutil.copy(path, build / path.name)
    return out / f"{config.name}.onnx"


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
