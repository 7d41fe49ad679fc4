"""Keep a run's state on disk so that it can go on after any stop, with the same result.

One safetensors file holds trained parameters, Adam's moments, thresholds, tensors of callbacks, and by how much the
gradients of float16 are scaled; it is replaced atomically. Data order and noise need no state: they follow from seed,
epoch and step.
Ctrl-C waits for the end of a step, where the state is whole.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from maskpack.compressor.training.train import State
from maskpack.formats import ArtifactError
from maskpack.formats.writer import write_bytes

_FILE = "state.safetensors"


@dataclass(frozen=True)
class FolderCheckpoints:
    """Checkpoints of one run in one folder.

    Attributes:
        folder: made on the first save, removed by `clear`.
        every: steps between saves.
        key: digest of everything that determines the run; a state of another run is refused.
        resume: whether `load` uses an existing state.
        last: a step after which the state is kept in any case; None: there is none.
    """

    folder: Path
    every: int
    key: str
    resume: bool
    last: int | None = None

    @property
    def file(self) -> Path:
        """File of the state."""
        return self.folder / _FILE

    def found(self) -> bool:
        """Whether there is a state to resume."""
        return self.file.is_file()

    def check(self) -> None:
        """Raise ArtifactError if there is a state to resume that belongs to another run, or is damaged."""
        if self.resume and self.found():
            with self._opened():
                pass

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """The file of the state and what is said of it; errors name the file."""
        try:
            with safe_open(self.file, framework="pt") as kept:
                meta = json.loads(kept.metadata()["maskpack"])
                if meta["key"] != self.key:
                    raise ArtifactError(
                        f"the checkpoint `{self.file}` belongs to a run with other options or data",
                        "repeat the first run's options, or start over without `resume`",
                    )
                yield kept, meta
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ArtifactError(
                f"the checkpoint `{self.file}` is damaged: {error}", "start over without `resume`"
            ) from error

    def load(self, state: State) -> int:
        """Restore the state and return its step; 0 if there is none or `resume` is off.

        Raises:
            ArtifactError: the state is damaged or belongs to a run with other options.
        """
        if not (self.resume and self.found()):
            return 0
        with self._opened() as (kept, meta):
            with torch.no_grad():
                for name, tensor in _tensors(state, create=frozenset(kept.keys())):
                    tensor.copy_(kept.get_tensor(name))
            for group, eps in zip(state.optimizer.param_groups, meta["eps"], strict=True):
                group["eps"] = eps
            if meta.get("scaler"):
                state.scaler.load_state_dict(meta["scaler"])
        return int(meta["step"])

    def save(self, state: State, step: int, *, now: bool = False) -> None:
        """Keep the state if `step` is a multiple of `every` or the last, or `now`; never if `every` is 0."""
        if not self.every or not (now or step % self.every == 0 or step == self.last):
            return
        tensors = {name: tensor.detach() for name, tensor in _tensors(state)}
        eps = [group["eps"] for group in state.optimizer.param_groups]
        scaler = state.scaler.state_dict()  # nothing in other types than float16
        meta = json.dumps({"step": step, "key": self.key, "eps": eps, "scaler": scaler})
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"cannot make `{self.folder}`: {error.strerror}") from error
        write_bytes(self.file, save(tensors, metadata={"maskpack": meta}))

    def clear(self) -> None:
        """Remove the folder; nothing happens if there is none."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _tensors(state: State, *, create: Container[str] = ()) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the state by name: trained parameters, moments, thresholds, callbacks'.

    Moments that do not exist yet are made where their names are in `create`, so that they can be filled. A parameter has
    none before its first step, which float16 may leave out.
    """
    model, optimizer = state.model, state.optimizer
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        if id(parameter) not in trained:
            continue
        moments = optimizer.state[parameter]
        if f"step/{name}" in create and not moments:
            moments["step"] = parameter.new_zeros((), dtype=torch.float32)
            moments["exp_avg"] = torch.zeros_like(parameter)
            moments["exp_avg_sq"] = torch.zeros_like(parameter)
        yield f"parameter/{name}", parameter
        for key in ("step", "exp_avg", "exp_avg_sq"):
            if key in moments:
                yield f"{key}/{name}", moments[key]
    for name, buffer in model.named_buffers():
        if name.endswith(".threshold"):
            yield f"threshold/{name}", buffer
    for name, tensor in state.callbacks.state().items():
        yield f"companion/{name}", tensor


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; a second Ctrl-C stops at once.

    Outside the main thread, where Python delivers no signals, it always returns False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = threading.Event()

    def note(_signal: int, _frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
