"""Do once, at install, what a session would do each time: unpack, mask and fold a task's weights.

Folding takes several bytes a weight while a session is made, and frees them afterwards. A device that is
short of memory is given a folder that somebody else has folded, or folds once while nothing else runs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnxruntime

from maskpack.formats.digest import file_sha256
from maskpack.formats.errors import ConfigError, ExportError
from maskpack.formats.writer import new_folder, write_bytes
from maskpack.runtime.graph import first_line, session_options
from maskpack.runtime.session import check_task
from maskpack.runtime.task import TOKENIZER, WEIGHTS, pick_task

_LEAST = 1024  # bytes from which a constant lies in the file of weights


def materialize(folder: Path, out: Path, *, task: str | None = None) -> Path:
    """Write a task with its weights unpacked and masked; its graph.

    The result is a folder as any exported one, with a `backbone.bin` of the task's own. Only standard
    operators are in it: the folding is kept, fusions that depend on the machine are left to the session.

    Args:
        folder: an exported one, in the shared or folded layout.
        out: folder to make.
        task: which; needed where there are several.

    Raises:
        ConfigError: no such task, none named of several, or one of the swap layout.
        ExportError: its files do not belong together, or ONNX Runtime refuses the graph.
    """
    place = pick_task(folder, task)
    card = place.read_card()
    if place.adapter is not None:
        raise ConfigError(
            f"`{card.name}` is an adapter: its mask comes with every run and cannot be folded",
            "export it with `--layout shared`",
        )
    check_task(place, card)
    with new_folder(out) as build:
        graph = build / f"{card.name}.onnx"
        options = session_options(threads=1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(graph)
        for key, value in (("file_name", WEIGHTS), ("min_size_in_bytes", str(_LEAST))):
            entry = f"session.optimized_model_external_initializers_{key}"
            options.add_session_config_entry(entry, value)
        try:
            onnxruntime.InferenceSession(str(place.graph), options, ["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"cannot fold `{place.graph}`: {first_line(error)}") from error
        own = replace(card, weights=(WEIGHTS, file_sha256(build / WEIGHTS)))
        write_bytes(build / f"{card.name}.json", own.to_json().encode())
        shutil.copy(place.tokenizer, build / TOKENIZER)
    return out / f"{card.name}.onnx"
