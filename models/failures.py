"""What transformers, tokenizers and safetensors raise, as our errors; and a line for who waits for the Hub."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.constants import HF_HUB_CACHE
from safetensors import SafetensorError

from maskpack.formats import MaskpackError, MissingPackageError, ModelError
from maskpack.formats.errors import Hint, no_panic
from maskpack.formats.extras import missing_package
from maskpack.formats.waiting import announced
from maskpack.models.locate import ORIGINAL, WHERE
from maskpack.models.mapped import weights_of

_LOG = logging.getLogger(__name__)
_PIECE = 2**24  # values

# Words of an error about a part that is not installed -> the package. Libraries word each in their own way.
_PARTS = {
    "sentencepiece": "sentencepiece",
    "protobuf": "protobuf",
    "tiktoken": "tiktoken",
    r"flash.?att\w*": "flash-attn",
    "torchvision": "torchvision",
    "accelerate": "accelerate",
    "bitsandbytes": "bitsandbytes",
    "optimum": "optimum",
    "peft": "peft",
}
_COMMAND = re.compile(r"pip install (?:-\S+ )*['\"`]?([A-Za-z][\w.-]*)")

_FAILURES = (  # what libraries raise with words for people; other classes are told with their names
    *(OSError, ValueError, KeyError, RuntimeError),
    *(SafetensorError, pickle.UnpicklingError),
)

_ODD = (
    "look for a value of the wrong type or size in its JSON files, or give them as they were saved"
)

Found = TypeVar("Found")


def guard(load: Callable[[], Found], model: str) -> Found:
    """The result of `load`, which reads a model; exceptions become our errors.

    Args:
        load: what to call.
        model: folder or hub id, for the message.

    Raises:
        ModelError: it cannot be read.
        MissingPackageError: it needs a package that is not installed.
    """
    try:
        with waiting_for(model), no_panic():
            return load()
    except MaskpackError:
        raise
    except Exception as error:  # libraries raise whatever a value of the wrong type leads to
        raise failure(error, model) from error


def failure(error: Exception, model: str) -> MaskpackError:
    """The error for what a library raised over a model.

    Args:
        error: what was raised.
        model: folder or hub id, or the file that was read.
    """
    if isinstance(error, ImportError):
        return missing_part(model, error)
    if _wants_to_run(error):
        return ModelError(
            f"the weights in `{model}` are a pickle that runs code when it is loaded",
            "save them again as safetensors, where you trust the file",
        )
    fact = f"cannot load a model from `{model}`: "
    if isinstance(error, _FAILURES):
        return ModelError(fact + first_line(error), _commits(model) or WHERE)
    return ModelError(f"{fact}{type(error).__name__}: {first_line(error)}", _ODD)


def _commits(model: str) -> Hint | None:
    """The way to a model of which the cache has commits, and not the one that a branch is at."""
    home = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    known = sorted(path.name for path in home.glob("snapshots/*") if path.is_dir())
    if not known or (home / "refs" / "main").is_file():
        return None
    listed = ", ".join(f"`{name}`" for name in known)
    return Hint("its commits in the local cache: {commits}; give one as `revision`", commits=listed)


class NotFiniteError(ModelError):
    """A weight of a model is no number."""


def check_finite(model: Any, location: str, *, dtype: torch.dtype = torch.float32) -> None:
    """Raise NotFiniteError if a weight is no number, as a training in float16 may leave it.

    Raises:
        ModelError: a weight is stored in a type that transformers does not turn into `dtype`.
    """
    for name, parameter in model.named_parameters():
        if parameter.dtype not in {dtype, torch.float32}:
            raise ModelError(
                f"`{name}` of `{location}` is stored as {str(parameter.dtype).removeprefix('torch.')}, "
                "which is a code and not a weight",
                ORIGINAL,
            )
    for name, weight in weights_of(model):
        # in pieces: torch makes three tensors of a weight's size, and a table of a multilingual model has a gigabyte
        flat = weight.flatten()
        pieces = (flat[start : start + _PIECE] for start in range(0, len(flat), _PIECE))
        if not all(bool(piece.isfinite().all()) for piece in pieces):
            raise NotFiniteError(
                f"`{name}` of `{location}` holds a value that is not finite",
                "its training diverged, or it was saved in float16: give an earlier checkpoint, or save it "
                "again in float32",
            )


@contextmanager
def waiting_for(model: str) -> Iterator[None]:
    """Say after some seconds that a model of the Hub is being fetched; of a folder nothing."""
    local = Path(model).is_dir()
    with (
        nullcontext() if local else announced(_LOG, f"getting `{model}` from the Hub or its cache")
    ):
        yield


def missing_part(model: str, error: ImportError) -> MaskpackError:
    """The error for a package that a model needs and that is not installed.

    Args:
        model: folder or hub id.
        error: what a library raised.
    """
    package = _package(error)
    if package is None:
        return ModelError(
            f"`{model}` needs a package that is not installed: {first_line(error)}",
            "install it, or give a model that needs no such package",
        )
    return missing_package(f"`{model}`", package) or MissingPackageError(
        f"`{model}` needs the package {package}, which is not installed",
        f"pip install {package}",
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's text that holds something, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _package(error: ImportError) -> str | None:
    """The package that an error about a missing part names.

    >>> _package(ImportError("FlashAttention2 has been toggled on, but it cannot be used"))
    'flash-attn'
    >>> _package(ImportError("needs more: `pip install -U 'hf-kernels>=1'`"))
    'hf-kernels'
    """
    text = str(error)
    for words, package in _PARTS.items():
        if re.search(words, text, re.IGNORECASE):
            return package
    if found := _COMMAND.search(text):
        return found[1]
    return error.name.partition(".")[0].replace("_", "-") if error.name else None


def _wants_to_run(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, pickle.UnpicklingError):
            return True
        error = error.__cause__ or error.__context__
    return False


def absent(info: Mapping[str, Any]) -> set[str]:
    """Parameters that were not loaded: they are not there, or have another shape."""
    mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    return {*info["missing_keys"], *mismatched}


def check_loaded(base: str, info: Mapping[str, Any], location: str) -> None:
    """Refuse an encoder of which a part was not loaded, which transformers initialises at random.

    A pooler may be missing (many checkpoints have none), and so may the head.
    """
    made_up = sorted(
        name
        for name in absent(info)
        if name.startswith(f"{base}.") and not name.startswith(f"{base}.pooler.")
    )
    if made_up:
        others = sorted(info.get("unexpected_keys") or ())
        instead = f"; they hold `{others[0]}` and others that it has not" if others else ""
        raise ModelError(
            f"the weights in `{location}` lack {len(made_up)} parameters of the encoder "
            f"that its `config.json` describes, such as `{made_up[0]}`{instead}",
            "give a model whose weights and configuration belong together",
        )
