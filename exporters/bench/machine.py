"""The machine under a figure, and the memory of this process. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")
_FORGET_PEAK = "5"  # what Linux reads as: let the peak be what is held now
_MIB = 1024.0

NOTABLE = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
    "sve",
)
"""Instruction sets that decide how fast integers are multiplied, as Linux calls them."""


@dataclass(frozen=True)
class Machine:
    """Where figures were taken.

    Attributes:
        cpu: model.
        cores: that this process may use.
        instructions: those of `NOTABLE` that are there.
        system, python, onnxruntime, numpy: names and versions.
        load: average number of running processes in the last minute, before and after; None where the
            system does not tell. Above the number of cores, others took turns with the benchmark.
    """

    cpu: str
    cores: int
    instructions: tuple[str, ...]
    system: str
    python: str
    onnxruntime: str
    numpy: str
    load: tuple[float | None, float | None]


def this_machine(load_before: float | None) -> Machine:
    """The machine as it is now.

    Args:
        load_before: of `load_average`, when the figures were begun.
    """
    facts = read_cpuinfo(_read(Path("/proc/cpuinfo")))
    return Machine(
        cpu=facts[0] or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cores(),
        instructions=facts[1],
        system=f"{_system()}, {platform.machine()}",
        python=platform.python_version(),
        onnxruntime=str(onnxruntime.__version__),
        numpy=np.__version__,
        load=(load_before, load_average()),
    )


def read_cpuinfo(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Model and notable instruction sets from the text of `/proc/cpuinfo`; empty where it is silent.

    >>> read_cpuinfo("model name\t: Some CPU\nflags\t\t: sse avx2 avx512_vnni\n")
    ('Some CPU', ('avx2', 'avx512_vnni'))
    """
    lines = [line.partition(":") for line in text.splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in reversed(lines)}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return facts.get("model name", ""), tuple(name for name in NOTABLE if name in flags)


def load_average() -> float | None:
    """Running processes, averaged over the last minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


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
    return read_memory(_read(_STATUS))


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
    values = _kilobytes(_read(_STATUS))
    return values["VmHWM"] / _MIB if "VmHWM" in values else None


def forget_peak() -> None:
    """Let the peak begin at what is held now, where the system can; elsewhere the old one stays."""
    try:
        _FORGET.write_text(_FORGET_PEAK, encoding="ascii")
    except OSError:
        return


def _kilobytes(text: str) -> dict[str, int]:
    rows = [line.split() for line in text.splitlines()]
    return {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}


def _system() -> str:
    """Name and version of the operating system; of Linux, its distribution's."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _cores() -> int:
    return os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
