"""Files of models of the Hub. Whether the Hub can be reached is asked first: each further question would wait again.

Without a network libraries try every file several times, half a minute each. So after one failure the cache is all that is read.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, errors
from transformers.utils import cached_file

from maskpack.models.failures import guard, waiting_for

_LOG = logging.getLogger(__name__)

_asked: dict[str, tuple[float, bool]] = {}  # hub id -> when it was asked for, whether in vain
_VALID = 60.0  # seconds
_PATIENCE = 10.0  # seconds for the one question
_ANSWERS = (
    errors.HfHubHTTPError,
    errors.HFValidationError,
)  # of a Hub that can be reached, or of no id


def reading_options(location: str, revision: str | None) -> dict[str, Any]:
    """Options with which transformers reads a folder or a hub id: no network where there is none."""
    local = Path(location).is_dir() or is_offline(location)
    return {"revision": revision, "local_files_only": local}


def is_offline(location: str) -> bool:
    """Whether the Hub does not answer; asked once a minute for a hub id, because a network may come back."""
    now = time.monotonic()
    if location not in _asked or now - _asked[location][0] > _VALID:
        _asked[location] = (now, not _answers(location))
    return _asked[location][1]


def _answers(location: str) -> bool:
    try:
        with waiting_for(location):
            HfApi(library_name="maskpack").repo_info(location, timeout=_PATIENCE)
    except _ANSWERS:
        return True
    except Exception as error:  # noqa: BLE001 - of the HTTP library, which `huggingface_hub` has changed once
        if not isinstance(error, errors.OfflineModeIsEnabled):
            _LOG.info(
                "no connection to %s: `%s` is read from the cache", constants.ENDPOINT, location
            )
        return False
    return True


def reading_place(location: str, revision: str | None) -> str:
    """What transformers reads: the folder in the cache where the Hub does not answer, or it would ask for adapters."""
    if Path(location).is_dir() or not is_offline(location):
        return location
    config = file_of(location, "config.json", revision=revision)
    return location if config is None else str(config.parent)


def why_offline() -> str:
    """Why nothing is fetched, in words."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids the network"
    return f"there is no connection to {constants.ENDPOINT}"


def file_of(location: str, name: str, *, revision: str | None = None) -> Path | None:
    """A file of a folder or a hub model on this machine; None if it has no such file.

    Raises:
        ModelError: no such model.
    """
    if Path(location).is_dir():
        path = Path(location) / name
        return path if path.is_file() else None
    found = guard(
        lambda: cached_file(
            location,
            name,
            **reading_options(location, revision),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        ),
        location,
    )
    return None if found is None else Path(found)


def commit_of(file: Path) -> str | None:
    """Commit of a file in the cache of the Hub; None for any other file."""
    return file.parent.name if re.fullmatch("[0-9a-f]{40}", file.parent.name) else None
