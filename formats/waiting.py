"""A line for who waits: where something takes longer than some seconds, the log says what is being tried."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 3.0  # seconds
_AGAIN = 15.0  # seconds between two lines on the same work


@contextmanager
def announced(log: logging.Logger, what: str) -> Iterator[None]:
    """Log what is done in this block if it is not done after `PATIENCE` seconds.

    Args:
        log: of the module that waits.
        what: in a few words, such as "getting `me/model` from the Hub".
    """
    timer = threading.Timer(PATIENCE, lambda: log.info("%s; still waiting", what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Counted:
    """Log how far some work is, if it takes longer than `PATIENCE` seconds.

    Args:
        log: of the module that works.
        what: in a few words.
        total: rows in all, if that is known.
    """

    def __init__(self, log: logging.Logger, what: str, total: int | None = None) -> None:
        self._log, self._what, self._total = log, what, total
        self._done, self._started = 0, time.monotonic()
        self._due = self._started + PATIENCE

    def add(self, rows: int) -> None:
        """Count rows that are done."""
        self._done += rows
        now = time.monotonic()
        if now < self._due:
            return
        self._due, share = now + _AGAIN, ""
        if self._total is not None:
            left = (now - self._started) * (self._total - self._done) / self._done
            share = f" of {self._total:,}, about {left:.0f} s left"
        self._log.info("%s: %s%s", self._what, f"{self._done:,}", share)
