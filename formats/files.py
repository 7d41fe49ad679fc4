"""What Linux, macOS and Windows do not do alike with files: renames, locks, temporary folders, names."""

from __future__ import annotations

import gc
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PAUSES = (0.0, 0.05, 0.2, 0.5, 1.0)  # seconds before a rename is tried again
_LOCK = ".lock"
_FAR = 1 << 30  # a byte behind every file's end: Windows lets nobody read one that is locked
_POLL = 0.1  # seconds
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{k}{n}" for k in ("com", "lpt") for n in range(10)}
_HALF = re.compile("[\ud800-\udfff]")
_FORBIDDEN = frozenset('<>:"\\|?*') | {chr(number) for number in range(32)}


def rename(source: Path, target: Path) -> None:
    """Rename a file or a folder over what is at `target`: a file, or an empty folder.

    Windows refuses while somebody has either open. Maps of our own that nothing uses any more are let go, and
    programs that look at every new file, as virus scanners do, are given two seconds.
    """
    if source.is_dir():
        with suppress(OSError):
            target.rmdir()  # Windows renames over no folder, not even over an empty one
    for pause in _PAUSES if sys.platform == "win32" else ():
        try:
            source.replace(target)
        except PermissionError:
            gc.collect()
            time.sleep(pause)
        else:
            return
    source.replace(target)


def open_for_lock(folder: Path) -> int:
    """A descriptor to lock a folder by: its own, or where folders cannot be opened, that of a file in it."""
    if sys.platform == "win32":
        return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    return os.open(folder, os.O_RDONLY)


def lock(file: int, *, wait: bool) -> bool:
    """Hold a file against other processes until it is closed.

    Args:
        file: its descriptor.
        wait: wait while another process holds it, instead of returning False.
    """
    while True:
        try:
            if sys.platform == "win32":
                os.lseek(file, _FAR, os.SEEK_SET)
                msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if not wait:
                return False
            time.sleep(_POLL)  # Windows itself waits for ten seconds at most
        else:
            return True


def scratch_folder(prefix: str = "maskpack-", near: Path | None = None) -> TemporaryDirectory[str]:
    """A temporary folder, in the system's or in `near`. Windows keeps files in it that are still mapped."""
    return TemporaryDirectory(prefix=prefix, dir=near, ignore_cleanup_errors=True)


def name_key(name: str) -> str:
    """What two names share that are one file on macOS or Windows: letters alike but for case and accents' spelling."""
    return unicodedata.normalize("NFC", name).casefold()


def name_problem(names: Iterable[str]) -> str | None:
    """Why files of these names, with `/` between folders, cannot lie in one folder on every system, if so.

    >>> name_problem(["a/con.txt"]), name_problem(["a/B.txt", "a/b.txt"]), name_problem(["a", "b"])
    ('Windows takes no file `con.txt`', '`a/B.txt` and `a/b.txt` are one file on macOS and Windows', None)
    """
    seen: dict[str, str] = {}
    for name in names:
        for part in name.split("/"):
            device = part.split(".")[0].rstrip().casefold() in _DEVICES
            if device or part.endswith((".", " ")) or _FORBIDDEN & set(part):
                return f"Windows takes no file `{part}`"
        other = seen.setdefault(name_key(name), name)
        if other != name:
            return f"`{other}` and `{name}` are one file on macOS and Windows"
    return None


def half_letter(text: str) -> bool:
    r"""Whether a text holds half of a surrogate pair: JSON and YAML can spell one, no file and no tokenizer takes it.

    >>> half_letter("nice \ud83d"), half_letter("nice \U0001f600")
    (True, False)
    """
    return _HALF.search(text) is not None
