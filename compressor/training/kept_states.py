"""A teacher's hidden states of all training rows, kept on the disk in float16 while a run lasts.

The teacher runs over the training rows once in any case, for its logits. With the states of that pass on the disk it need
not run in the steps, which then cost what a step without a teacher costs (docs/RESULTS.md, "Training time"). The choice
follows from sizes, not from a clock: a command that is repeated must give the same bits, and states that were
rounded to float16 are not those of a teacher that runs beside the step.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskpack.compressor.training.loss import HiddenStateTeacher, StateTeacher, states_of
from maskpack.models.placement import Placement, to_numpy, to_tensors
from maskpack.tasks.batches import EVAL_BATCH, Encoded, evaluation_batches

_LOG = logging.getLogger(__name__)
_LARGEST = 8 << 30  # bytes
_WORTH_A_NOTE = 200_000_000
_SHARE_OF_DISK = 0.5  # of what is free: checkpoints and the artifact come later
_FEW = 0.1  # visits a row; a written and a read state take a twentieth of the teacher's time for it


@dataclass(frozen=True, eq=False)
class KeptStates:
    """States of rows in a file.

    Attributes:
        weight: of the distance in a step's loss.
        file: open for both; it has no name, so that nothing is left of it when its process ends.
        lengths: int64, tokens of each row.
        starts: int64, first byte of each row's record, which is float16 `(layers, tokens, width)`.
        layers: number of states.
        width: of each.
    """

    weight: float
    file: IO[bytes]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    layers: int
    width: int

    def write(self, rows: NDArray[np.intp], states: list[Tensor]) -> None:
        """Append the states of some rows, one `(tokens, width)` a layer. Inverse of `states`.

        Raises:
            OSError: the disk is full.
            OverflowError: a value is too large for float16.
        """
        values = to_numpy(torch.stack(states).half())
        if not np.isfinite(values).all():
            raise OverflowError("a hidden state is too large for float16")
        ends = np.cumsum(self.lengths[rows])
        for row, start, end in zip(rows, ends - self.lengths[rows], ends, strict=True):
            self.starts[row] = self.file.tell()
            self.file.write(values[:, start:end].tobytes())
        self.file.flush()  # a full disk is told here

    def states(self, inputs: Mapping[str, Tensor], rows: NDArray[np.intp]) -> list[Tensor]:
        """The states of some rows, on the device of the inputs."""
        lengths = self.lengths[rows]
        values = np.empty((self.layers, int(lengths.sum()), self.width), dtype=np.float16)
        end = 0
        for row, length in zip(rows, lengths, strict=True):
            start, end = end, end + int(length)
            self.file.seek(self.starts[row])
            record = self.file.read(2 * self.layers * int(length) * self.width)
            values[:, start:end] = np.frombuffer(record, dtype=np.float16).reshape(
                self.layers, -1, self.width
            )
        moved = torch.from_numpy(values).to(next(iter(inputs.values())).device)
        return list(moved.float().unbind(0))


def kept_bytes(rows: Encoded, config: Any) -> int:
    """Bytes of the states of all rows.

    >>> from types import SimpleNamespace
    >>> shape = SimpleNamespace(num_hidden_layers=6, hidden_size=384)
    >>> kept_bytes(SimpleNamespace(lengths=np.array([10, 20])), shape)  # 30 tokens of 6 x 384 values of 2 bytes
    138240
    """
    return 2 * int(rows.lengths.sum()) * int(config.num_hidden_layers) * int(config.hidden_size)


def states_bytes(teacher: StateTeacher | None) -> int:
    """Bytes of the states that a teacher has on the disk."""
    return os.fstat(teacher.file.fileno()).st_size if isinstance(teacher, KeptStates) else 0


@dataclass(frozen=True)
class Keeping:
    """Where a run may keep states.

    Attributes:
        folder: on a disk.
        visits: rows of all steps together.
    """

    folder: Path
    visits: int

    def pays(self, rows: Encoded, config: Any, placement: Placement) -> bool:
        """Whether states on the disk save time: on a processor, for a run that sees its rows, up to a size.

        Args:
            rows: the training rows.
            config: of the teacher.
            placement: where it computes. A GPU computes states sooner than a disk reads them; several processes may
                have no disk in common.
        """
        if placement.device != "cpu" or not placement.processes.alone:
            return False
        return self.visits >= _FEW * len(rows) and kept_bytes(rows, config) <= _LARGEST


def answers_and_states(
    teacher: HiddenStateTeacher, rows: Encoded, *, folder: Path
) -> tuple[NDArray[np.float32], StateTeacher]:
    """A teacher's logits for all rows, and its states from the same pass.

    Args:
        teacher: who answers.
        rows: the training rows.
        folder: on the disk that keeps the states.

    Returns:
        The logits, as of `predict_all`; and the kept states, or the teacher itself where they cannot be kept.
    """
    rows, kept = rows.read_by(teacher.model.config.to_dict()), _new(teacher, rows, folder)
    teacher.model.eval()
    batches, logits = list(evaluation_batches(rows.lengths, batch_size=EVAL_BATCH)), []
    for some in batches:
        feeds = to_tensors(rows.feeds(some), teacher.model)
        with torch.inference_mode():
            outputs = teacher.model(**feeds, output_hidden_states=kept is not None)
        logits.append(rows.of_longest(to_numpy(outputs.logits.float()), some))
        if kept is not None:
            try:
                kept.write(some, states_of(outputs, feeds))
            except (OSError, OverflowError) as error:
                _give_up(error)
                kept = None
    answers = np.concatenate(logits)
    ordered = np.empty_like(answers)
    ordered[np.concatenate(batches)] = answers
    return ordered, teacher if kept is None else kept


def _new(teacher: HiddenStateTeacher, rows: Encoded, folder: Path) -> KeptStates | None:
    """An empty file for states; None: the disk has not the room."""
    config = teacher.model.config
    size, lengths = kept_bytes(rows, config), rows.lengths
    try:
        free = shutil.disk_usage(folder).free
        if size > _SHARE_OF_DISK * free:
            _give_up(f"they take {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
            return None
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the run
    except OSError as error:
        _give_up(error)
        return None
    level = logging.INFO if size >= _WORTH_A_NOTE else logging.DEBUG
    _LOG.log(level, "the teacher's hidden states are kept on the disk: %.1f MB", size / 1e6)
    shape = int(config.num_hidden_layers), int(config.hidden_size)
    kept = KeptStates(teacher.weight, file, lengths, np.zeros_like(lengths), *shape)
    weakref.finalize(kept, file.close)
    return kept


def _give_up(why: object) -> None:
    """Say that states are not kept, and why."""
    _LOG.warning("the teacher's hidden states are not kept (%s): it runs in every step", why)
