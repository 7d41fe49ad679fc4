"""What a call of the tool left behind, whichever way it was called."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> Outcome:
        """Of a process that has ended."""
        return cls(done.returncode, done.stdout, done.stderr)

    @property
    def json(self):
        """All of stdout as one JSON value; words among it would not parse."""
        return json.loads(self.out)
