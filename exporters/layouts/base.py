"""Layouts of exported graphs: which files are written, and how masks enter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskpack.formats import TaskEntry
from maskpack.formats.tensorfile import Arrays
from maskpack.runtime.task import TOKENIZER, SwapDigests, TaskFiles

if TYPE_CHECKING:
    from maskpack.exporters.graph.builder import GraphBuilder


@dataclass(frozen=True, eq=False)
class TaskGraph:
    """A task as a layout wrote it.

    Attributes:
        entry: its entry in the manifest.
        graph: its own, or that of all tasks.
        config: path of its configuration for `maskpack.runtime`.
        weights: name and SHA-256 of a file of weights that tasks share, if there is one.
        inputs: its inputs to a graph of all tasks: path of the adapter, and the values in it by name.
        digests: of the files of such a task.
        trunk: the graph that computes its hidden states, which tasks share, and its SHA-256.
    """

    entry: TaskEntry
    graph: Path
    config: Path
    weights: tuple[str, str] | None = None
    inputs: tuple[Path, Arrays] | None = None
    digests: SwapDigests | None = None
    trunk: tuple[Path, str] | None = None

    @property
    def files(self) -> TaskFiles:
        """Paths of its files, as a device finds them."""
        adapter = None if self.inputs is None else self.inputs[0]
        trunk = None if self.trunk is None else self.trunk[0]
        return TaskFiles(self.graph, self.config, self.config.with_name(TOKENIZER), adapter, trunk)


@dataclass(frozen=True)
class GraphLayout:
    """Where the weights of exported graphs lie.

    Attributes:
        name: as options spell it.
        write: writes the graphs of tasks into a folder, one task after the other.
        several: whether tasks share a folder; else a folder is one task's, with what transformers and
            Optimum read beside the graph.
        masks_as_inputs: whether masks come with every run.
        trunk: whether tasks share a pass over their lower layers.
    """

    name: str
    write: Callable[[GraphBuilder, Sequence[TaskEntry], Path], Iterator[TaskGraph]]
    several: bool = True
    masks_as_inputs: bool = False
    trunk: bool = False
