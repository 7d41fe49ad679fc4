"""Names and numbers of format version 1, and the manifest as values.

The manifest is the only JSON of an artifact that the tool itself reads. Every field is checked on
the way in; a string from a file never becomes a file name or an import path unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from maskpack.formats.bits import MIXED_ROWS, RARE_BITS, THREE_BITS
from maskpack.formats.checks import (
    LARGEST,
    RESTORE,
    check_free,
    check_mapping,
    check_sha,
    check_text,
    check_whole,
)
from maskpack.formats.draw import FEATURE as DRAWN
from maskpack.formats.errors import ArtifactError
from maskpack.formats.files import name_problem
from maskpack.formats.pooling import FEATURE as POOLING
from maskpack.formats.pooling import OWN_POOLER
from maskpack.formats.target import FEATURE, TargetScale
from maskpack.formats.units import FEATURE as UNITS

FORMAT_VERSION = 1
MANIFEST = "maskpack.json"
BACKBONE = "backbone.safetensors"
DIVISORS = "divisors.safetensors"
TASK_FOLDER = "tasks"
CARD = "README.md"
CONFIG = "config.json"
KIND = re.compile(r"[a-z][a-z0-9-]{0,63}")
"""How the type of a task is spelled; the format does not list the types."""

PACKED_KIND = "packed-patch"
TASK_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PATCH_FILE = re.compile(r"tasks/([a-z0-9][a-z0-9._-]{0,63}?)(\.r[1-9][0-9]*)?\.safetensors")
REPLACEMENT = re.compile(r"\.r[1-9][0-9]*")
COPIED_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
FEATURES = frozenset(
    {FEATURE, "prefix", "stride", UNITS, POOLING, OWN_POOLER, THREE_BITS, MIXED_ROWS, DRAWN}
)
"""Features beyond the first release that this one reads, as `requires` of a manifest or a task names them."""

_RESERVED = {name.casefold() for name in (MANIFEST, BACKBONE, TASK_FOLDER, CARD)}


@dataclass(frozen=True)
class Source:
    """Where the pretrained weights came from.

    Attributes:
        model: hub id, alias or folder name as the user gave it (never a full local path).
        revision: commit of a hub model, or None.
        model_type: architecture name of the configuration, such as `bert`.
        weights_sha256: digest of the encoder's tensors before quantisation.
    """

    model: str
    revision: str | None
    model_type: str
    weights_sha256: str

    def __post_init__(self) -> None:
        check_text("source.model", self.model)
        check_text("source.model_type", self.model_type)
        if self.revision is not None:
            check_text("source.revision", self.revision)
        check_sha(self.weights_sha256, "source.weights_sha256")


@dataclass(frozen=True)
class Scheme:
    """How the backbone was quantised, as a record for people; readers take these facts from the tensors.

    Attributes:
        bits: width of the codes of the linears.
        group: weights that share a scale, as asked for; None: one scale a row.
        quantizer: method that chose the codes.
        embedding_bits: width of the codes of the token embeddings.
        overrides: pattern of parameter names -> width that stands in for `bits` there.
    """

    bits: int
    group: int | None
    quantizer: str
    embedding_bits: int
    overrides: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_text("scheme.quantizer", self.quantizer)
        check_mapping("scheme.overrides", self.overrides)
        for pattern, bits in self.overrides.items():
            check_text("scheme.overrides", pattern)
            check_whole(f"scheme.overrides.{pattern}", bits)
        check_whole("scheme.bits", self.bits)
        check_whole("scheme.embedding_bits", self.embedding_bits)
        if self.group is not None:
            check_whole("scheme.group", self.group)


@dataclass(frozen=True)
class TaskEntry:
    """The manifest's entry of one task.

    Attributes:
        name: key of the task; also the stem of its file.
        file: `tasks/<name>.safetensors`, or `tasks/<name>.r<n>.safetensors` after a replacement.
        sha256: of that file.
        kind: type of the task, such as `classification`; code that computes with the task must know it.
        labels: class names in the order of the logits; empty for regression.
        metric: name of the main metric.
        scores: metric name -> value on the evaluation split.
        zeros, weights: of the mask.
        max_length: tokens a text was cut to.
        data: name of the data set and digest of its rows, and the column names.
        training: the options the patch was learned with.
        requires: features without which the task cannot be read or gives other answers.
        config: how texts become inputs and outputs become answers, where it differs from the plain way.
    """

    name: str
    file: str
    sha256: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    scores: Mapping[str, float]
    zeros: int
    weights: int
    max_length: int
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_task_name(self.name)
        self._check_types()
        match = PATCH_FILE.fullmatch(self.file)
        if match is None or match.group(1) != self.name:
            raise ArtifactError(f"task `{self.name}` names the file `{self.file}`")
        check_sha(self.sha256, f"tasks.{self.name}.sha256")
        if KIND.fullmatch(self.kind) is None:
            raise ArtifactError(f"task `{self.name}` has the kind `{self.kind}`, which names none")
        if len(self.labels) == 1:
            raise ArtifactError(f"task `{self.name}` has 1 label, expected none or at least 2")
        if self.metric not in self.scores:
            raise ArtifactError(f"task `{self.name}` has no score for its metric `{self.metric}`")
        if self.zeros > self.weights:
            raise ArtifactError(f"task `{self.name}` counts {self.zeros} zeros of {self.weights}")
        if FEATURE in self.requires:
            TargetScale.of(self)

    def _check_types(self) -> None:
        where = f"tasks.{self.name}"
        for key in ("file", "kind", "metric"):
            check_text(f"{where}.{key}", getattr(self, key))
        for key in ("zeros", "weights", "max_length"):
            check_whole(f"{where}.{key}", getattr(self, key))
        for key in ("scores", "data", "training", "config"):
            check_mapping(f"{where}.{key}", getattr(self, key))
        for key in ("labels", "requires"):
            if not isinstance(getattr(self, key), tuple):
                raise ArtifactError(f"`{where}.{key}` is not a list", RESTORE)
            for text in getattr(self, key):
                check_text(f"{where}.{key}", text)
        for metric, value in self.scores.items():
            check_text(f"{where}.scores", metric)
            if type(value) not in {int, float} or not abs(value) < LARGEST:
                raise ArtifactError(f"`{where}.scores.{metric}` is not a finite number", RESTORE)
        for key in ("data", "training", "config"):
            check_free(f"{where}.{key}", getattr(self, key))

    def renamed(self, name: str) -> TaskEntry:
        """The same task under another name, in a file of its own."""
        return replace(self, name=name, file=patch_file(name))

    def requiring_units(self, wanted: bool) -> TaskEntry:
        """The same task with the feature `units` in `requires`, or without."""
        others = tuple(name for name in self.requires if name != UNITS)
        if wanted == (UNITS in self.requires):
            return self
        return replace(self, requires=(*others, UNITS) if wanted else others)

    @property
    def outputs(self) -> int:
        """Width of the logits: one for each label, or one for a number."""
        return max(1, len(self.labels))


@dataclass(frozen=True)
class Manifest:
    """`maskpack.json` as a value.

    Attributes:
        source, scheme: where the backbone came from.
        backbone_sha256: digest of `backbone.safetensors`.
        files: copied file -> its digest.
        tasks: by name.
        requires: features of the whole artifact.
        divisors_sha256: digest of `divisors.safetensors`; None: there are none.
    """

    source: Source
    scheme: Scheme
    backbone_sha256: str
    files: Mapping[str, str]
    tasks: Mapping[str, TaskEntry]
    requires: tuple[str, ...] = ()
    divisors_sha256: str | None = None

    def __post_init__(self) -> None:
        check_sha(self.backbone_sha256, "backbone.sha256")
        if self.divisors_sha256 is not None:
            check_sha(self.divisors_sha256, "divisors.sha256")
        check_mapping("files", self.files)
        taken = _RESERVED if self.divisors_sha256 is None else {*_RESERVED, DIVISORS}
        for name, digest in self.files.items():
            if COPIED_FILE.fullmatch(name) is None or name.casefold() in taken:
                raise ArtifactError(f"the manifest names the file `{name}`, which is not allowed")
            check_sha(digest, f"files.{name}")

    @property
    def embedding_bits(self) -> str:
        """Width of the codes of the token embeddings, `4`, or `4 and 2`."""
        more = f" and {RARE_BITS}" if MIXED_ROWS in self.requires else ""
        return f"{self.scheme.embedding_bits}{more}"

    def to_json(self) -> str:
        """Canonical text: sorted keys, two spaces, a final line feed. Inverse of `from_json`."""
        tree = {
            "format": "maskpack",
            "format_version": FORMAT_VERSION,
            "source": asdict(self.source),
            "scheme": {k: v for k, v in asdict(self.scheme).items() if k != "overrides" or v},
            "backbone": {"file": BACKBONE, "sha256": self.backbone_sha256},
            "files": dict(self.files),
            "tasks": {name: entry_to_dict(entry) for name, entry in self.tasks.items()},
            **({"requires": list(self.requires)} if self.requires else {}),
        }
        if self.divisors_sha256 is not None:
            tree["divisors"] = {"file": DIVISORS, "sha256": self.divisors_sha256}
        return (
            json.dumps(tree, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read and check a manifest.

        Raises:
            ArtifactError: not JSON, another format or version, or a field that is missing or wrong.
        """
        try:
            tree = json.loads(text, object_pairs_hook=no_key_twice)
        except (ValueError, RecursionError) as error:  # not JSON, or a number of 4,301 digits
            raise ArtifactError(f"`{MANIFEST}` is not valid JSON: {error}", RESTORE) from error
        _check_version(tree)
        check_features(tree.get("requires", ()), "the artifact")
        try:
            tasks = {name: entry_from_dict(name, entry) for name, entry in tree["tasks"].items()}
            for part, file in (("backbone", BACKBONE), ("divisors", DIVISORS)):
                if part in tree and tree[part]["file"] != file:
                    raise ArtifactError(f"`{part}.file` is not `{file}`", RESTORE)
            return cls(
                source=Source(**tree["source"]),
                scheme=Scheme(**tree["scheme"]),
                backbone_sha256=tree["backbone"]["sha256"],
                files=dict(tree["files"]),
                tasks=tasks,
                requires=tuple(tree.get("requires", ())),
                divisors_sha256=tree["divisors"]["sha256"] if "divisors" in tree else None,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ArtifactError(
                f"`{MANIFEST}` lacks a field or has a wrong one: {error}", RESTORE
            ) from error


def check_task_name(name: str) -> str:
    """`name` itself, if it may stand for a task in files and manifests."""
    if not isinstance(name, str) or TASK_NAME.fullmatch(name) is None:
        raise ArtifactError(
            f"`{name}` cannot name a task",
            "use 1 to 64 of: a-z, 0-9, dot, underscore, hyphen; start with a letter or digit",
        )
    if REPLACEMENT.fullmatch(name[name.rfind(".") :]) is not None:
        raise ArtifactError(
            f"`{name}` cannot name a task: its file would be a replacement of another task",
            "choose a name that does not end in `.r` and a number",
        )
    return name


def check_new_name(name: str) -> str:
    """`name` itself, if a task may be called so from now on: files of that name can lie on every system."""
    if (problem := name_problem([check_task_name(name)])) is not None:
        raise ArtifactError(f"`{name}` cannot name a task: {problem}", "choose another name")
    return name


def check_features(requires: object, what: str) -> None:
    """Raise ArtifactError unless every feature of a `requires` is one that this release reads.

    Args:
        requires: names of features.
        what: that needs them, in words.
    """
    if not isinstance(requires, list | tuple):
        raise ArtifactError(f"`requires` of {what} is not a list", RESTORE)
    unknown = [name for name in requires if not isinstance(name, str) or name not in FEATURES]
    if unknown:
        raise ArtifactError(
            f"{what} requires the feature `{unknown[0]}`, which this release does not know",
            "upgrade with `pip install -U maskpack`",
        )


def patch_file(name: str, replacing: str | None = None) -> str:
    """File of a task's patch, different from the one it replaces so that both can exist at once.

    >>> patch_file("sst2"), patch_file("sst2", "tasks/sst2.safetensors")
    ('tasks/sst2.safetensors', 'tasks/sst2.r1.safetensors')
    """
    if replacing is None:
        return f"{TASK_FOLDER}/{check_task_name(name)}.safetensors"
    match = PATCH_FILE.fullmatch(replacing)
    revision = int(match.group(2)[2:]) + 1 if match and match.group(2) else 1
    return f"{TASK_FOLDER}/{check_task_name(name)}.r{revision}.safetensors"


def entry_from_dict(name: str, tree: Mapping[str, Any]) -> TaskEntry:
    """A task's entry from JSON; inverse of `entry_to_dict`.

    Raises:
        ArtifactError, KeyError, TypeError: a field is missing or wrong.
    """
    # a value that is no list is kept, so that the entry's check refuses it by name
    return TaskEntry(
        name=name,
        **{
            **tree,
            "labels": _as_tuple(tree["labels"]),
            "requires": _as_tuple(tree.get("requires", ())),
        },
    )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def entry_to_dict(entry: TaskEntry) -> dict[str, Any]:
    """A task's entry as JSON; its name is the key under which it stands. Empty `requires` and `config` are left out."""
    tree = {**asdict(entry), "labels": list(entry.labels), "requires": list(entry.requires)}
    del tree["name"]
    return {k: v for k, v in tree.items() if v or k not in {"requires", "config"}}


def portable_entry(entry: TaskEntry) -> dict[str, Any]:
    """The same without fields of one artifact: the patch's file, its digest, its history."""
    tree = entry_to_dict(entry)
    tree["training"] = {k: v for k, v in entry.training.items() if k != "history"}
    return {key: value for key, value in tree.items() if key not in {"file", "sha256"}}


def _check_version(tree: object) -> None:
    if not isinstance(tree, dict) or tree.get("format") != "maskpack":
        raise ArtifactError(
            f"`{MANIFEST}` does not describe an artifact of this tool",
            "give the folder of an artifact",
        )
    version = tree.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArtifactError(
            f"format version {version!r} is not readable, this release reads {FORMAT_VERSION}",
            "upgrade with `pip install -U maskpack`, or make the artifact again",
        )


def no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as `object_pairs_hook`; ValueError if it holds a key twice."""
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("it has a key twice")
    return tree
