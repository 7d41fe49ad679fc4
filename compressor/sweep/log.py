"""The file of a sweep's results: one JSON line a run, safe to append to from several processes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpack.formats import ConfigError
from maskpack.formats.files import lock
from maskpack.formats.writer import check_writable


@dataclass(frozen=True)
class Log:
    """Lines of a results file.

    Attributes:
        lines: what was read, in the file's order.
        torn: whether the last line was incomplete, because the writer was killed, and left out.
    """

    lines: tuple[Mapping[str, Any], ...]
    torn: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """Keys of the finished runs."""
        return frozenset(line["sweep_key"] for line in self.lines if "sweep_key" in line)


def read_log(path: Path) -> Log:
    """All complete lines of `path`; none if there is no such file.

    Raises:
        ConfigError: a line that is no JSON object, or a file that cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Log(())
    except OSError as error:
        raise ConfigError(f"cannot read `{path}`: {error.strerror}") from error
    whole = content[: _whole(content)]
    lines = []
    for number, line in enumerate(whole.splitlines(), 1):
        if line.strip():
            lines.append(_parse(line, f"line {number} of `{path}`"))
    return Log(tuple(lines), torn=len(whole) < len(content))


def append(path: Path, tree: Mapping[str, Any]) -> bool:
    """Add a line unless its `sweep_key` is there already; return whether it was added.

    One write at the end of the file, under a lock that other processes respect; a torn last line is
    cut off before it.

    Raises:
        ConfigError: the file cannot be written.
    """
    line = json.dumps(tree, sort_keys=True).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            lock(file.fileno(), wait=True)
            content = path.read_bytes()
            whole = _whole(content)
            if whole < len(content):
                file.truncate(whole)
            if tree["sweep_key"] in read_log(path).keys:
                return False
            written = file.write(line)
            os.fsync(file)
    except OSError as error:
        raise ConfigError(f"cannot write `{path}`: {error.strerror}") from error
    if written != len(line):
        raise ConfigError(f"`{path}` took {written} of {len(line)} bytes: is the disk full?")
    return True


def check_log(path: Path) -> None:
    """Raise an error of ours if no line could be added to `path`; no file is made."""
    check_writable(path)
    try:
        if path.exists():
            path.open("ab").close()
    except OSError as error:
        raise ConfigError(f"cannot write `{path}`: {error.strerror}") from error


@contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[bool]:
    """Lock `path`, an empty file, against other processes; False if another process has it.

    Args:
        path: made if it is not there, removed at the end, with its folder if that is empty.
        wait: wait until the other process has ended instead.
    """
    file, free = _open_locked(path, wait=wait)
    try:
        yield free
    finally:
        _remove(path, free=free)
        os.close(file)
        if sys.platform == "win32":  # which removes no file that is open
            _remove(path, free=free)


def _open_locked(path: Path, *, wait: bool) -> tuple[int, bool]:
    """A descriptor of `path`, and whether it is locked.

    Who held it may have removed the file between our opening and our locking it: another process, or another thread of
    this one, then locks a new file of that name, and both would have the claim.
    """
    while True:
        file = open_anew(path)
        try:
            free = lock(file, wait=wait)
            if not free or _is_at(file, path):
                return file, free
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path, *, free: bool) -> None:
    with suppress(OSError):  # another process may be waiting for it, or have a claim beside it
        if free:
            path.unlink()
        path.parent.rmdir()


def open_anew(path: Path) -> int:
    """A descriptor of `path`, whose folder another process may be removing just now."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            # `mkdir` says that there is something, if the folder goes between its two looks
            going = isinstance(error, FileNotFoundError | FileExistsError)
            if not going or path.parent.is_file():
                raise ConfigError(f"cannot write `{path}`: {error.strerror}") from error


def _whole(content: bytes) -> int:
    r"""Bytes up to the end of the last whole line.

    >>> _whole(b'{"a": 1}\n{"b"'), _whole(b"")
    (9, 0)
    """
    return content.rfind(b"\n") + 1


def _parse(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        tree = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}", "remove the line") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} is no JSON object", "remove the line")
    return tree
