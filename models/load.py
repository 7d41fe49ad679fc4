"""Load pretrained models and tokenizers by folder, hub id or alias.

`locate.py` finds the folder, `adapters.py` merges adapters, `failures.py` turns exceptions into our errors. No code that
comes with a model is run.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers import logging as transformers_logging

from maskpack.formats import ModelError
from maskpack.formats.errors import no_panic
from maskpack.formats.files import scratch_folder
from maskpack.formats.pooling import Pooling
from maskpack.models.adapters import find_adapter, merge, outputs_of
from maskpack.models.config import canonical_json, load_config
from maskpack.models.failures import (
    absent,
    check_finite,
    check_loaded,
    first_line,
    guard,
    missing_part,
    waiting_for,
)
from maskpack.models.families import IMAGES, TEXT, attention_of, family_of
from maskpack.models.hub_files import commit_of, file_of, reading_options, reading_place
from maskpack.models.image_files import load_processor, processor_files, settle_size
from maskpack.models.inputs import INPUTS, inputs_of
from maskpack.models.linears import linearize
from maskpack.models.locate import ADAPTER, resolve, weights_variant
from maskpack.models.mapped import weights_digest
from maskpack.models.padding import settle_padding
from maskpack.models.pipeline import SETFIT_HEAD, note_pipeline
from maskpack.models.pooling import as_vectors, class_for, drop_pooler, set_pooling, with_pooling
from maskpack.models.sketch import class_for_task
from maskpack.models.spans import as_read, reading_class
from maskpack.models.stored import stored_type
from maskpack.models.tokenizer_files import check_sentencepiece, no_room, tokenizer_files
from maskpack.models.vocabulary import resize_to, settle_vocabulary
from maskpack.models.wrapped import load_unwrapped, wrapper_of

_LOG = logging.getLogger(__name__)

AUTO_CLASS = INPUTS[TEXT].auto_class
"""Class that loads an encoder of texts if the task names no other; every family of them has one."""

_SEED = 0  # new embeddings get the same random values on every machine


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained encoder in memory.

    Attributes:
        name: hub id, alias or folder name, never a full path.
        revision: commit of a hub model, or None.
        model: the base model, in float32 or in the half type that it is stored in.
        tokenizer: its tokenizer; None: it reads images.
        files: configuration and files of tokenizer or image processor, name -> bytes, as the artifact keeps them.
    """

    name: str
    revision: str | None
    model: Any
    tokenizer: Any
    files: Mapping[str, bytes]

    def weights_sha256(self) -> str:
        """Digest of all parameters, by name, shape and bytes."""
        return weights_digest(self.model)


def load_pretrained(
    model: str,
    *,
    revision: str | None = None,
    classifier: Any = None,
    resize_embeddings: bool = False,
) -> Pretrained:
    """Load a base model and its tokenizer, or its image processor.

    Weights of one half type stay in it, as views of the mapped files: their float32 values are the same.

    Args:
        model: folder, hub id, or an alias of `ALIASES`.
        revision: branch, tag or commit of a hub model.
        classifier: the same model from `load_finetuned`, if it is loaded already.
        resize_embeddings: whether tokens without an embedding get one, as `resize_token_embeddings` of
            transformers gives it.

    Raises:
        ModelError: no such model, not a supported encoder, no tokenizer, or one with tokens that have no
            embedding.
    """
    location = resolve(model)
    config = load_config(location, revision=revision)
    load = _READING[family_of(config.model_type).reads]
    base, tokenizer, files = load(
        model, location, config, revision=revision, classifier=classifier, resize=resize_embeddings
    )
    files = {**files, "config.json": canonical_json(config)}
    commit = _commit(location, revision=revision)
    return Pretrained(_shown_name(model), commit, base, tokenizer, files)


_Loaded = tuple[Any, Any, dict[str, bytes]]
"""An encoder, its tokenizer if it has one, and the files of what makes its inputs."""


def _reading_texts(
    model: str, location: str, config: Any, *, revision: str | None, classifier: Any, resize: bool
) -> _Loaded:
    """An encoder of texts; its configuration is made to fit the tokenizer, in place."""
    tokenizer = load_tokenizer(location, revision=revision)
    note_pipeline(location, tokenizer, revision=revision)
    padding = tokenizer.pad_token
    settle_padding(tokenizer, config)
    unused = {padding} - {None, tokenizer.pad_token}
    if classifier is None:
        classifier = _load_stored(location, revision=revision, whole=resize)
    settle_vocabulary(tokenizer, classifier, name=model, resize=resize, unused=unused)
    base = getattr(classifier, family_of(config.model_type).base)
    config.vocab_size = base.config.vocab_size
    base.config.pad_token_id = config.pad_token_id
    return base, tokenizer, tokenizer_files(tokenizer)


def _reading_images(
    model: str, location: str, config: Any, *, revision: str | None, classifier: Any, resize: bool
) -> _Loaded:
    """An encoder of images; its configuration is made to name their size, in place."""
    del resize  # it has no embeddings of tokens
    processor, family = load_processor(location, revision=revision), family_of(config.model_type)
    settle_size(processor, config, family, name=model)
    if classifier is None:
        classifier = _load_stored(location, revision=revision, whole=False)
    return getattr(classifier, family.base), None, processor_files(processor)


_READING: dict[str, Callable[..., _Loaded]] = {TEXT: _reading_texts, IMAGES: _reading_images}
"""What encoders read -> function that loads one with what makes its inputs."""


def _load_stored(location: str, *, revision: str | None, whole: bool) -> Any:
    """A classifier with its weights in the type that they are stored in, or in float32.

    With `whole` it may get new embeddings, which are made up in float32.
    """
    plain = whole or find_adapter(location, revision=revision) is not None
    dtype = torch.float32 if plain else stored_type(location, revision=revision)
    torch.manual_seed(_SEED)
    # The encoder inside the classifier: RoBERTa's, for example, has no pooler there.
    config = load_config(location, revision=revision)
    config.num_labels = 2
    set_pooling(config, None)
    auto_class = inputs_of(family_of(config.model_type)).auto_class
    model, info = _load(auto_class, location, config, revision=revision, dtype=dtype)
    return _checked(model, info, location, dtype=dtype)


def _checked(model: Any, info: Mapping[str, Any], location: str, *, dtype: torch.dtype) -> Any:
    """A loaded classifier, if all of its encoder was there and is finite; with linears for all matrices.

    A pooler that the checkpoint lacks is taken out: transformers made it at random.
    """
    base = model.base_model_prefix
    check_loaded(base, info, location)
    check_finite(model, location, dtype=dtype)
    if any(name.startswith(f"{base}.pooler.") for name in absent(info)):
        drop_pooler(getattr(model, base))  # a random one
    return linearize(model)


def load_classifier(
    location: str,
    *,
    outputs: int,
    revision: str | None = None,
    auto_class: str = AUTO_CLASS,
    vocabulary: int = 0,
    pooling: Pooling | None = None,
    vectors: bool = False,
) -> Any:
    """Load a model of an auto class of transformers with a fresh head of `outputs` logits, which may pool in another way.

    With `vectors` it has no head.

    With fewer embeddings than `vocabulary` it gets more of them, as in `load_pretrained`.
    """
    location = resolve(location)
    adapter = find_adapter(location, revision=revision)
    if adapter is not None and outputs_of(adapter) not in {None, outputs}:
        whole = load_finetuned(location, revision=revision)
        fresh = _with_fresh_head(whole, outputs, auto_class)
        return with_pooling(fresh, pooling, vectors=vectors)
    config = load_config(location, revision=revision)
    config.num_labels = outputs
    set_pooling(config, None)
    model, info = _load(auto_class, location, config, revision=revision)
    resized = resize_to(_checked(model, info, location, dtype=torch.float32), vocabulary)
    return with_pooling(resized, pooling, vectors=vectors)


def load_finetuned(
    location: str,
    *,
    revision: str | None = None,
    attention: str | None = None,
    auto_class: str = AUTO_CLASS,
    vectors: bool = False,
) -> Any:
    """Load a fine-tuned classifier with the head it was saved with, or a model that gives vectors.

    Args:
        location: folder, hub id or alias.
        revision: branch, tag or commit of a hub model.
        attention: implementation of attention; None: transformers' default; `eager` traces best.
        auto_class: class of transformers that loads it.
        vectors: whether it gives vectors: an encoder, with the pooling that sentence-transformers names beside it.

    Raises:
        ModelError: no such model, or it lacks a part, which transformers would initialise at random.
    """
    location = resolve(location)
    config = load_config(location, revision=revision)
    if vectors:
        as_vectors(config, location, revision=revision)
    model, info = _load(auto_class, location, config, revision=revision, attention=attention)
    if odd := sorted(absent(info)):
        pickled = file_of(location, SETFIT_HEAD, revision=revision) is not None
        raise ModelError(
            f"`{location}` is no fine-tuned classifier: it lacks `{odd[0]}`",
            f"its head `{SETFIT_HEAD}` is a pickle, which is not read; learn the task over it with its rows"
            if pickled
            else "give the folder of a fully fine-tuned baseline, or another one with a head",
        )
    check_finite(model, location)
    model.config.return_dict = True
    return linearize(model)


def load_tokenizer(location: str, *, revision: str | None = None) -> Any:
    """Load a model's fast tokenizer.

    Raises:
        ModelError: there is none beside the model.
        MissingPackageError: its files can only be read with a package that is not installed.
    """
    location, revision = _tokenizer_place(location, revision)
    if file_of(location, "tokenizer.json", revision=revision) is None:
        check_sentencepiece(location, revision)
    try:
        with waiting_for(location), _hushed(), no_panic():
            tokenizer = _any_tokenizer(location, revision)
    except ImportError as error:
        raise missing_part(location, error) from error
    except Exception as error:  # the tokenizers library raises bare `Exception`
        raise ModelError(
            f"`{location}` has no tokenizer that can be loaded: {first_line(error)}",
            "save it beside the model: `AutoTokenizer.from_pretrained(...).save_pretrained(DIR)`",
        ) from error
    # transformers gives False for a class that exists and cannot be made
    if not getattr(tokenizer, "is_fast", False) or tokenizer.vocab_size == 0:
        raise ModelError(
            f"`{location}` has no fast tokenizer",
            "a `tokenizer.json` beside the model is needed",
        )
    tokenizer.init_kwargs.pop("auto_map", None)  # names files of the model's own, which no copy has
    return tokenizer


def _tokenizer_place(location: str, revision: str | None) -> tuple[str, str | None]:
    """Where the tokenizer of a model lies: beside it, beside an adapter's model, or above a checkpoint."""
    if file_of(location, "tokenizer_config.json", revision=revision) is not None:
        return location, revision
    if (adapter := find_adapter(location, revision=revision)) is not None:
        return adapter.base, adapter.base_revision
    above = Path(location).parent
    if (
        Path(location).name.startswith("checkpoint-")
        and (above / "tokenizer_config.json").is_file()
    ):
        return str(above), None
    return location, revision


def _any_tokenizer(location: str, revision: str | None) -> Any:
    """The tokenizer of its own class, or of the general class if that is unknown or comes as code with the model."""
    options = reading_options(location, revision)
    try:
        return AutoTokenizer.from_pretrained(
            location, use_fast=True, trust_remote_code=False, **options
        )
    except ValueError:
        if file_of(location, "tokenizer.json", revision=revision) is None:
            raise
        return PreTrainedTokenizerFast.from_pretrained(location, **options)


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
        raise no_room(error) from error


def _load(
    auto_class: str,
    location: str,
    config: Any,
    *,
    revision: str | None,
    attention: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, Mapping[str, Any]]:
    """A model and transformers' loading report, without warnings of intentionally new heads."""
    adapter = find_adapter(location, revision=revision)
    if adapter is not None:
        location, revision = adapter.base, adapter.base_revision
    wanted = class_for(config, class_for_task(config, auto_class))
    loader: Any = reading_class(config, wanted)
    options = {
        "config": config,
        **reading_options(location, revision),
        "variant": weights_variant(Path(location)) if Path(location).is_dir() else None,
        "attn_implementation": attention_of(config, attention),
        "dtype": dtype,
        "ignore_mismatched_sizes": True,
        "trust_remote_code": False,
        "output_loading_info": True,
    }
    _LOG.debug("reading `%s`", location)
    with _hushed():
        place = reading_place(location, revision)
        model, info = guard(lambda: loader.from_pretrained(place, **options), location)
        if adapter is None:
            prefix = wrapper_of(info)
            if prefix is None:
                return as_read(model, wanted), info
            return guard(lambda: load_unwrapped(type(model), location, prefix, options), location)
        own = merge(adapter, model, family_of(config.model_type).base)
    return model, {"missing_keys": absent(info) - own, "mismatched_keys": ()}


@contextmanager
def _hushed() -> Iterator[None]:
    """No warnings and no progress bars of transformers, unless somebody wants to see all."""
    level = transformers_logging.get_verbosity()
    if not _LOG.isEnabledFor(logging.DEBUG):
        transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _with_fresh_head(classifier: Any, outputs: int, auto_class: str) -> Any:
    """A classifier with the same encoder and a new head of other outputs."""
    config = copy.deepcopy(classifier.config)
    config.num_labels = outputs
    fresh: Any = class_for(config, class_for_task(config, auto_class))
    fresh = fresh._from_config(config)  # noqa: SLF001
    base = family_of(config.model_type).base
    setattr(fresh, base, getattr(classifier, base))
    return linearize(fresh)


def _commit(location: str, *, revision: str | None) -> str | None:
    """Commit of a hub model, from its folder in the cache; None for a local folder."""
    if Path(location).is_dir():
        return None
    name = "config.json" if find_adapter(location, revision=revision) is None else ADAPTER
    file = file_of(location, name, revision=revision)
    return None if file is None else commit_of(file)


def _shown_name(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model
