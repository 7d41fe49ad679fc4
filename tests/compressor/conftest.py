"""What the tests of the learning floor share: quick options, snapshots of folders, ways to stop."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

QUICK = {
    "bits": 4,
    "group": 16,
    "steps": 30,
    "batch_size": 16,
    "max_length": 16,
    "precision": "fp32",
}


@pytest.fixture(scope="session")
def shared(pytestconfig) -> ModuleType:
    """The conftest of all floors as a module, for its makers of models and data."""
    path = Path(__file__).parents[1] / "conftest.py"
    module = pytestconfig.pluginmanager.get_plugin(str(path))
    assert module is not None
    return module


@pytest.fixture(scope="session")
def quick() -> Callable:
    """Options of a fit that takes a fraction of a second, some of them changed."""
    from maskpack.compressor import FitConfig

    return lambda **changes: FitConfig(**{**QUICK, **changes})


@pytest.fixture(scope="session")
def snapshot() -> Callable[[Path], dict[str, str]]:
    """A function: every path under a folder, hidden ones too, with the digest of its bytes."""

    def look(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            )
            for path in sorted(folder.rglob("*"))
        }

    return look


@pytest.fixture(scope="session")
def stop_at() -> Callable:
    """A function: a watcher that presses Ctrl-C after a step."""

    def make(step: int) -> Callable:
        def watch(news) -> None:
            if news.step == step:
                raise KeyboardInterrupt

        return watch

    return make


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """A function: write text or bytes to a file under the test's folder and return its path."""

    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return put


@pytest.fixture
def request_for(tiny_model, sentiment, quick, tmp_path):
    """A function: a request to learn `sst2` on the tiny BERT."""

    from maskpack.compressor import FitRequest
    from maskpack.tasks import find_task

    def make(out: str = "artifact", *, model=tiny_model, name=None, replacing=False, **options):
        config = quick(**options)
        return FitRequest(
            str(model),
            find_task("sst2"),
            tmp_path / out,
            config,
            data=sentiment,
            name=name,
            replace=replacing,
        )

    return make
