"""Several tasks that answer as one: the mean of their outputs.

Masks of one run at several times, or of several seeds, are mistaken on different rows; the mean of their logits is right
more often than each of them (snapshot ensembles: Huang et al. 2017, arXiv 1704.00109). Over one backbone, as adapters of one
graph or as small graphs beside one `backbone.bin`, each further member costs the bytes of a mask and the time of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from maskpack.formats.errors import ConfigError
from maskpack.runtime.answers import Loaded
from maskpack.runtime.graph import TaskRun
from maskpack.runtime.trunk import told


@dataclass(frozen=True, eq=False)
class MeanGraph:
    """Graphs of several tasks, used as one session whose outputs are the mean of theirs.

    Attributes:
        members: the tasks.
        vectors: whether outputs are vectors, whose mean gets the length 1.
    """

    members: tuple[Loaded, ...]
    vectors: bool

    def get_inputs(self) -> list[Any]:
        """Inputs of the graphs, each once."""
        every = [value for member in self.members for value in member.graph.get_inputs()]
        own = {name for member in self.members for name in member.own.feeds}
        return list({value.name: value for value in every if value.name not in own}.values())

    def get_outputs(self) -> list[Any]:
        """Outputs of the first graph, which all have."""
        return list(self.members[0].graph.get_outputs())

    def run(self, names: Sequence[str], feeds: Mapping[str, Any], options: Any = None) -> list[Any]:
        """As `InferenceSession.run`; each member runs with options of its own."""
        del options
        every = [_outputs(member, names, feeds) for member in self.members]
        means = [np.mean(each, axis=0, dtype=np.float32) for each in zip(*every, strict=True)]
        return [_of_length_one(mean) for mean in means] if self.vectors else means


def ensemble_of(members: Sequence[Loaded]) -> Loaded:
    """Tasks as one task, which reads and is described as the first of them.

    Raises:
        ConfigError: there are fewer than two; one is named twice; or two have other answers or read texts otherwise.
    """
    names = [member.config.name for member in members]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"an ensemble is of two different tasks or more, not of {', '.join(names) or 'none'}"
        )
    first = members[0]
    for other in members[1:]:
        _check_alike(first, other)
    graph = MeanGraph(tuple(members), first.config.decoder.vectors)
    return replace(first, graph=graph, own=TaskRun())


def _check_alike(left: Loaded, right: Loaded) -> None:
    own, other = left.config, right.config
    different = {
        "are of different types": own.kind != other.kind,
        "have different labels": list(own.labels) != list(other.labels),
        "read texts in different ways": (own.max_length, own.texts, *left.reader.way)
        != (other.max_length, other.texts, *right.reader.way),
    }
    for how, differ in different.items():
        if differ:
            raise ConfigError(
                f"`{own.name}` and `{other.name}` {how}",
                "an ensemble is of tasks that answer alike",
            )


def _outputs(member: Loaded, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    graph, own = member.graph, member.own
    return list(graph.run(list(names), {**told(graph, feeds), **own.feeds}, own.options))


def _of_length_one(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
