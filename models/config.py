"""A model's configuration: read without running code of the model's, and refused where it cannot be followed.

A setting that the installed transformers ignores is refused: the model would be silently another one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
import yaml
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from maskpack.formats import ModelError
from maskpack.formats.errors import Hint
from maskpack.models.adapters import adapt_config, find_adapter
from maskpack.models.failures import guard
from maskpack.models.families import check_rotary, family_of, settings_of
from maskpack.models.hub_files import file_of, is_offline, reading_options, why_offline
from maskpack.models.labels import check_id2label
from maskpack.models.locate import ORIGINAL, WHERE, check_pointers

_HEADER = re.compile(r"\A---\r?\n(.*?)^---", re.DOTALL | re.MULTILINE)
_CODE = "auto_map"  # names classes in files of the model's own


def load_config(location: str, *, revision: str | None = None) -> Any:
    """Load a model's configuration; of an adapter that of the merged model.

    Raises:
        ModelError: there is none, it cannot be read, or it describes a model that cannot be used.
    """
    adapter = find_adapter(location, revision=revision)
    if adapter is None:
        return _own_config(location, revision)
    return adapt_config(adapter, _own_config(adapter.base, adapter.base_revision))


def _own_config(location: str, revision: str | None) -> Any:
    if Path(location).is_dir():
        check_pointers(Path(location))
        if not (Path(location) / "config.json").is_file():
            # transformers would guess an architecture from the folder's name
            raise ModelError(f"`{location}` has no `config.json`", WHERE)
    elif is_offline(location) and file_of(location, "config.json", revision=revision) is None:
        raise ModelError(
            f"cannot load a model from `{location}`: {why_offline()}, and the cache does not hold it",
            WHERE,
        )
    options = reading_options(location, revision)
    tree, _ = guard(lambda: PretrainedConfig.get_config_dict(location, **options), location)
    _check_tree(tree, location, revision)
    config = guard(
        lambda: AutoConfig.from_pretrained(
            location, trust_remote_code=False, _commit_hash=tree.get("_commit_hash"), **options
        ),
        location,
    )
    config.update(settings_of(config))
    if hasattr(config, _CODE):
        delattr(
            config, _CODE
        )  # classes of transformers are used, and no copy of the model has the files
    config._attn_implementation = None  # noqa: SLF001 - one that needs a GPU may stand there
    check_rotary(config)
    _check_numbers(config, location)
    return config


_NUMBERS = (
    "vocab_size",
    "type_vocab_size",
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "pad_token_id",
)
"""Settings that are read here; some architectures never look at them, and so refuse nothing."""
_MOST_LAYERS = 1000


def _check_numbers(config: Any, location: str) -> None:
    """Refuse settings that are no whole numbers, and more layers than any model has: transformers would make them all."""
    for name in _NUMBERS:
        value = getattr(config, name, None)
        if value is not None and type(value) is not int:
            raise ModelError(
                f"`{name}` of `{location}` is {value!r:.60}, expected a whole number",
                "set it in `config.json` as the model was saved with it",
            )
    layers = getattr(config, "num_hidden_layers", None)
    if type(layers) is int and layers > _MOST_LAYERS:
        raise ModelError(
            f"`{location}` has {layers} layers by its `config.json`, at most {_MOST_LAYERS} are expected",
            "set their number in `config.json` as the model was saved with it",
        )


def _check_tree(tree: Mapping[str, Any], location: str, revision: str | None) -> None:
    """Refuse what can be refused by the file alone."""
    _check_forms(tree, location)
    kind = tree.get("model_type")
    if kind and kind not in CONFIG_MAPPING:
        family_of(str(kind))
    if _CODE in tree and not kind:
        raise ModelError(
            f"`{location}` brings code of its own, which is not run, and names no architecture",
            Hint("`list_families` says which are supported"),
        )
    if quantized := tree.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, Mapping) else None
        source = _source(tree, location, revision)
        raise ModelError(
            f"the weights of `{location}` are quantised already ({method or 'by an unknown method'})",
            f"give the model that it was made from: `{source}`" if source else ORIGINAL,
        )
    check_id2label(tree, location)
    _check_read(tree, location)


_FORMS: dict[str, tuple[type, str]] = {
    "model_type": (str, "a text"),
    "architectures": (list, "a list of names"),
    "label2id": (dict, "an object"),
    "problem_type": (str, "a text"),
    "rope_parameters": (dict, "an object"),
    "rope_scaling": (dict, "an object"),
    "pruned_heads": (dict, "an object"),
}
"""Settings that are read here and are no numbers -> their type, and its name in JSON."""


def _check_forms(tree: Mapping[str, Any], location: str) -> None:
    """Refuse settings of another type; transformers keeps them as they are."""
    for name, (form, words) in _FORMS.items():
        value = tree.get(name)
        if value is not None and not isinstance(value, form):
            raise ModelError(
                f"`{name}` of `{location}` is {value!r:.60}, expected {words}",
                "set it in `config.json` as the model was saved with it",
            )


_MEANT: dict[str, Any] = {"position_embedding_type": "absolute", "pruned_heads": {}}
"""Setting of an architecture that a release of transformers has dropped -> the value that all releases mean."""


def _check_read(tree: Mapping[str, Any], location: str) -> None:
    """Refuse settings that the installed transformers ignores, because it no longer knows them."""
    kind = tree.get("model_type")
    for name, value in _MEANT.items() if kind in CONFIG_MAPPING else ():
        if tree.get(name, value) != value and not hasattr(CONFIG_MAPPING[kind](), name):
            raise ModelError(
                f"`{name}` of `{location}` is {tree[name]!r}, "
                f"which transformers {transformers.__version__} does not know",
                "install transformers 4.57, or give a model without this setting",
            )


def _source(tree: Mapping[str, Any], location: str, revision: str | None) -> str | None:
    """The model that a quantised one was made from, as far as its files say."""
    card = file_of(location, "README.md", revision=revision)
    header = _HEADER.match(card.read_text(encoding="utf-8", errors="replace")) if card else None
    try:
        facts = yaml.safe_load(header[1]) if header else {}
    except yaml.YAMLError:
        facts = {}
    named = facts.get("base_model") if isinstance(facts, Mapping) else None
    first = named[0] if isinstance(named, list) and named else named
    source = first or tree.get("base_model") or tree.get("_name_or_path")
    return str(source) if source and source != location else None


def canonical_json(config: Any) -> bytes:
    """A configuration as canonical JSON, without the local path it was loaded from."""
    tree = {key: value for key, value in config.to_dict().items() if not key.startswith("_")}
    return (json.dumps(tree, indent=2, sort_keys=True) + "\n").encode()
