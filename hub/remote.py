"""The Hub for push and pull: which files may be sent or fetched, and its failures as our errors. Imports no torch.

An artifact needs safetensors, JSON and text. Nothing else is sent or fetched: a repository that holds a pickle, a
program or an unexpected path is refused as a whole, and the error names that file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import HfApi, constants, errors

from maskpack.formats import ArtifactError, ConfigError
from maskpack.formats.card import HUB_ID
from maskpack.formats.schema import (
    BACKBONE,
    CARD,
    COPIED_FILE,
    DIVISORS,
    MANIFEST,
    PATCH_FILE,
)
from maskpack.formats.waiting import announced

_LOG = logging.getLogger(__name__)

PASSED_OVER = {".gitattributes", ".gitignore", "LICENSE", "LICENSE.md", "NOTICE"}
"""Files of a repository that are harmless and no part of an artifact; they are not fetched."""

_SUFFIXES = (".json", ".txt", ".model")  # of configurations and tokenizers
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
_FORBIDDEN = {401, 403}
_BUSY = {408, 429, 500, 502, 503, 504}
# base class of the HTTP library's errors; `huggingface_hub` passes them on and has changed that library
_HTTP_ERROR: type[Exception] = errors.HfHubHTTPError.__bases__[0]


def hub() -> HfApi:
    """The Hub, or what HF_ENDPOINT names."""
    return HfApi(library_name="maskpack")


def check_repo(repo: str) -> str:
    """`repo` itself, if it is `owner/name`.

    Raises:
        ConfigError: it is not.
    """
    if HUB_ID.fullmatch(repo) is None:
        raise ConfigError(f"`{repo}` is no repository of the Hub", "write OWNER/NAME")
    return repo


def may_travel(name: str) -> bool:
    """Whether a file of this name may be part of an artifact on the Hub.

    >>> [may_travel(name) for name in ("tasks/sst2.safetensors", "vocab.txt", "a.py", "../b.json")]
    [True, True, False, False]
    """
    named = {MANIFEST, BACKBONE, DIVISORS, CARD}
    if name in named or PATCH_FILE.fullmatch(name) is not None:
        return True
    return COPIED_FILE.fullmatch(name) is not None and name.endswith(_SUFFIXES)


def check_names(names: Iterable[str], where: str) -> None:
    """Raise ArtifactError if a file may not be sent or fetched; the error names the first in order."""
    odd = sorted(name for name in names if not may_travel(name) and name not in PASSED_OVER)
    if odd:
        raise ArtifactError(
            f"`{where}` holds `{odd[0]}`, which is no part of an artifact"
            + (f", and {len(odd) - 1} more such files" if odd[1:] else ""),
            "artifacts are safetensors, JSON and text in a flat folder; remove it there",
        )


def check_token() -> None:
    """Raise ArtifactError unless there is a token to write with."""
    if huggingface_hub.get_token() is None:
        raise ArtifactError("there is no token for the Hub", _LOG_IN)


@contextmanager
def asking(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn exceptions of the library in this block into our errors.

    Raises:
        ArtifactError: no network, no such repository or revision, no right to it, or a busy server.
    """
    try:
        with announced(_LOG, f"exchange with the Hub about `{repo}`"):
            yield
    except errors.HFValidationError as error:
        raise ConfigError(f"`{repo}` is no repository of the Hub: {error}") from error
    except errors.GatedRepoError as error:
        hint = f"ask for it at {constants.ENDPOINT}/{repo}, then {_LOG_IN}"
        raise ArtifactError(f"`{repo}` is gated: you have no access yet", hint) from error
    except errors.RepositoryNotFoundError as error:
        raise ArtifactError(
            f"the Hub has no repository `{repo}`, or it is private and not yours",
            f"check the name; for a private one {_LOG_IN}",
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ArtifactError(
            f"`{repo}` has no revision `{revision or constants.DEFAULT_REVISION}`",
            "give a branch, a tag or a commit",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise ArtifactError("HF_HUB_OFFLINE forbids the network", "unset it") from error
    except errors.LocalEntryNotFoundError as error:  # a download that reached no server
        raise _unreachable(error.__cause__ or error) from error
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error) from error
    except (OSError, _HTTP_ERROR) as error:
        raise _unreachable(error) from error
    except ValueError as error:
        raise _odd(repo, error) from error


def _refused(repo: str, error: errors.HfHubHTTPError) -> ArtifactError:
    """An answer with an error status as our error."""
    status = error.response.status_code if error.response is not None else 0
    said = (error.server_message or str(error)).splitlines()[0][:200]
    if status in _FORBIDDEN:
        return ArtifactError(f"the Hub refuses access to `{repo}` ({status}): {said}", _LOG_IN)
    hint = "try again later; what was transferred is kept" if status in _BUSY else None
    return ArtifactError(f"the Hub answers {status} for `{repo}`: {said}", hint)


def _odd(repo: str, error: ValueError) -> ArtifactError:
    """A plain `ValueError` of the library as our error: its cause or its text says what is wrong."""
    cause = error.__cause__
    if isinstance(cause, errors.HfHubHTTPError):  # such as a card that the Hub does not accept
        return _refused(repo, cause)
    if cause is not None:  # a second try that reached no server
        return _unreachable(cause)
    said = " ".join(str(error).split())[:200]  # such as large files that do not fit
    return ArtifactError(f"the exchange with the Hub about `{repo}` failed: {said}")


def _unreachable(error: BaseException) -> ArtifactError:
    """A failed or broken connection as our error."""
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ArtifactError("HF_HUB_OFFLINE forbids the network", "unset it")
    has_errno = isinstance(error, OSError) and error.errno is not None
    if has_errno and not isinstance(error, ConnectionError | TimeoutError):
        where = f"`{constants.HF_HUB_CACHE}`"
        return ArtifactError(f"cannot write to {where}: {error}", "free some space, or set HF_HOME")
    return ArtifactError(
        f"no connection to {constants.ENDPOINT}, or it broke: {type(error).__name__}",
        "check the network, then run the same command again: it goes on where it stopped",
    )
