"""What a report of a fault needs: versions, the machine, and whether an artifact or an export works here.

Everything is tried, whatever failed before it. Torch and transformers are used where they are installed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from maskpack.formats import Artifact, MaskpackError, check_artifact, is_artifact, open_artifact
from maskpack.formats.errors import ArtifactError, ExportError, Hint
from maskpack.models.families import IMAGES, TEXT
from maskpack.runtime.images import DATA_URL, PROCESSOR, ImageRule
from maskpack.runtime.task import TOKENIZER, TaskConfig, find_tasks
from maskpack.tasks.types import type_of

PACKAGES = (
    *("maskpack", "numpy", "tokenizers", "onnxruntime", "onnx"),
    *("torch", "transformers", "accelerate"),
)
PROBE = "The parcel that I ordered two weeks ago has not arrived."
_ONE_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_PROBES = {TEXT: PROBE, IMAGES: f"{DATA_URL}png;base64,{_ONE_PIXEL}"}
"""What encoders read -> a row of it."""
"""Text that every task is asked."""

_LITTLE = 1 << 28  # bytes of disk, under which a next command may well fail


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: the thing.
        ok: whether it is well; None where nothing could be tried.
        found: a version, a number, or what is wrong.
        hint: what to do about it, if anything.
    """

    what: str
    ok: bool | None
    found: str
    hint: Hint | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at, in order.

    Attributes:
        path: the artifact or the exported folder; None: the installation alone.
        checks: the installation, the machine, then what is at the path.
    """

    path: Path | None
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.first_wrong is None

    @property
    def first_wrong(self) -> Check | None:
        """The first thing that is wrong; others may follow from it."""
        return next((check for check in self.checks if check.ok is False), None)

    def to_json(self) -> str:
        """One line of JSON."""
        checks = [
            {**vars(check), "hint": None if check.hint is None else str(check.hint)}
            for check in self.checks
        ]
        path = None if self.path is None else str(self.path)
        return json.dumps({"path": path, "ok": self.ok, "checks": checks})


def diagnose(path: Path | None = None) -> Diagnosis:
    """Try what `path` needs to work on this machine; raises nothing that could be reported instead.

    Args:
        path: an artifact or an exported folder; None looks at the installation alone.
    """
    checks = [*_installed(), *_machine(path)]
    if path is not None:
        checks += _of_artifact(path) if is_artifact(path) else _of_export(path)
    return Diagnosis(path, tuple(checks))


def _installed() -> Iterator[Check]:
    yield Check("python", True, platform.python_version())
    for name in PACKAGES:
        try:
            yield Check(name, True, version(name))
        except PackageNotFoundError:
            yield Check(name, None, "not installed")
    if find_spec("onnxruntime") is not None:
        yield _tried("ONNX Runtime", _runtime)
    if find_spec("torch") is not None:
        yield _tried("devices", _devices)


def _devices() -> str:
    from maskpack.models.placement import found_devices  # noqa: PLC0415 - torch may be missing

    return "; ".join(found_devices())


def _runtime() -> str:
    import onnxruntime  # noqa: PLC0415 - may be missing

    from maskpack.runtime.graph import check_version  # noqa: PLC0415

    check_version()
    return f"runs graphs; providers: {', '.join(onnxruntime.get_available_providers())}"


def _machine(path: Path | None) -> Iterator[Check]:
    yield Check("system", True, platform.platform())
    yield Check("processor", True, f"{_processor()}, {os.cpu_count()} cores")
    free = shutil.disk_usage(_existing(path or Path())).free
    enough = free >= _LITTLE
    yield Check(
        "free disk", enough, f"{free / 1e9:.1f} GB", None if enough else Hint("free some space")
    )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _processor() -> str:
    """Its name, and the instructions on which the speed of int8 depends."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # other systems
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in text.splitlines())
    facts = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    has = " ".join(flag for flag in wanted if flag in flags)
    return (
        f"{facts.get('model name', platform.machine())} ({has or 'no vector instructions known'})"
    )


def _tried(what: str, work: Callable[[], str]) -> Check:
    """The work's own words, or the error that it ended with."""
    try:
        return Check(what, True, work())
    except MaskpackError as error:
        return Check(what, False, str(error), error.advice)
    except Exception as error:  # noqa: BLE001 - a report must not end with what it is to report
        first = (str(error).splitlines() or [""])[0]
        hint = Hint("this is a bug in maskpack or in a library; please report it with all of this")
        return Check(what, False, f"{type(error).__name__}: {first}", hint)


def _of_artifact(path: Path) -> Iterator[Check]:
    try:
        artifact = open_artifact(path)
    except MaskpackError as error:
        yield Check("manifest", False, str(error), error.advice)
        return
    manifest = artifact.manifest
    names = ", ".join(sorted(manifest.tasks)) or "none"
    yield Check("manifest", True, f"{manifest.scheme.bits} bits, tasks: {names}")
    yield _tried("digests", partial(_sound, path))
    yield _tried("tokenizer", partial(_cut, artifact))
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    for name in sorted(manifest.tasks):
        if missing:
            yield Check(f"task {name}", None, f"not tried: {missing[0]} is not installed")
        else:
            yield _tried(f"task {name}", partial(_restored, artifact, name))


def _sound(path: Path) -> str:
    findings = check_artifact(path)
    if findings:
        more = f" (and {len(findings) - 1} more)" if findings[1:] else ""
        raise ArtifactError(f"{findings[0]}{more}", "a check lists all that is wrong")
    return "every file is as the manifest says"


def _cut(artifact: Artifact) -> str:
    from tokenizers import Tokenizer  # noqa: PLC0415 - the installation may lack it

    if PROCESSOR in artifact.manifest.files:
        height, width = ImageRule.of_json(artifact.file(PROCESSOR)).size
        return f"images of {height} x {width} pixels"
    if TOKENIZER not in artifact.manifest.files:
        raise ArtifactError(
            f"there is no `{TOKENIZER}` in `{artifact.path}`", "make the artifact again"
        )
    text = artifact.file(TOKENIZER).decode()
    return f"{len(Tokenizer.from_str(text).encode(PROBE).ids)} tokens of a text"


def _restored(artifact: Artifact, name: str) -> str:
    from maskpack.tasks.batches import predict_all, torch_predict  # noqa: PLC0415 - torch
    from maskpack.tasks.context import ModelContext, restore_task  # noqa: PLC0415
    from maskpack.tasks.data.splits import Split  # noqa: PLC0415
    from maskpack.tasks.evaluation.evaluate import encode_for, texts_of  # noqa: PLC0415

    entry = artifact.entry(name)
    row = (_PROBES[type_of(entry).reads],) * (texts_of(entry) or 1)
    split = Split((row,), type_of(entry).blank(np.zeros(1, dtype=np.int64), 1))
    encoded = encode_for(ModelContext.of_artifact(artifact), entry, split)
    model = restore_task(artifact, name, for_answers=True)
    logits = predict_all(torch_predict(model), encoded)
    if not np.isfinite(logits).all():
        raise ArtifactError("the torch model gives no finite number for a row", "learn it again")
    return f"{type_of(entry).name} of {entry.outputs} outputs, answers in torch"


def _of_export(path: Path) -> Iterator[Check]:
    try:
        places = find_tasks(path)
        configs = {name: place.read_config() for name, place in places.items()}
    except MaskpackError as error:
        yield Check("exported tasks", False, str(error), error.advice)
        return
    yield Check("exported tasks", True, ", ".join(sorted(configs)))
    if find_spec("onnxruntime") is None:
        yield Check("graphs", None, "not tried: onnxruntime is not installed")
        return
    for name, config in sorted(configs.items()):
        yield _tried(f"task {name}", partial(_answered, path, config))


def _answered(path: Path, config: TaskConfig) -> str:
    from maskpack.runtime import Session  # noqa: PLC0415 - the installation may lack it

    probe = _PROBES[config.decoder.reads]
    text = (probe, probe) if config.texts == 2 else probe
    session = Session(path)
    if not np.isfinite(session.logits([text], task=config.name)).all():
        raise ExportError("the graph gives no finite number for a row", "export the task again")
    (answer,) = session.predict([text], task=config.name, batch_size=1)
    return f"{config.kind}, files belong together, answers `{answer.cell}`"
