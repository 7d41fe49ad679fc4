"""An artifact to the Hub: checked first, sent as it is, in one commit. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from maskpack.compressor.share.remote import asking, check_names, check_repo, check_token, hub
from maskpack.formats import Artifact, ArtifactError, check_artifact, open_artifact
from maskpack.formats.card import CardFacts, is_ours, render_card
from maskpack.formats.schema import BACKBONE, CARD, MANIFEST, PATCH_FILE
from maskpack.formats.writer import locked


@dataclass(frozen=True)
class PushRequest:
    """What to send where.

    Attributes:
        artifact: its folder.
        repo: `owner/name`.
        private: of a repository that is made now; one that is there stays as it is.
        revision: branch to commit to, made if it is not there; None: the main one.
        message: of the commit; None: one that names the tasks.
        license, languages: for the card; what the artifact tells, if not given.
    """

    artifact: Path
    repo: str
    private: bool = True
    revision: str | None = None
    message: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_repo(self.repo)
        _ = self.facts  # checks what it is told

    @property
    def facts(self) -> CardFacts:
        """What the card says that the manifest does not know."""
        return CardFacts(self.repo, self.license, self.languages)


@dataclass(frozen=True)
class Push:
    """What is sent, or would be.

    Attributes:
        files: name in the repository -> bytes.
        message: of the commit.
        contents: name -> file to read, or what it holds.
        commit, url: of the commit; None before there is one.
    """

    files: Mapping[str, int]
    message: str
    contents: Mapping[str, Path | bytes] = field(repr=False)
    commit: str | None = None
    url: str | None = None


def plan_push(request: PushRequest) -> Push:
    """Check an artifact and list what would be sent; asks no network.

    Raises:
        ArtifactError: it is damaged, or holds a file that may not travel.
    """
    if findings := check_artifact(request.artifact):
        raise ArtifactError(
            f"`{request.artifact}` is not sound: {findings[0]}",
            "`compress check` lists all that is wrong",
        )
    opened = open_artifact(request.artifact)
    patches = [entry.file for entry in opened.manifest.tasks.values()]
    names = [BACKBONE, *opened.manifest.files, *patches, MANIFEST]
    check_names(names, str(request.artifact))
    contents: dict[str, Path | bytes] = {name: request.artifact / name for name in names}
    contents[CARD] = _card(opened, patches, request.facts)
    files = {name: _size(source) for name, source in sorted(contents.items())}
    tasks = ", ".join(sorted(opened.manifest.tasks)) or "no task yet"
    return Push(files, request.message or f"maskpack artifact: {tasks}", contents)


def push_artifact(request: PushRequest) -> Push:
    """Send an artifact; the repository then holds it and no patch of an older one.

    Raises:
        ArtifactError: it is damaged; no token, no network, or no right to write there; or there is a
            file that is no part of an artifact.
    """
    check_token()
    with locked(request.artifact):
        plan = plan_push(request)
        additions = [
            CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
            for name, source in sorted(plan.contents.items())
        ]
        with asking(request.repo, request.revision):
            api = hub()
            api.create_repo(request.repo, private=request.private, exist_ok=True)
            if request.revision is not None:
                api.create_branch(request.repo, branch=request.revision, exist_ok=True)
            found = api.model_info(request.repo, revision=request.revision)
            there = [file.rfilename for file in found.siblings or ()]
            check_names(there, request.repo)  # nobody could pull it
            patches = [name for name in there if PATCH_FILE.fullmatch(name)]
            stale = [name for name in patches if name not in plan.contents]
            done = api.create_commit(
                request.repo,
                [*additions, *(CommitOperationDelete(name) for name in stale)],
                commit_message=plan.message,
                revision=request.revision,
            )
    return Push(plan.files, plan.message, plan.contents, done.oid, done.commit_url)


def _card(opened: Artifact, patches: list[str], facts: CardFacts) -> bytes:
    """The card, with what is known now; one that somebody wrote stays as it is."""
    sizes: dict[str, int | None] = {name: opened.size(name) for name in (BACKBONE, *patches)}
    path = opened.path / CARD
    own = path.read_bytes() if path.is_file() else b""
    if own and not is_ours(own.decode("utf-8", errors="replace")):
        return own
    return render_card(opened.manifest, sizes, facts).encode()


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size
