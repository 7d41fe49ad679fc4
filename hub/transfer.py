"""An artifact to the Hub and back. Imports no torch.

Push checks the artifact and sends it in one commit. Pull checks all names before it fetches a
byte, and digests before the folder gets its name; downloads go through the cache of `huggingface_hub`, which
resumes what was interrupted and fetches nothing twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from maskpack.formats import Artifact, ArtifactError, check_artifact, open_artifact
from maskpack.formats.card import CardFacts, Describe, is_ours, plain_facts, render_card
from maskpack.formats.schema import (
    BACKBONE,
    CARD,
    DIVISORS,
    MANIFEST,
    PATCH_FILE,
    TASK_FOLDER,
    Manifest,
)
from maskpack.formats.writer import (
    check_free,
    check_writable,
    locked,
    new_folder,
    stored_units,
    write_bytes,
    write_manifest,
)
from maskpack.hub.remote import PASSED_OVER, asking, check_names, check_repo, check_token, hub


@dataclass(frozen=True)
class PushRequest:
    """Which artifact to send, and to which repository.

    Attributes:
        artifact: its folder.
        repo: `owner/name`.
        private: whether a new repository is private; an existing one stays as it is.
        revision: branch to commit to, made if it does not exist; None: the main one.
        message: of the commit; None: one that names the tasks.
        license, languages: for the card; None or empty: those that are known of the artifact.
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
        self.on_top_of(CardFacts())  # checks the values

    def on_top_of(self, known: CardFacts) -> CardFacts:
        """Facts for the card; values of this request win over `known`."""
        return replace(
            known,
            repo=self.repo,
            license=self.license or known.license,
            languages=self.languages or known.languages,
        )


@dataclass(frozen=True)
class Push:
    """The files that are sent, or would be.

    Attributes:
        files: name in the repository -> bytes.
        message: of the commit.
        contents: name -> file to read, or its bytes.
        commit, url: of the commit; None before there is one.
    """

    files: Mapping[str, int]
    message: str
    contents: Mapping[str, Path | bytes] = field(repr=False)
    commit: str | None = None
    url: str | None = None


def plan_push(request: PushRequest, *, describe: Describe = plain_facts) -> Push:
    """Check an artifact and list what would be sent; uses no network.

    Args:
        request: the artifact and the repository.
        describe: what the card says beside the manifest, where the request does not.

    Raises:
        ArtifactError: it is damaged, or holds a file that may not be sent.
    """
    if findings := check_artifact(request.artifact):
        raise ArtifactError(
            f"`{request.artifact}` is not sound: {findings[0]}", "a check lists all that is wrong"
        )
    opened = open_artifact(request.artifact)
    patches = [entry.file for entry in opened.manifest.tasks.values()]
    names = [*_wanted(opened.manifest), MANIFEST]
    check_names(names, str(request.artifact))
    contents: dict[str, Path | bytes] = {name: request.artifact / name for name in names}
    contents[CARD] = _card(opened, patches, request.on_top_of(describe(opened.manifest)))
    files = {name: _size(source) for name, source in sorted(contents.items())}
    tasks = ", ".join(sorted(opened.manifest.tasks)) or "no task yet"
    return Push(files, request.message or f"maskpack artifact: {tasks}", contents)


def push_artifact(request: PushRequest, *, describe: Describe = plain_facts) -> Push:
    """Send an artifact; afterwards the repository holds this artifact and no older patch.

    Args:
        request: the artifact and the repository.
        describe: what the card says beside the manifest, where the request does not.

    Raises:
        ArtifactError: it is damaged; no token, no network, or no right to write there; or there is a
            file that is no part of an artifact.
    """
    check_token()
    with locked(request.artifact):
        plan = plan_push(request, describe=describe)
        additions = [
            CommitOperationAdd(name, source if isinstance(source, bytes) else str(source))
            for name, source in sorted(plan.contents.items())
        ]
        with asking(request.repo, request.revision):
            api = hub()
            api.create_repo(request.repo, private=request.private, exist_ok=True)
            if request.revision is not None:
                api.create_branch(request.repo, branch=request.revision, exist_ok=True)
            info = api.model_info(request.repo, revision=request.revision)
            there = [file.rfilename for file in info.siblings or ()]
            check_names(there, request.repo)  # `pull` would refuse it
            patches = [name for name in there if PATCH_FILE.fullmatch(name)]
            stale = [
                name for name in (*patches, DIVISORS) if name in there and name not in plan.contents
            ]
            done = api.create_commit(
                request.repo,
                [*additions, *(CommitOperationDelete(name) for name in stale)],
                commit_message=plan.message,
                revision=request.revision,
            )
    return replace(plan, commit=done.oid, url=done.commit_url)


def _card(opened: Artifact, patches: list[str], facts: CardFacts) -> bytes:
    """The card, made again with all known facts; a card that a person wrote stays as it is."""
    sizes: dict[str, int | None] = {name: opened.size(name) for name in (BACKBONE, *patches)}
    path = opened.path / CARD
    own = path.read_bytes() if path.is_file() else b""
    if own and not is_ours(own.decode("utf-8", errors="replace")):
        return own
    units = stored_units(opened.path, opened.manifest)
    return render_card(opened.manifest, sizes, facts, units).encode()


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


OnFile = Callable[[str], None]
"""Called with the name of each file before it is fetched."""


@dataclass(frozen=True)
class PullRequest:
    """Which tasks to fetch, and from which repository.

    Attributes:
        repo: `owner/name`.
        out: folder to write.
        tasks: to fetch; none: all.
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
        commit: of the repository that was fetched.
        tasks: in it.
        files: name -> bytes.
    """

    out: Path
    commit: str
    tasks: tuple[str, ...]
    files: Mapping[str, int]


@dataclass(frozen=True)
class Remote:
    """A repository at one commit, its file names already checked."""

    repo: str
    commit: str
    names: frozenset[str]

    def fetch(self, name: str, sha256: str | None = None) -> bytes:
        """A file; fetched again if the cached one has another digest than the manifest says.

        Raises:
            ArtifactError: the file is missing, or has another digest.
        """
        if name not in self.names:
            raise ArtifactError(f"`{self.repo}` has no file `{name}`", _ASK)
        for force in (False, True):
            with asking(self.repo, self.commit):
                path = hub().hf_hub_download(
                    self.repo, name, revision=self.commit, force_download=force
                )
                data = Path(path).read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if sha256 in {None, digest}:
                return data
        raise ArtifactError(
            f"`{name}` of `{self.repo}` is damaged: its SHA-256 is {digest[:12]}, "
            f"the manifest says {(sha256 or '')[:12]}",
            _ASK,
        )


_ASK = "tell whoever published it, or give another `revision`"


def pull_artifact(
    request: PullRequest, on_file: OnFile = lambda _: None, *, describe: Describe = plain_facts
) -> Pull:
    """Write an artifact of the Hub, or some of its tasks, as a folder.

    Args:
        request: which tasks to fetch, and the folder to write.
        on_file: called with the name of each file before it is fetched.
        describe: what the card of some of its tasks says beside the manifest.

    Raises:
        ArtifactError: it cannot be reached, is no artifact, holds a forbidden file, is damaged, or
            has no such task; or the folder exists.
    """
    check_free(request.out)
    check_writable(request.out)
    remote = find_remote(request.repo, request.revision)
    on_file(MANIFEST)
    text = remote.fetch(MANIFEST)
    manifest = _chosen(_read(text, request.repo), request)
    with new_folder(request.out) as build:
        (build / TASK_FOLDER).mkdir()
        for name, sha256 in _wanted(manifest).items():
            on_file(name)
            write_bytes(build / name, remote.fetch(name, sha256))
        write_manifest(build, manifest, describe)
        if not request.tasks and CARD in remote.names:
            on_file(CARD)
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
    """The repository at a revision, if every file in it may be fetched.

    Raises:
        ArtifactError: it cannot be reached, or holds a file that is no part of an artifact.
    """
    with asking(repo, revision):
        info = hub().model_info(repo, revision=revision)
    names = frozenset(file.rfilename for file in info.siblings or ())
    if MANIFEST not in names:
        raise ArtifactError(
            f"`{repo}` is no artifact: it has no `{MANIFEST}`",
            "a plain model is learned on by its id",
        )
    check_names(names, repo)
    assert info.sha is not None  # every repository with a file has it
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
    digest = manifest.divisors_sha256
    own = {BACKBONE: manifest.backbone_sha256, **({} if digest is None else {DIVISORS: digest})}
    return {**own, **patches, **manifest.files}
