"""Tables on disk that take long to make: rows of a large file, and their tokens. Arrow files, mapped into memory.

A table is one file, `data.arrow`, in a folder that is named after what the table was made of; `about.json` beside it holds that,
and size and digest of the file. `about.json` is written last, so that a table is whole or not there. A table that is
damaged is made again. The files are streams of Arrow as `datasets.Dataset.from_file` opens them. Every table can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskpack.formats import DataError
from maskpack.formats.codec import file_sha256
from maskpack.formats.errors import Hint
from maskpack.formats.extras import needed_for
from maskpack.formats.files import lock, open_for_lock, rename
from maskpack.formats.waiting import announced

_LOG = logging.getLogger(__name__)
_VERSION = 1  # of what stands in the tables
_DATA, _ABOUT, _UNFINISHED = "data.arrow", "about.json", "data.arrow.unfinished"
_LEAST = 32 << 20  # bytes of a file whose rows are kept in a cache
_PACKED = {".gz": 4, ".parquet": 3}  # ending -> bytes of text in a byte of the file, roughly
AUTO, OFF = "auto", "off"
"""As `cache`: large files alone, in the usual folder; no cache."""

FOLDER = "MASKPACK_CACHE"
"""Environment variable that names the cache's folder."""

_ELSEWHERE = Hint("give another folder as `cache`, or `off`")


@dataclass(frozen=True)
class Cache:
    """A folder of tables.

    Attributes:
        folder: where they are.
        always: whether rows of every file are kept there; else of large ones alone.
    """

    folder: Path
    always: bool = False

    @classmethod
    def of_option(cls, option: str) -> Cache | None:
        """The cache that an option names: `auto`, `off`, or a folder; None: all rows stay in memory."""
        if option == OFF:
            return None
        return cls(usual_folder()) if option == AUTO else cls(Path(option), always=True)

    def takes(self, path: Path) -> bool:
        """Whether rows of this file are kept here, and not in memory."""
        if self.always:
            return True
        if not path.is_file() or unpacked_size(path) < _LEAST:
            return False
        try:
            import pyarrow  # noqa: F401, ICN001, PLC0415 - an optional extra
        except ModuleNotFoundError:
            hint = Hint('`pip install "maskpack[data]"` keeps them on disk')
            _LOG.info("all rows of `%s` are read into memory; %s", path, hint)
            return False
        return True

    def table(self, recipe: Recipe) -> Any:
        """A table of pyarrow, mapped into memory; made first if it is not there or damaged.

        Raises:
            DataError: the folder cannot be written or has no room, or what the table is made of is at fault.
        """
        with needed_for(f"a cache of {recipe.what}"):
            import pyarrow  # noqa: F401, ICN001, PLC0415 - an optional extra
        home = self.folder / f"{recipe.kind}-{recipe.key[:32]}"
        with _held(home, recipe.what):
            with announced(_LOG, f"checking the cache of {recipe.what}"):
                problem = _problem(home, recipe)
            if problem:
                _LOG.warning("the cache `%s` %s; it is made again", home, problem)
            if problem is None:
                _LOG.info("%s: taken from the cache `%s`", recipe.what, home)
            else:
                _make(home, recipe)
            return _mapped(home / _DATA)


@dataclass(frozen=True)
class Recipe:
    """What a table is made of, and how.

    Attributes:
        kind: beginning of its folder's name.
        what: in words, for people.
        of: all that decides what stands in it, as JSON has it.
        pages: its record batches, of one schema, one after the other.
        size: gives its bytes, roughly.
    """

    kind: str
    what: str
    of: Mapping[str, Any]
    pages: Callable[[], Iterator[Any]]
    size: Callable[[], int]

    @property
    def content(self) -> dict[str, Any]:
        """All that decides what stands in the table, the version of the cache included, as JSON gives it back."""
        content: dict[str, Any] = json.loads(json.dumps({**self.of, "version": _VERSION}))
        return content

    @property
    def key(self) -> str:
        """Digest of it."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()


def unpacked_size(path: Path) -> int:
    """Bytes of a file's text, roughly."""
    return path.stat().st_size * _PACKED.get(path.suffix.lower(), 1)


def usual_folder() -> Path:
    """The folder of `MASKPACK_CACHE`, or `maskpack` where the system keeps such files."""
    if named := os.environ.get(FOLDER):
        return Path(named)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "maskpack"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "maskpack"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "maskpack"


@contextmanager
def _held(home: Path, what: str) -> Iterator[None]:
    """Hold a table's folder against other processes that make the same table."""
    try:
        with announced(_LOG, f"another process makes the cache of {what}"):
            file = _locked(home)
    except OSError as error:
        raise _cannot_write(home, error) from error
    try:
        yield
    finally:
        os.close(file)


def _locked(home: Path) -> int:
    """A descriptor that holds a folder; one that another process has removed meanwhile is made again."""
    while True:
        home.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            file = open_for_lock(home)
            try:
                lock(file, wait=True)
                if sys.platform == "win32" or os.path.samestat(os.fstat(file), home.stat()):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)


def _problem(home: Path, recipe: Recipe) -> str | None:
    """What is wrong with a table in words; empty if there is none, None if it can be used."""
    try:
        about = json.loads((home / _ABOUT).read_bytes())
        size = (home / _DATA).stat().st_size
        if about["of"] != recipe.content:
            return "belongs to other data"
        if size != about["bytes"]:
            return f"is damaged: {size:,} bytes, {about['bytes']:,} were written"
        if file_sha256(home / _DATA) != about["sha256"]:
            return "is damaged: its digest is another one"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is damaged: {error}"
    return None


def _make(home: Path, recipe: Recipe) -> None:
    """Write a table; if that fails, nothing of it stays."""
    try:
        for name in (_ABOUT, _DATA, _UNFINISHED):
            (home / name).unlink(missing_ok=True)
        _check_room(home, recipe)
        _write(home / _UNFINISHED, recipe.pages())
        size, digest = (home / _UNFINISHED).stat().st_size, file_sha256(home / _UNFINISHED)
        rename(home / _UNFINISHED, home / _DATA)
        about = {"of": recipe.content, "bytes": size, "sha256": digest}
        (home / _UNFINISHED).write_bytes(json.dumps(about, indent=1).encode())
        rename(home / _UNFINISHED, home / _ABOUT)
    except BaseException as error:
        _remove(home)
        if isinstance(error, OSError):
            raise _cannot_write(home, error) from error
        raise
    _LOG.info("%s: kept in `%s`, %.1f MB; it may be deleted", recipe.what, home, size / 1e6)


def _remove(home: Path) -> None:
    """Remove what there is of a table."""
    with suppress(OSError):
        for name in (_ABOUT, _DATA, _UNFINISHED):
            (home / name).unlink(missing_ok=True)
        home.rmdir()  # not on Windows: the lock is in it


def _write(path: Path, pages: Iterator[Any]) -> None:
    """Write record batches as a stream of Arrow."""
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    first = next(pages)
    with path.open("wb") as file, pa.ipc.new_stream(file, first.schema) as writer:
        writer.write_batch(first)
        for page in pages:
            writer.write_batch(page)


def _mapped(path: Path) -> Any:
    import pyarrow as pa  # noqa: PLC0415 - an optional extra

    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all()


def _check_room(home: Path, recipe: Recipe) -> None:
    """Raise DataError if the disk has not the room that a table takes."""
    try:
        free = shutil.disk_usage(home).free
    except OSError:  # a system that does not tell
        return
    size = recipe.size()
    if free < size:
        raise DataError(
            f"the cache of {recipe.what} takes some {size / 1e6:,.0f} MB in `{home.parent}`, "
            f"{free / 1e6:,.0f} MB are free there",
            _ELSEWHERE,
        )


def _cannot_write(home: Path, error: OSError) -> DataError:
    reason = error.strerror or str(error)
    return DataError(f"cannot write the cache `{home}`: {reason}", _ELSEWHERE)


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with announced(_LOG, f"digesting `{path}`"):
            return file_sha256(path)
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error}") from error
