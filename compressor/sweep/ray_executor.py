"""A sweep's runs on the workers of a Ray cluster that is joined, or started on this machine.

The driver claims runs, adds lines and retries; a worker learns and measures (`ray_worker.py`). Ray itself retries nothing:
its own repetition would be silent, and a run that kills every worker has to end somewhere.
"""

from __future__ import annotations

import logging
import os
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from maskpack.compressor.sweep.executors import Attempt, ExecutorOptions
from maskpack.compressor.sweep.log import open_anew
from maskpack.compressor.sweep.parallel import attempt_all
from maskpack.compressor.sweep.plan import Resources, Run
from maskpack.compressor.sweep.ray_cluster import check_fits, cluster
from maskpack.compressor.sweep.ray_worker import Order, UnfitError
from maskpack.compressor.training.progress import OnProgress
from maskpack.compressor.types import RunResult
from maskpack.formats import ConfigError, Interrupted, MaskpackError
from maskpack.formats.errors import first_line

_LOG = logging.getLogger(__name__)

_AT_ONCE = (
    100  # runs that are claimed and wait for a worker: an autoscaler sees what there is to do
)
_TRIES = 4  # workers that a run may lose
_POLL = 0.5  # seconds
_START = 60.0  # seconds for the board of progress
_GRACE = 10.0  # seconds for workers to end their runs after Ctrl-C
_SAME = ("maskpack", "torch", "transformers", "numpy")
_PASSED_ON = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS",
              "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_VERBOSITY", "TOKENIZERS_PARALLELISM")  # fmt: skip


class RayExecutor:
    """Workers of a Ray cluster, several runs at once.

    Args:
        options: address of the cluster and resources of a run.
    """

    def __init__(self, options: ExecutorOptions) -> None:
        self._options = options

    def execute(self, runs: Sequence[Run], attempt: Attempt) -> None:
        """Attempt every run on a worker.

        Raises:
            ConfigError: a cluster that cannot be joined, or workers that cannot do the runs.
        """
        address, resources = self._options.address, self._options.resources
        with cluster(address), _marked({run.home for run in runs}) as mark:
            check_fits(resources, own=address is None)
            crew = _Crew(resources, mark)
            try:
                attempt_all(runs, attempt, crew.do, most=_AT_ONCE, halt=crew.halt)
            except _UnfitWorker as stop:
                raise stop.error from None


class _UnfitWorker(Exception):  # noqa: N818 - no error of a run, which `attempt` would record
    """Carries an error that ends the sweep past `attempt`."""

    def __init__(self, error: MaskpackError) -> None:
        super().__init__(str(error))
        self.error = error


class _Crew:
    """The workers, for `attempt_all`.

    Args:
        resources: of each run.
        mark: name and content of the file that tells workers the sweep's folder.
    """

    def __init__(self, resources: Resources, mark: str) -> None:
        found, enter = _entry()
        self._expected = found(("Python", *_SAME))
        self._enter = ray.remote(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=0
        )(enter)  # fmt: skip
        self._environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        if not resources.gpus:  # whether Ray itself hides them depends on its version
            self._environment["CUDA_VISIBLE_DEVICES"] = ""
        self._threads, self._mark = resources.cpus, mark
        self._board = _make_board()
        self._lock = threading.Lock()
        self._flying: dict[str, Any] = {}  # a run's key -> the reference to its result
        self._news: dict[str, bytes] = {}
        self._asked, self._question = 0.0, None
        self._halted: float | None = None

    def do(self, run: Run, *, on_progress: OnProgress) -> RunResult:
        """The result of the run from a worker; if that is lost, from another.

        Raises:
            MaskpackError: what ended the run, as on this machine.
            ConfigError: the run lost several workers.
            Interrupted: the sweep is halted.
        """
        for _ in range(_TRIES):
            reference = self._send(run)
            try:
                answer = self._wait(run, reference, on_progress)
            except TaskCancelledError as error:
                raise Interrupted(f"stopped in `{run.title}`") from error
            except RayTaskError:
                raise  # a bug: the traceback of the worker is in it
            except RayError as error:
                lost = error
            except BaseException:
                ray.cancel(reference)
                raise
            else:
                if not isinstance(answer, Interrupted):
                    return self._result(answer)
                lost = RayError("it was interrupted")  # by somebody else than we
            if self._halted is not None:
                raise Interrupted(f"stopped in `{run.title}`")
            _LOG.warning("the worker of `%s` was lost: %s", run.title, first_line(lost))
        raise _lost(lost)

    def halt(self) -> None:
        """Cancel all that is under way; from now on `do` raises `Interrupted`."""
        with self._lock:
            self._halted = time.monotonic()
            for reference in self._flying.values():
                with suppress(RayError, ValueError):
                    ray.cancel(reference)

    def _send(self, run: Run) -> Any:
        mark = run.home / self._mark
        order = Order(run, Path.cwd(), mark, self._mark, self._threads)
        with self._lock:
            if self._halted is not None:
                raise Interrupted(f"stopped in `{run.title}`")
            self._flying[run.key] = reference = self._enter.options(name=run.title).remote(
                self._expected, self._environment, pickle.dumps(order), self._board
            )
        return reference

    def _wait(self, run: Run, reference: Any, on_progress: OnProgress) -> Any:
        """What the worker answers; its progress is passed on meanwhile."""
        try:
            while True:
                ended, _ = ray.wait([reference], timeout=_POLL)
                news = self._progress_of(run.key, now=bool(ended))
                if news is not None:
                    on_progress(pickle.loads(news))  # noqa: S301 - from our own worker
                if ended:
                    return ray.get(reference)
                if self._halted is not None and time.monotonic() > self._halted + _GRACE:
                    raise Interrupted(f"stopped in `{run.title}`")  # the cluster is left, it ends
        finally:
            with self._lock:
                self._flying.pop(run.key, None)

    def _progress_of(self, key: str, *, now: bool) -> bytes | None:
        """The last progress of a run; the board is asked by one thread for all, and seldom."""
        with self._lock:
            if now and self._question is not None:
                self._ask(_GRACE)  # it may be older than the last news
            if now or time.monotonic() - self._asked > _POLL:
                self._ask(_GRACE if now else _POLL)
                self._asked = time.monotonic()
            return self._news.pop(key, None)

    def _ask(self, timeout: float) -> None:
        """Take what the board has; an answer that does not come in time is waited for again later, because it has the news."""
        if self._question is None:
            self._question = self._board.take.remote()
        try:
            self._news.update(ray.get(self._question, timeout=timeout))
        except GetTimeoutError:
            return
        except RayError as error:  # the board was lost, and starts again
            _LOG.debug("progress was lost: %s", first_line(error))
        self._question = None

    def _result(self, answer: Any) -> RunResult:
        if isinstance(answer, tuple):
            host, here = answer
            raise _UnfitWorker(_other_versions(host, here, self._expected))
        if isinstance(answer, UnfitError):
            raise _UnfitWorker(answer)
        if isinstance(answer, MaskpackError):
            raise answer
        assert isinstance(answer, RunResult)
        return answer


def _entry() -> tuple[Callable[..., dict[str, str | None]], Callable[..., Any]]:
    """A function that finds versions, and the one that workers run.

    They stand inside of functions so that Ray sends their code: of a module it would send the name, and a worker without
    maskpack would fail before it can say so.
    """
    found = _finder()

    def enter(
        expected: Mapping[str, str | None], environment: Mapping[str, str], order: bytes, board: Any
    ) -> Any:
        import os  # noqa: PLC0415 - it runs where this module is not
        import platform  # noqa: PLC0415
        from contextlib import suppress  # noqa: PLC0415

        import ray  # noqa: PLC0415

        here = found(tuple(expected))
        if here != expected:
            return platform.node(), here
        os.environ.update(environment)

        def report(key: str, news: bytes, last: bool) -> None:
            reference = board.report.remote(key, news)
            if last:  # the driver shall see it before the result
                with suppress(Exception):
                    ray.get(reference, timeout=5)

        from maskpack.compressor.sweep.ray_worker import do_order  # noqa: PLC0415

        return do_order(order, report)

    return found, enter


def _finder() -> Callable[[Sequence[str]], dict[str, str | None]]:
    def found(names: Sequence[str]) -> dict[str, str | None]:
        import platform  # noqa: PLC0415 - it runs where this module is not
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

        versions: dict[str, str | None] = {}
        for name in names:
            try:
                whole = platform.python_version() if name == "Python" else version(name)
            except PackageNotFoundError:
                whole = None
            versions[name] = whole and whole.partition("+")[0]  # 2.9.0+cpu is 2.9.0+cu128
        return versions

    return found


def _make_board() -> Any:
    """An actor beside the driver that keeps the last progress of each run until it is taken."""

    class Board:
        def __init__(self) -> None:
            self.news: dict[str, bytes] = {}

        def report(self, key: str, news: bytes) -> None:
            self.news[key] = news

        def take(self) -> dict[str, bytes]:
            taken, self.news = self.news, {}
            return taken

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Board).remote()
    # behind runs that fill the cores it may take minutes to start, and nobody would see what they do
    ray.wait([board.take.remote()], timeout=_START)
    return board


def _lost(error: RayError) -> ConfigError:
    fact = f"{_TRIES} workers were lost in it; the last one: {first_line(error)}"
    if isinstance(error, OutOfMemoryError):
        return ConfigError(fact, "give a run more `cpus` in `resources`, so that fewer run at once")
    return ConfigError(
        fact, "look into Ray's logs on the worker's machine, `/tmp/ray/session_latest/logs`"
    )


def _other_versions(
    host: str, here: Mapping[str, str | None], expected: Mapping[str, str | None]
) -> ConfigError:
    name = next(name for name, version in expected.items() if here[name] != version)
    worker = "no " + name if here[name] is None else f"{name} {here[name]}"
    return ConfigError(
        f"the worker on `{host}` has {worker}, this process has {name} {expected[name]}",
        "install the same versions on all machines of the cluster",
    )


@contextmanager
def _marked(homes: set[Path]) -> Iterator[str]:
    """Put a file into each folder that workers must share with us; its name is its content."""
    mark = f".ray-{secrets.token_hex(8)}"
    try:
        for home in homes:
            with os.fdopen(open_anew(home / mark), "wb") as file:
                file.write(mark.encode())
        yield mark
    except OSError as error:
        raise ConfigError(f"cannot write `{error.filename}`: {error.strerror}") from error
    finally:
        for home in homes:
            with suppress(OSError):
                (home / mark).unlink(missing_ok=True)
                home.rmdir()  # if it is empty
