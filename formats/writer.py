"""Write an artifact so that a reader sees the old one or the new one, never half of either.

Every file is written under a temporary name, flushed to disk and renamed. The manifest is
renamed last: a patch that it does not name is not part of the artifact. A new artifact is
built in a hidden folder beside its path and renamed as a whole.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from maskpack.formats import schema
from maskpack.formats.card import Describe, plain_facts, render_card
from maskpack.formats.channels import Divisors, encode_divisors
from maskpack.formats.codec import backbone_pieces, decode_units, encode_patch
from maskpack.formats.errors import ArtifactError
from maskpack.formats.files import lock, open_for_lock, rename
from maskpack.formats.reader import Artifact, open_artifact
from maskpack.formats.schema import Manifest, Scheme, Source, TaskEntry
from maskpack.formats.tensorfile import Buffer
from maskpack.formats.tensors import Backbone, Patch
from maskpack.formats.units import FEATURE as UNITS
from maskpack.formats.units import Units

_LOG = logging.getLogger(__name__)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary file in the same folder, fsync, rename.

    Raises:
        ArtifactError: no permission, no space, or any other failure; the old file stays.
    """
    write_pieces(path, (data,))


def write_pieces(path: Path, pieces: Iterable[Buffer]) -> str:
    """`write_bytes` of pieces that are made one after the other, and never held together.

    Returns:
        SHA-256 of the file, in hex.
    """
    digest, size = hashlib.sha256(), 0
    if path.is_dir() or not path.name:
        raise ArtifactError(f"`{path}` is a folder, expected a file to write")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
        _sync_folder(path.parent)
        _LOG.debug("wrote `%s`, %s bytes", path, f"{size:,}")
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(path, error) from error
        raise
    return digest.hexdigest()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path` to build in; renamed to `path` when the block ends without an error.

    Raises:
        ArtifactError: `path` exists and is not an empty folder, or cannot be written.
    """
    try:
        check_free(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        build = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        build.mkdir()
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield build
        rename(build, path)
        _sync_folder(path.parent)
        _LOG.debug("renamed `%s` to `%s`", build, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        shutil.rmtree(build, ignore_errors=True)


def check_free(path: Path) -> None:
    """Raise ArtifactError unless `path` does not exist or is an empty folder."""
    try:
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError as error:  # such as a name longer than the file system takes
        raise _cannot_write(path, error) from error
    if taken:
        raise ArtifactError(f"`{path}` already exists", "choose another place")


_TRIAL = b"\0" * 4096  # a block: an empty file fits on a disk that is full


def check_writable(path: Path) -> None:
    """Raise ArtifactError if nothing can be written at `path`: called before work whose result is to lie there.

    A block is written where the first file would be, and removed: into a folder that holds something already, or
    beside what is still to be made, in the nearest folder that exists.
    """
    try:
        for place in _places(path):
            trial = place / f".{secrets.token_hex(4)}.tmp"
            try:
                trial.write_bytes(_TRIAL)
            finally:
                with suppress(OSError):
                    trial.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_space(path: Path, needed: int) -> None:
    """Raise ArtifactError if the disk of `path` has less than `needed` bytes free."""
    try:
        free = shutil.disk_usage(_places(path)[0]).free
    except OSError:  # a system that does not tell
        return
    if free < needed:
        raise ArtifactError(
            f"`{path}` needs {needed / 1e6:,.1f} MB of disk, {free / 1e6:,.1f} MB are free there",
            "free some space, or choose another place",
        )


def _places(path: Path) -> list[Path]:
    """Folders in which writing at `path` makes files."""
    if path.is_dir() and any(path.iterdir()):
        tasks = path / schema.TASK_FOLDER
        return [path, tasks] if tasks.is_dir() else [path]
    return [nearest_folder(path)]


def nearest_folder(path: Path) -> Path:
    """The nearest folder above a path that exists."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def create_artifact(
    path: Path,
    backbone: Backbone,
    *,
    source: Source,
    scheme: Scheme,
    files: Mapping[str, bytes],
    first: tuple[TaskEntry, Patch] | None = None,
    more: Iterable[tuple[TaskEntry, Patch]] = (),
    divisors: Divisors | None = None,
    describe: Describe = plain_facts,
) -> Artifact:
    """Write a new artifact, with its first task if there is one.

    Args:
        path: folder to create; must not exist, or be empty.
        backbone: the shared weights, written here once and never again.
        source: where they came from.
        scheme: how they were quantised.
        files: configuration and tokenizer files to copy: name -> bytes.
        first: entry and patch of the first task; file name and digests are filled in here.
        more: the same of further tasks, written one after the other.
        divisors: of outlier channels, for int8 graphs of all tasks; None: each export measures its own.
        describe: what the card says beside the manifest.
    """
    if first is not None:
        first[1].check_fits(backbone)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    with new_folder(path) as build:
        (build / schema.TASK_FOLDER).mkdir()
        digest = write_pieces(build / schema.BACKBONE, backbone_pieces(backbone))
        manifest = Manifest(source, scheme, digest, digests, {}, backbone.features)
        for name, content in files.items():
            write_bytes(build / name, content)
        manifest = keep_divisors(build, manifest, divisors)
        for entry, patch in (*(() if first is None else (first,)), *more):
            manifest = write_patch(build, manifest, entry, patch)
        write_manifest(build, manifest, describe)
    return open_artifact(path)


def add_task(
    path: Path,
    entry: TaskEntry,
    patch: Patch,
    *,
    replacing: bool = False,
    backbone_sha256: str | None = None,
    divisors: Divisors | None = None,
    describe: Describe = plain_facts,
) -> Artifact:
    """Add a task to the artifact at `path`, or replace it; the backbone is not touched.

    Args:
        path: the artifact.
        entry: its entry in the manifest; file and digest are filled in here.
        patch: what the task adds.
        replacing: whether a task of that name is replaced.
        backbone_sha256: the backbone that the patch belongs to, if it was not learned just now.
        divisors: of outlier channels that the task was learned with, see `keep_divisors`.
        describe: what the card says beside the manifest.

    Raises:
        ArtifactError: the task exists and `replacing` is False, another backbone, or the disk
            refused.
    """

    def change(artifact: Artifact) -> Manifest:
        check_vacant(artifact, entry.name, replacing=replacing)
        digest = artifact.manifest.backbone_sha256
        if backbone_sha256 not in {None, digest}:
            raise ArtifactError(f"`{path}` has another backbone by now: {digest[:12]}")
        patch.check_fits(artifact.backbone)
        manifest = keep_divisors(path, artifact.manifest, divisors)
        return write_patch(path, manifest, entry, patch)

    return change_tasks(path, change, describe)


def change_tasks(
    path: Path, change: Callable[[Artifact], Manifest], describe: Describe
) -> Artifact:
    """Replace the manifest at `path` under its lock, then remove patches that it no longer names.

    Args:
        path: the artifact.
        change: makes the new manifest; may write patches.
        describe: what the card says beside the manifest.
    """
    open_artifact(path)  # its errors describe a wrong path better than those of the lock
    with locked(path):
        artifact = open_artifact(path)
        manifest = change(artifact)
        write_manifest(path, manifest, describe)
        named = {entry.file for entry in manifest.tasks.values()}
        for entry in artifact.manifest.tasks.values():
            if entry.file not in named:
                with suppress(OSError):  # harmless if it stays: no manifest names it
                    (path / entry.file).unlink()
    return open_artifact(path)


def check_vacant(artifact: Artifact, task: str, *, replacing: bool) -> None:
    """Raise ArtifactError if `task` is in the artifact and `replacing` is False."""
    if task in artifact.manifest.tasks and not replacing:
        raise ArtifactError(
            f"`{artifact.path}` already has a task `{task}`",
            "choose another `name`, or `replace` it",
        )


def keep_divisors(folder: Path, manifest: Manifest, divisors: Divisors | None) -> Manifest:
    """Write divisors into an artifact that has none, and return the manifest that names them.

    Those that an artifact has stay, because all tasks share the integers that follow from them. If they are others, the
    int8 graph of the new task is right all the same, and rounds a little otherwise than its training did.
    """
    if divisors is None:
        return manifest
    data = encode_divisors(divisors, manifest.backbone_sha256)
    digest = hashlib.sha256(data).hexdigest()
    if manifest.divisors_sha256 is None:
        write_bytes(folder / schema.DIVISORS, data)
        return replace(manifest, divisors_sha256=digest)
    if manifest.divisors_sha256 != digest:
        _LOG.warning(
            "`%s` keeps its own divisors %s; the new task was learned with others, %s",
            folder,
            manifest.divisors_sha256[:12],
            digest[:12],
        )
    return manifest


def write_patch(folder: Path, manifest: Manifest, entry: TaskEntry, patch: Patch) -> Manifest:
    """Write the patch file and return the manifest that names it; its entry requires `units` if the patch has some.

    Raises:
        ArtifactError: a name that is no file's on every system, or counts that are not the patch's.
    """
    schema.check_new_name(entry.name)
    patch.check_counts(entry.name, zeros=entry.zeros, weights=entry.weights)
    digest = manifest.backbone_sha256
    data = encode_patch(patch, task=entry.name, backbone_sha256=digest)
    before = manifest.tasks.get(entry.name)
    file = schema.patch_file(entry.name, before.file if before else None)
    entry = entry.requiring_units(patch.units is not None)
    entry = replace(entry, file=file, sha256=hashlib.sha256(data).hexdigest())
    write_bytes(folder / file, data)
    return replace(manifest, tasks={**manifest.tasks, entry.name: entry})


def write_manifest(folder: Path, manifest: Manifest, describe: Describe = plain_facts) -> None:
    """Write the card, then the manifest, whose rename makes all changes valid at once."""
    names = [schema.BACKBONE, *(entry.file for entry in manifest.tasks.values())]
    sizes = {name: _size(folder / name) for name in names}
    text = manifest.to_json()
    units = stored_units(folder, manifest)
    card = render_card(manifest, sizes, describe(manifest), units)
    write_bytes(folder / schema.CARD, card.encode())
    write_bytes(folder / schema.MANIFEST, text.encode())


def stored_units(folder: Path, manifest: Manifest) -> dict[str, Units]:
    """Units of each task that has some; those of a file that is lost or damaged are left out."""
    units = {}
    for name, entry in manifest.tasks.items():
        if UNITS in entry.requires:
            with suppress(OSError, ArtifactError):  # `check_artifact` reports them
                found = decode_units((folder / entry.file).read_bytes())
                units.update({} if found is None else {name: found})
    return units


def _size(path: Path) -> int | None:
    """Bytes of a file; None if it is missing, which `check_artifact` reports."""
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Exclude other writers of the same artifact; readers never wait."""
    try:
        handle = open_for_lock(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        lock(handle, wait=True)
        yield
    finally:
        os.close(handle)  # closing releases the lock


def _sync_folder(folder: Path) -> None:
    """Flush a rename to disk. The rename itself is done, so an error here is ignored."""
    with suppress(OSError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _cannot_write(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write `{path}`: {error.strerror or error}",
        "check free space and permissions; nothing that was there before has changed",
    )
