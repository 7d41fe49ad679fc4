"""Memory that this process can still take, as Linux tells it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MEMINFO, _GROUPS, _MOUNT = "proc/meminfo", "proc/self/cgroup", "sys/fs/cgroup"
_MOST = 2**62  # version 1 writes a number near 2^63 where there is no limit


@dataclass(frozen=True)
class GroupLimit:
    """The limit of a control group, as a container has one; all in bytes.

    Attributes:
        most: memory that its processes may hold.
        used: that they hold, with pages of files.
        droppable: of that, pages of files that were not used of late.
    """

    most: int
    used: int
    droppable: int

    @property
    def free(self) -> int:
        """What its processes can still take."""
        return max(0, self.most - self.used + self.droppable)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can take without swapping; None where the system does not tell.

    Args:
        root: of the file system, for tests.
    """
    free = [limit.free for limit in group_limits(root)]
    with suppress(OSError, ValueError, IndexError):
        lines = (root / _MEMINFO).read_text(encoding="utf-8").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min(free, default=None)


def group_limits(root: Path) -> Iterator[GroupLimit]:
    """Limits of the control groups that this process is in, of both versions, up to the outermost."""
    try:
        rows = [
            line.split(":", 2) for line in (root / _GROUPS).read_text(encoding="utf-8").splitlines()
        ]
    except OSError:
        return
    for _, controllers, path in (row for row in rows if len(row) == 3):
        names = ("memory.max", "memory.current", "inactive_file")
        home = root / _MOUNT
        if controllers:
            if "memory" not in controllers.split(","):
                continue
            names = (*("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file")
            home /= "memory"
        inner = home / path.strip("/")
        for folder in (inner, *inner.parents):
            if (limit := _limit(folder, *names)) is not None:
                yield limit
            if folder == home:
                break


def _limit(folder: Path, most: str, used: str, droppable: str) -> GroupLimit | None:
    """The limit of one group; None if it has none."""
    try:
        bound, held = (int((folder / name).read_text(encoding="utf-8")) for name in (most, used))
        rows = (
            line.split()
            for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
        inactive = sum(int(row[1]) for row in rows if len(row) == 2 and row[0] == droppable)
    except (OSError, ValueError):  # `max` is no number
        return None
    return GroupLimit(bound, held, inactive) if bound < _MOST else None
