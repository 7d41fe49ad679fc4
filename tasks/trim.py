"""A model or an artifact with a smaller vocabulary: which tokens texts need, what is written, and how texts are read afterwards.

Nothing is learned or rounded again. Tokens that stay keep the codes of their embeddings, masks cover no embedding, and so a text whose
pieces all stay gets the same answers, bit for bit.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from maskpack.formats import (
    Artifact,
    ConfigError,
    ModelError,
    TaskEntry,
    create_artifact,
    is_artifact,
    open_artifact,
)
from maskpack.formats.channels import Divisors
from maskpack.formats.errors import Hint
from maskpack.formats.kept_tokens import KeptTokens, trimmed_backbone, trimmed_patch
from maskpack.formats.schema import BACKBONE, CONFIG
from maskpack.formats.tensors import Patch
from maskpack.formats.waiting import announced
from maskpack.formats.writer import check_free, check_writable, new_folder, write_bytes
from maskpack.models.build import base_of, fresh_classifier
from maskpack.models.families import family_of
from maskpack.models.linears import linearize
from maskpack.models.load import load_tokenizer
from maskpack.models.locate import resolve
from maskpack.models.prompts import find_prompts
from maskpack.models.tokenizer_files import tokenizer_files
from maskpack.models.trimmed_model import (
    files_beside,
    json_bytes,
    rows_by_token,
    stored_config,
    trimmed_config,
    trimmed_weights,
    weight_bytes,
)
from maskpack.models.trimmed_tokenizer import TrimmedTokenizer, Wanted
from maskpack.tasks.card import card_facts
from maskpack.tasks.context import ModelContext, described, task_config
from maskpack.tasks.evaluation.evaluate import prefixes_of
from maskpack.tasks.peaks import measure_divisors
from maskpack.tasks.read_again import (
    ReadAgain,
    plain_tokenizer,
    prefixed,
    read_again,
    read_texts,
    trim_tokenizer,
)
from maskpack.tasks.types import TASK_TYPES, may_use_pooler

_LOG = logging.getLogger(__name__)

_TOKENIZER, _WEIGHTS = "tokenizer.json", "model.safetensors"


@dataclass(frozen=True)
class TrimRequest:
    """Which vocabulary to make smaller, and by what.

    Attributes:
        source: folder of an artifact, or folder, hub id or alias of a model.
        out: folder to write.
        texts: files of texts, `.txt` with a text a line or tables: the tokens that they need stay, and they are read as before.
        scripts: of Unicode, such as `Latin`: tokens whose letters are all of these scripts stay too; characters of scripts that are
            neither among them nor Latin do not.
        keep: tokens to keep in all: the most frequent ones of the texts, then the first ones of the vocabulary, or of the scripts.
        tries: files of other texts, to see how they are read afterwards.
        revision: branch, tag or commit of a hub model.
    """

    source: str
    out: Path
    texts: tuple[Path, ...] = ()
    scripts: tuple[str, ...] = ()
    keep: int | None = None
    tries: tuple[Path, ...] = ()
    revision: str | None = None

    def __post_init__(self) -> None:
        if not (self.texts or self.scripts or self.keep):
            raise ConfigError(
                "nothing says which tokens are to stay", Hint("give `texts`, `scripts` or `keep`")
            )
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"{self.keep} tokens are to stay", Hint("give a larger `keep`"))

    @property
    def wanted(self) -> Wanted:
        """Which tokens are to stay, beside those of the texts."""
        return Wanted(None, self.scripts, self.keep)


@dataclass(frozen=True)
class TrimResult:
    """A vocabulary that was made smaller.

    Attributes:
        out: the folder that was written.
        artifact: whether it is an artifact; else it is a model.
        tokens, tokens_before: of the tokenizer.
        rows, rows_before: of the table of embeddings.
        bytes, bytes_before: of weights and tokenizer together.
        texts: how the files that it was made for are read.
        tries: how other files are.
    """

    out: Path
    artifact: bool
    tokens: int
    tokens_before: int
    rows: int
    rows_before: int
    bytes: int
    bytes_before: int
    texts: tuple[ReadAgain, ...]
    tries: tuple[ReadAgain, ...]


def trim_vocabulary(request: TrimRequest) -> TrimResult:
    """Write an artifact or a model without the tokens that nothing needs.

    Tokens that texts need, special and added tokens, and characters or bytes to fall back to stay, in their order. An artifact keeps
    all tasks, bound to the new backbone; their scores are those that were measured before.

    Raises:
        ConfigError: nothing is left out, or more has to stay than may.
        DataError: a file of texts cannot be read, or is empty.
        ModelError: a tokenizer that cannot lose tokens.
        ArtifactError: a damaged artifact, or a place that cannot be written.
    """
    check_free(request.out)
    check_writable(request.out)
    source = _source(request)
    texts = [(path.name, read_texts(path, source.columns)) for path in request.texts]
    tries = [(path.name, read_texts(path, source.columns)) for path in request.tries]
    trimmed = source.trimmed(request, texts)
    found, tried = (source.compared(read, trimmed) for read in (texts, tries))
    _check_equal(request, found)
    sizes = source.write(request.out, trimmed)
    return TrimResult(
        out=request.out,
        artifact=isinstance(source, _ArtifactSource),
        tokens=len(trimmed.kept.ids),
        tokens_before=source.whole.get_vocab_size(),
        rows=len(trimmed.kept.rows),
        rows_before=trimmed.kept.table,
        bytes=sizes[1],
        bytes_before=sizes[0],
        texts=found,
        tries=tried,
    )


def trim_for_tasks(
    artifact: Artifact, tasks: Sequence[str], files: Sequence[Path], out: Path
) -> Artifact:
    """Write an artifact of some tasks, with the tokens that files of texts need.

    Raises:
        MaskpackError: as `trim_vocabulary`.
    """
    source = _ArtifactSource.of(artifact, [artifact.entry(task) for task in tasks])
    texts = [(path.name, read_texts(path, source.columns)) for path in files]
    request = TrimRequest(str(artifact.path), out, tuple(files))
    trimmed = source.trimmed(request, texts)
    _check_equal(request, source.compared(texts, trimmed))
    _LOG.info(
        "`%s` gets %s of %s tokens",
        "`, `".join(tasks),
        *(f"{len(trimmed.kept.ids):,}", f"{trimmed.kept.table:,}"),
    )
    return trim_artifact(artifact, out, trimmed, tasks=tasks)


def trim_artifact(
    artifact: Artifact,
    out: Path,
    trimmed: TrimmedTokenizer,
    *,
    tasks: Iterable[str] | None = None,
) -> Artifact:
    """Write an artifact with the tokens that stay.

    Args:
        artifact: the old one.
        out: folder to create.
        trimmed: its tokenizer with fewer tokens.
        tasks: that come along; None: all.

    Raises:
        ArtifactError: `out` exists, or cannot be written.
    """
    manifest, kept = artifact.manifest, trimmed.kept
    entries = [artifact.entry(name) for name in sorted(tasks or manifest.tasks)]
    config = artifact.file(CONFIG)
    after = json_bytes(trimmed_config(json.loads(config), kept))
    names, heads = _rows_of(artifact, entries, after, kept)
    files = {CONFIG: after, **trimmed.files}

    def patches() -> Iterator[tuple[TaskEntry, Patch]]:
        for entry in entries:
            yield entry, trimmed_patch(artifact.patch(entry.name), heads[entry.name], kept)

    return create_artifact(
        out,
        trimmed_backbone(artifact.backbone, names, kept),
        source=manifest.source,
        scheme=manifest.scheme,
        files=files,
        more=patches(),
        divisors=_divisors(artifact, entries),
        describe=card_facts,
    )


def _rows_of(
    artifact: Artifact, entries: Sequence[TaskEntry], after: bytes, kept: KeptTokens
) -> tuple[frozenset[str], dict[str, frozenset[str]]]:
    """Parameters with a row for each token: those of the backbone, and those of each task's head."""
    plain = next(iter(TASK_TYPES.values()))
    data = artifact.file(CONFIG)
    pairs = [(described(data, plain, ("0", "1")), described(after, plain, ("0", "1")))]
    for entry in entries:
        own = task_config(artifact, entry)
        pairs.append((own, _changed(own, json.loads(data), json.loads(after))))
    found = []
    for before, later in pairs:
        model = _bare(before)
        rows = rows_by_token(model, _bare(later), kept)
        inside = {name for name, _ in base_of(model).named_parameters()}
        prefix = f"{family_of(model.config.model_type).base}."
        found.append(({name.removeprefix(prefix) for name in rows} & inside, rows))
    names = frozenset(name for base, _ in found for name in base) & {
        *artifact.backbone.embeddings,
        *artifact.backbone.dense,
    }
    heads = zip(entries, found[1:], strict=True)
    return names, {
        entry.name: frozenset(rows) & artifact.patch(entry.name).head.keys()
        for entry, (_, rows) in heads
    }


def _changed(config: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
    """A configuration of a task, with what differs between two `config.json`."""
    changed = copy.deepcopy(config)
    for key, value in after.items():
        if before.get(key) != value:
            setattr(changed, key, value)
    return changed


def _bare(config: Any) -> Any:
    """A classifier without values."""
    with torch.device("cpu" if getattr(config, "pruned_heads", None) else "meta"):
        return linearize(fresh_classifier(config))


def _divisors(artifact: Artifact, entries: Sequence[TaskEntry]) -> Divisors | None:
    """Divisors of outlier channels. Where the artifact has none, each export measures its own on sample texts with the tokenizer.

    So they are measured here with all tokens, and int8 graphs stay the same.
    """
    if artifact.divisors is not None or not entries:
        return artifact.divisors
    entry = next((one for one in entries if may_use_pooler(one)), entries[0])
    preprocessor = ModelContext.of_artifact(artifact).preprocessor()
    with announced(_LOG, "measuring outlier channels"):
        return measure_divisors(artifact.backbone, task_config(artifact, entry), preprocessor)


_Named = Sequence[tuple[str, Sequence[str]]]
"""Texts of files, by the names of these."""


@dataclass(frozen=True, eq=False)
class _Source:
    """What a vocabulary is taken from.

    Attributes:
        files: `config.json` and those of the tokenizer.
        prefixes: what may stand before a text.
        columns: of texts, in the tables of each task.
    """

    files: Mapping[str, bytes]
    prefixes: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...]

    @cached_property
    def whole(self) -> Any:
        """The tokenizer with all tokens; read once."""
        return plain_tokenizer(self.files)

    def trimmed(self, request: TrimRequest, texts: _Named) -> TrimmedTokenizer:
        """The tokenizer with the tokens that stay."""
        read = [each for _, each in texts]
        return trim_tokenizer(self.files, self.prefixes, request.wanted, read, self.whole)

    def compared(self, texts: _Named, trimmed: TrimmedTokenizer) -> tuple[ReadAgain, ...]:
        """How texts are read before and after."""
        return tuple(
            read_again(name, prefixed(each, self.prefixes), self.whole, trimmed)
            for name, each in texts
        )


@dataclass(frozen=True, eq=False)
class _ArtifactSource(_Source):
    """An artifact whose vocabulary is made smaller."""

    artifact: Artifact

    @classmethod
    def of(cls, artifact: Artifact, entries: Iterable[TaskEntry]) -> _ArtifactSource:
        """An open artifact with the prefixes of some tasks; its files are checked against their digests."""
        files = {name: artifact.file(name) for name in artifact.manifest.files}
        found = dict.fromkeys(one for entry in entries for one in prefixes_of(entry) or ("",))
        said = [each.data.get("texts") for each in entries]
        columns = tuple(tuple(map(str, each)) for each in said if isinstance(each, list))
        return cls(files, tuple(found) or ("",), columns, artifact)

    def write(self, out: Path, trimmed: TrimmedTokenizer) -> tuple[int, int]:
        """Write it; bytes of weights and tokenizer before and after."""
        new = trim_artifact(self.artifact, out, trimmed)
        before, after = (
            each.size(BACKBONE) + each.size(_TOKENIZER) for each in (self.artifact, new)
        )
        return before, after


def _source(request: TrimRequest) -> _ArtifactSource | _ModelSource:
    place = Path(request.source)
    if not is_artifact(place):
        return _ModelSource.of(request.source, request.revision)
    artifact = open_artifact(place)
    return _ArtifactSource.of(artifact, artifact.manifest.tasks.values())


@dataclass(frozen=True, eq=False)
class _ModelSource(_Source):
    """A pretrained model whose vocabulary is made smaller."""

    location: str
    revision: str | None

    @classmethod
    def of(cls, model: str, revision: str | None) -> _ModelSource:
        """A model by folder, hub id or alias."""
        location = resolve(model)
        config = stored_config(location, revision=revision)
        tokenizer = load_tokenizer(location, revision=revision)
        files = {**tokenizer_files(tokenizer), CONFIG: json_bytes(config)}
        prompts = find_prompts(model, revision=revision).by_name.values()
        return cls(files, tuple(dict.fromkeys(("", *prompts))), (), location, revision)

    def write(self, out: Path, trimmed: TrimmedTokenizer) -> tuple[int, int]:
        """Write it as transformers saves one; bytes of weights and tokenizer before and after."""
        config = json.loads(self.files[CONFIG])
        place = {"revision": self.revision}
        with announced(_LOG, f"writing the weights of `{self.location}`"):
            weights = trimmed_weights(self.location, config, trimmed.kept, **place)
        rest = files_beside(self.location, trimmed.kept, **place)
        files = {**rest, **trimmed.files, CONFIG: json_bytes(trimmed_config(config, trimmed.kept))}
        with new_folder(out) as build:
            write_bytes(build / _WEIGHTS, weights)
            for name, content in files.items():
                (build / name).parent.mkdir(parents=True, exist_ok=True)
                write_bytes(build / name, content)
        before = weight_bytes(self.location, **place) + len(self.files[_TOKENIZER])
        return before, len(weights) + len(files[_TOKENIZER])


def _check_equal(request: TrimRequest, found: Sequence[ReadAgain]) -> None:
    """Raise ModelError if a text that the vocabulary was made for has other pieces."""
    for one in found if request.keep is None else ():
        if one.equal != one.texts:
            raise ModelError(
                f"{one.texts - one.equal:,} of {one.texts:,} texts of `{one.name}` would have other pieces",
                "report it with the tokenizer: its pieces need others in a way that is not known",
            )
