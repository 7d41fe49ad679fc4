"""Two ways to call the tool: as a process of its own, and `main()` in this one, which is faster."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from outcome import Outcome

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def main(monkeypatch, capfd) -> Callable[..., Outcome]:
    """`main(*args, stdin=...)`: the entry point of the scripts, called in this process."""
    from maskpack.cli import app

    def call(*args: object, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["compress", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            app.main()
        captured = capfd.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def failing(monkeypatch) -> Callable[[BaseException], None]:
    """`failing(error)`: from now on a classification raises it, where it learns and where it answers."""
    from maskpack.tasks.types import TASK_TYPES
    from maskpack.tasks.types.single_label import SingleLabel

    def fail(error: BaseException) -> None:
        class Failing(SingleLabel):
            def loss(self, logits, labels):
                raise error

            def answers(self, logits):
                raise error

        monkeypatch.setitem(TASK_TYPES, "classification", Failing())

    return fail


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of child processes: one thread, no network, nothing written beside the sources."""
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **quiet, "PYTHONHASHSEED": "random"}


@pytest.fixture(scope="session")
def shell(environment) -> Callable[..., Outcome]:
    """`shell("compress", *args, cwd=...)`: a console script as a process of its own."""

    def call(script: str, *args: object, cwd: Path, **options) -> Outcome:
        done = subprocess.run(
            [str(SCRIPTS / script), *map(str, args)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            **options,
        )
        return Outcome.of(done)

    return call


@pytest.fixture(scope="session")
def short() -> list[str]:
    """Options of a fit of a second."""
    words = "--steps 4 --batch-size 16 --max-length 16 --precision fp32 --teacher none --bits 4 --group 16"
    return words.split()
