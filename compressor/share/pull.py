"""An artifact from the Hub: names are looked at before a byte is taken, digests before it gets its place.

Downloads go through the cache of `huggingface_hub`, which resumes what was interrupted and fetches nothing twice.
Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from maskpack.compressor.share.remote import PASSED_OVER, asking, check_names, check_repo, hub
from maskpack.formats import ArtifactError, check_artifact
from maskpack.formats.schema import BACKBONE, CARD, MANIFEST, TASK_FOLDER, Manifest
from maskpack.formats.writer import check_free, new_folder, write_bytes, write_manifest

Told = Callable[[str], None]
"""Called with the name of each file before it is fetched."""


@dataclass(frozen=True)
class PullRequest:
    """What to take from where.

    Attributes:
        repo: `owner/name`.
        out: folder to write.
        tasks: to take; none: all.
        revision: branch, tag or commit; None: the main branch.
    """

    repo: str
    out: Path
    tasks: tuple[str, ...] = ()
    revision: str | None = None

    def __post_init__(self) -> None:
        check_repo(self.repo)


@dataclass(frozen=True)
class Pull:
    """What was written.

    Attributes:
        out: the artifact.
        commit: it was at.
        tasks: in it.
        files: name -> bytes.
    """

    out: Path
    commit: str
    tasks: tuple[str, ...]
    files: Mapping[str, int]


@dataclass(frozen=True)
class Remote:
    """A repository at one commit, its names already looked at."""

    repo: str
    commit: str
    names: frozenset[str]

    def fetch(self, name: str, sha256: str | None = None) -> bytes:
        """A file; taken anew if the cached one is not what the manifest says.

        Raises:
            ArtifactError: it is not there, or not what the manifest says.
        """
        if name not in self.names:
            raise ArtifactError(f"`{self.repo}` has no file `{name}`", _ASK)
        for force in (False, True):
            with asking(self.repo, self.commit):
                path = hub().hf_hub_download(
                    self.repo, name, revision=self.commit, force_download=force
                )
                data = Path(path).read_bytes()
            found = hashlib.sha256(data).hexdigest()
            if sha256 in {None, found}:
                return data
        raise ArtifactError(
            f"`{name}` of `{self.repo}` is damaged: its SHA-256 is {found[:12]}, "
            f"the manifest says {(sha256 or '')[:12]}",
            _ASK,
        )


_ASK = "tell whoever published it, or give another `--revision`"


def pull_artifact(request: PullRequest, told: Told = lambda _: None) -> Pull:
    """Write an artifact of the Hub, or some of its tasks, as a folder.

    Raises:
        ArtifactError: it cannot be reached, is no artifact, holds what may not be taken, is damaged, or
            has no such task; or the folder is taken.
    """
    check_free(request.out)
    remote = find_remote(request.repo, request.revision)
    told(MANIFEST)
    text = remote.fetch(MANIFEST)
    manifest = _chosen(_read(text, request.repo), request)
    whole = not request.tasks
    with new_folder(request.out) as build:
        (build / TASK_FOLDER).mkdir()
        for name, sha256 in _wanted(manifest).items():
            told(name)
            write_bytes(build / name, remote.fetch(name, sha256))
        write_manifest(build, manifest)
        if whole and CARD in remote.names:
            told(CARD)
            write_bytes(build / CARD, remote.fetch(CARD))
        if findings := check_artifact(build):
            raise ArtifactError(f"`{request.repo}` is not sound: {findings[0]}", _ASK)
        files = {
            path.relative_to(build).as_posix(): path.stat().st_size
            for path in sorted(build.rglob("*"))
            if path.is_file()
        }
    return Pull(request.out, remote.commit, tuple(sorted(manifest.tasks)), files)


def find_remote(repo: str, revision: str | None) -> Remote:
    """The repository at a revision, if everything in it may be taken.

    Raises:
        ArtifactError: it cannot be reached, or holds a file that is no part of an artifact.
    """
    with asking(repo, revision):
        info = hub().model_info(repo, revision=revision)
    names = frozenset(file.rfilename for file in info.siblings or ())
    if MANIFEST not in names:
        raise ArtifactError(
            f"`{repo}` is no artifact: it has no `{MANIFEST}`",
            "a plain model goes to `compress fit` by its id",
        )
    check_names(names, repo)
    assert info.sha is not None  # it is there for every repository with a file
    return Remote(repo, info.sha, names - PASSED_OVER)


def _read(text: bytes, repo: str) -> Manifest:
    try:
        return Manifest.from_json(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ArtifactError(f"`{MANIFEST}` of `{repo}` is not UTF-8", _ASK) from error


def _chosen(manifest: Manifest, request: PullRequest) -> Manifest:
    """The manifest with the tasks that were asked for."""
    for name in request.tasks:
        if name not in manifest.tasks:
            have = ", ".join(sorted(manifest.tasks)) or "none"
            raise ArtifactError(f"`{request.repo}` has no task `{name}`", f"tasks in it: {have}")
    wanted = request.tasks or tuple(manifest.tasks)
    return replace(manifest, tasks={name: manifest.tasks[name] for name in wanted})


def _wanted(manifest: Manifest) -> dict[str, str]:
    """Name of a file -> its SHA-256, the largest first."""
    patches = {entry.file: entry.sha256 for entry in manifest.tasks.values()}
    return {BACKBONE: manifest.backbone_sha256, **patches, **manifest.files}
