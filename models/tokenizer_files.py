"""Files of a tokenizer: those that need a package to be read, and those that an artifact keeps."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from maskpack.formats import ModelError
from maskpack.formats.errors import first_line, no_panic
from maskpack.formats.extras import needed_for
from maskpack.formats.files import scratch_folder
from maskpack.models.hub_files import file_of

_TOKENIZER = "tokenizer.json"
_PIECES = ("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model")


def check_sentencepiece(location: str, revision: str | None) -> None:
    """Name the packages that read a SentencePiece file before transformers fails for want of them.

    Raises:
        MissingPackageError: one is not installed.
    """
    files = (file_of(location, name, revision=revision) for name in _PIECES)
    found = next((file for file in files if file is not None), None)
    if found is None or not found.read_bytes().startswith(b"\n"):  # a file of tiktoken is text
        return
    with needed_for(f"the tokenizer file `{found.name}` of `{location}`"):
        for package, module in (
            ("sentencepiece", "sentencepiece"),
            ("protobuf", "google.protobuf"),
        ):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(str(error), name=package) from error


def shipped_tokenizer(files: Mapping[str, bytes]) -> Tokenizer | None:
    """The tokenizer of a `tokenizer.json`, of which devices read nothing else; None without one.

    Raises:
        ModelError: it cannot be read, though transformers wrote it.
    """
    if _TOKENIZER not in files:
        return None
    try:
        with no_panic():
            return Tokenizer.from_buffer(files[_TOKENIZER])
    except Exception as error:  # the library raises bare `Exception`
        raise ModelError(
            f"`{_TOKENIZER}`, as transformers saves it, cannot be read: {first_line(error)}",
            "its special tokens and its post-processor must name tokens of its vocabulary",
        ) from error


def check_kept(tokenizer: Any, shipped: Tokenizer) -> None:
    """Raise ModelError unless a tokenizer has the same tokens after it was saved.

    Where two tokens have one id, the library keeps one of them, and not the same one each time.
    """
    own, kept = tokenizer.get_vocab(), shipped.get_vocab()
    lost = sorted(token for token, place in own.items() if kept.get(token) != place)
    if lost:
        raise ModelError(
            f"the tokenizer loses {len(lost)} tokens when it is saved, such as `{lost[0]}` with the id {own[lost[0]]}",
            f"give each token of `{_TOKENIZER}` an id of its own",
        )


def tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    """What `save_pretrained` writes, name -> bytes; without its folder of further chat templates, which no text is read with.

    Raises:
        ModelError: there is no room for them, or the tokenizer holds what no file can.
    """
    try:
        with scratch_folder() as folder, no_panic():
            tokenizer.save_pretrained(folder)
            written = sorted(path for path in Path(folder).iterdir() if path.is_file())
            return {path.name: path.read_bytes() for path in written}
    except OSError as error:
        raise no_room(error) from error
    except Exception as error:  # whatever a value of the wrong type leads to, in transformers or in the library below it
        raise ModelError(
            f"the tokenizer cannot be saved: {first_line(error)}",
            "look for an odd value in `tokenizer_config.json`, or give it as it was saved",
        ) from error


def no_room(error: OSError) -> ModelError:
    """The error for a temporary folder that cannot be written."""
    return ModelError(
        f"cannot write the tokenizer to a temporary folder: {error.strerror or error}",
        "free some space there, or name another place in the variable TMPDIR",
    )
