"""Memory of this process, as Linux tells it. Imports nothing heavy: what is measured is not what measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")
_FORGET_PEAK = b"5"  # what Linux reads as: let the peak be what is held now
_MIB = 1024.0


@dataclass(frozen=True)
class Memory:
    """Memory of a process, in MiB.

    Attributes:
        rss: in RAM.
        anon: of that, its own; the system can only get it back by swapping.
        mapped: of that, pages of files; processes share them, and the system can drop them.
    """

    rss: float
    anon: float
    mapped: float

    def since(self, before: Memory) -> Memory:
        """What has come since."""
        return Memory(self.rss - before.rss, self.anon - before.anon, self.mapped - before.mapped)


def memory_now() -> Memory | None:
    """Memory of this process; None where the system has no `/proc`."""
    return read_memory(_status())


def read_memory(text: str) -> Memory | None:
    r"""Memory from the text of `/proc/self/status`, or None if it is not told there.

    >>> read_memory("VmRSS: 3072 kB\nRssAnon: 2048 kB\nRssFile: 1024 kB\nRssShmem: 0 kB\n")
    Memory(rss=3.0, anon=2.0, mapped=1.0)
    """
    values = _kilobytes(text)
    if not {"VmRSS", "RssAnon", "RssFile"} <= values.keys():
        return None
    mapped = values["RssFile"] + values.get("RssShmem", 0)
    return Memory(values["VmRSS"] / _MIB, values["RssAnon"] / _MIB, mapped / _MIB)


def peak_memory() -> float | None:
    """Most RAM this process has held since `forget_peak`, in MiB; None where nobody tells."""
    values = _kilobytes(_status())
    return values["VmHWM"] / _MIB if "VmHWM" in values else None


def forget_peak() -> None:
    """Let the peak begin at what is held now, where the system can; elsewhere the old one stays."""
    try:
        _FORGET.write_bytes(_FORGET_PEAK)
    except OSError:
        return


def _kilobytes(text: str) -> dict[str, int]:
    rows = [line.split() for line in text.splitlines()]
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def _status() -> str:
    try:
        return _STATUS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
