"""What the tests of the learning floor share: requests of small runs and ways to stop them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def shared(pytestconfig) -> ModuleType:
    """The conftest of all floors as a module, for its makers of models and data."""
    path = Path(__file__).parents[1] / "conftest.py"
    module = pytestconfig.pluginmanager.get_plugin(str(path))
    assert module is not None
    return module


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


@pytest.fixture(scope="session")
def texts(tmp_path_factory, sentiment):
    """The sentences of `sst2`, a line each, without labels."""
    lines = [line.split("\t")[0] for line in (sentiment / "train.tsv").read_text().splitlines()]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(lines[1:]) + "\n")
    return path
