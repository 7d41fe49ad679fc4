"""An artifact of the Hub as a folder of the cache, for commands that only read it. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants

from maskpack.formats import ConfigError, is_artifact
from maskpack.formats.card import Describe, plain_facts
from maskpack.hub.transfer import OnFile, PullRequest, find_remote, pull_artifact

_NAME = re.compile(r"hub:(?P<repo>[^/@\s]+/[^/@\s]+)(@(?P<revision>\S+))?")


def cached_artifact(
    path: Path, on_file: OnFile = lambda _: None, *, describe: Describe = plain_facts
) -> Path:
    """The folder of an artifact that is named as `hub:OWNER/NAME[@REVISION]`, fetched and checked once a commit.

    Args:
        path: its name.
        on_file: called with the name of each file before it is fetched.
        describe: as of `pull_artifact`.

    Raises:
        ConfigError: a name of another form.
        ArtifactError: as of `pull_artifact`.
    """
    named = _NAME.fullmatch(path.as_posix())
    if named is None:
        raise ConfigError(
            f"`{path.as_posix()}` is no artifact of the Hub", "hub:OWNER/NAME[@REVISION]"
        )
    commit = find_remote(named["repo"], named["revision"]).commit
    home = Path(constants.HF_HOME) / "maskpack" / named["repo"].replace("/", "--") / commit
    if not is_artifact(home):
        request = PullRequest(named["repo"], home, revision=commit)
        pull_artifact(request, on_file, describe=describe)
    return home
