"""Architectures of which the class in transformers does not say enough, as data; `rule.py` finds the same for all others.

One thing is the same for all of them: every linear inside the base model (the layers and, where there
is one, the pooler) is masked, every embedding is quantised, all other parameters of the base model stay
float16, and everything outside the base model is the head. Architectures differ in their inputs, and
`Family` describes them. Weights that are no `nn.Linear` become one on loading, see `linears.py`.

Decoders are read as classifiers, as transformers does: the logits are those of the last token that is
no padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskpack.formats import ConfigError, ModelError
from maskpack.formats.pooling import Pooling

UNLIMITED = 2**31 - 1
"""Longest input of a model without a table of positions."""

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")

PADDED = -1
"""Instead of a first position: one past the padding token's id."""

TEXT, IMAGES = "text", "images"
"""What encoders read, as `INPUTS` in `inputs.py` and `PREPROCESSORS` of the tasks name it."""

INPUT_SIZE = "maskpack_input_size"
"""Name in `config.json` of height and width of the images that a model reads, where they are not those of its positions."""


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        base: attribute of the classification model that holds the base model.
        token_types: number of its token types where its configuration has no `type_vocab_size`; 0:
            it never reads `token_type_ids`.
        last_token: whether the last token that is no padding is classified, so that the
            configuration must name the padding token.
        pad_left: whether padding stands before the text, because the last position is classified.
        time_first: whether inputs of its layers are `(s, b, i)`, not `(b, s, i)`.
        float_mask: whether torch can trace it with a float `attention_mask` only.
        relative: whether it has no table of positions, so that any length can be read.
        offset: positions of its table that stand before the first one of a text, or `PADDED`.
        fused: settings that transformers' fused attention takes for granted; a model with others needs `eager`.
        settings: of its configuration, for a model that only classifies.
        pooling: what the head reads in transformers' class for classification.
        pooler_switch: setting without which its pooler gives the first token's state as it is.
        projections: last names of the linears beside which LoRA puts its factors.
        reads: what it reads, `TEXT` or `IMAGES`.
        own_tokens: of a model that reads images, tokens beside those of the image's patches.
        any_size: of the same, whether images may have another size than the one that it has positions for.
    """

    base: str
    token_types: int = 0
    last_token: bool = False
    pad_left: bool = False
    time_first: bool = False
    float_mask: bool = False
    relative: bool = False
    offset: int = 0
    fused: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    pooling: Pooling = Pooling.CLS
    pooler_switch: str = ""
    projections: tuple[str, ...] = ("query", "value")
    reads: str = TEXT
    own_tokens: int = 1
    any_size: bool = False

    def pooling_of(self, config: Any) -> Pooling:
        """What the head of a model reads, from its configuration of transformers."""
        off = self.pooler_switch and not getattr(config, self.pooler_switch, True)
        return Pooling.CLS if off else self.pooling

    def token_kinds(self, config: Mapping[str, Any]) -> int:
        """Number of token types of a model, 0 if it reads none; from its configuration as a mapping.

        One that knows a single type reads none: the second text of a pair would ask for another.
        """
        kinds = int(config.get("type_vocab_size", self.token_types)) if self.token_types else 0
        return kinds if kinds > 1 else 0

    def longest_input(self, config: Mapping[str, Any]) -> int:
        """Tokens a model has positions for, from its configuration as a mapping.

        Rotary and bucketed positions could go further; the limit there is the length that the configuration names.
        """
        if self.reads == IMAGES:
            return self.own_tokens + patches_of(config)
        if self.relative:
            return UNLIMITED
        named = (config.get(name) for name in _POSITIONS)
        positions = int(next(filter(None, named), 512))
        if self.offset == PADDED:
            return positions - int(config.get("pad_token_id") or 0) - 1
        return positions - self.offset


def image_size_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the images that a model reads, from its configuration as a mapping."""
    height, width = _pair(config.get(INPUT_SIZE) or config["image_size"])
    return height, width


def patches_of(config: Mapping[str, Any]) -> int:
    """Patches of an image, each of which is a token.

    >>> patches_of({"image_size": 224, "patch_size": 16}), patches_of({"image_size": [8, 12], "patch_size": 4})
    (196, 6)
    """
    height, width = image_size_of(config)
    high, wide = _pair(config["patch_size"])
    return (height // high) * (width // wide)


def _pair(size: Any) -> tuple[int, int]:
    """A size for both axes, or one for each."""
    first, second = size if isinstance(size, list | tuple) else (size, size)
    return int(first), int(second)


FAMILIES: dict[str, Family] = {
    # layers of ALBERT are shared: one mask for all repeats
    "albert": Family("albert", token_types=2, pooling=Pooling.POOLER),
    "bert": Family("bert", token_types=2, pooling=Pooling.POOLER),
    "camembert": Family("roberta", offset=PADDED),
    "deberta-v2": Family("deberta", token_types=2, projections=("query_proj", "value_proj")),
    "deit": Family(
        "deit", reads=IMAGES, own_tokens=2
    ),  # a token for its teacher beside that of the class
    # interpolates its positions to the size of the image
    "dinov2": Family("dinov2", reads=IMAGES, any_size=True),
    "distilbert": Family("distilbert", projections=("q_lin", "v_lin")),
    "electra": Family("electra", token_types=2),
    "gpt2": Family(
        "transformer",
        last_token=True,
        fused={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        settings={"use_cache": False},
        pooling=Pooling.LAST,
        projections=("c_attn",),
    ),
    "llama": Family(
        "model",
        last_token=True,
        settings={"use_cache": False},
        pooling=Pooling.LAST,
        projections=("q_proj", "v_proj"),
    ),
    "mobilebert": Family(
        "mobilebert",
        token_types=2,
        pooling=Pooling.POOLER,
        pooler_switch="classifier_activation",
    ),
    "modernbert": Family("model", settings={"reference_compile": False}, projections=("Wqkv",)),
    # numbers positions from 2, whatever the padding token's id is
    "mpnet": Family("mpnet", offset=2, projections=("q", "v")),
    "roberta": Family("roberta", offset=PADDED),
    "vit": Family("vit", reads=IMAGES),
    "xlm-roberta": Family("roberta", offset=PADDED),
    "xlnet": Family(
        "transformer",
        token_types=4,  # only compared with each other; its tokenizer gives 0 to 3
        pad_left=True,
        time_first=True,
        float_mask=True,
        relative=True,
        settings={"use_mems_eval": False, "use_mems_train": False},
        pooling=Pooling.LAST,
        projections=("q", "v"),
    ),
}


def family_of(model_type: str) -> Family:
    """The family of a configuration's `model_type`: its entry, or what the rule of `rule.py` says.

    Raises:
        ModelError: not an architecture this release supports.
    """
    if (own := FAMILIES.get(model_type)) is not None:
        return own
    from maskpack.models.rule import family_by_rule  # noqa: PLC0415 - imports torch

    return family_by_rule(model_type)


_ALWAYS = {
    "add_cross_attention": False,  # reads the states of an encoder, which a classifier has not
    "chunk_size_feed_forward": 0,  # saves memory; refuses lengths that are no multiple of it
}


def settings_of(config: Any) -> dict[str, Any]:
    """Settings for the configuration of a model that only classifies; only existing ones are changed.

    Release 5 of transformers no longer knows some of the settings.
    """
    wanted = {**_ALWAYS, **family_of(config.model_type).settings}
    return {name: value for name, value in wanted.items() if hasattr(config, name)}


def attention_of(config: Any, wanted: str | None) -> str | None:
    """The implementation of attention that computes what a configuration says.

    Args:
        config: of transformers.
        wanted: `eager`, `sdpa`; None: transformers' default.
    """
    fused = family_of(config.model_type).fused
    plain = any(getattr(config, name, usual) != usual for name, usual in fused.items())
    return "eager" if plain else wanted


def token_kinds(config: Mapping[str, Any]) -> int:
    """`Family.token_kinds` of the family that a configuration names.

    >>> token_kinds({"model_type": "bert"}), token_kinds({"model_type": "gpt2"})
    (2, 0)
    >>> token_kinds({"model_type": "deberta-v2", "type_vocab_size": 0})  # as DeBERTa-v3 has it
    0
    """
    return family_of(config["model_type"]).token_kinds(config)


def projections_of(model_type: str) -> list[str]:
    """Last names of the linears beside which LoRA puts its factors.

    Raises:
        ConfigError: those of the family have no usual names.
    """
    if not (names := family_of(model_type).projections):
        raise ConfigError(f"`lora` knows no projections of `{model_type}`", "use the method `head`")
    return list(names)


def longest_input(config: Mapping[str, Any]) -> int:
    """`Family.longest_input` of the family that a configuration names."""
    return family_of(config["model_type"]).longest_input(config)


def check_rotary(config: Any) -> None:
    """Refuse rotary positions that the installed transformers would silently read differently.

    Release 5 writes `rope_parameters`; 4.57 reads `rope_theta` and takes its default without it.

    Raises:
        ModelError: the written and the read positions differ.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    for name, part in (
        ("rope_theta", rope),
        ("global_rope_theta", rope.get("full_attention", {})),
        ("local_rope_theta", rope.get("sliding_attention", {})),
    ):
        if not isinstance(part, Mapping):
            raise ModelError(
                f"`rope_parameters` says {part!r:.60} where an object is expected",
                "set it in `config.json` as the model was saved with it",
            )
        read = getattr(config, name, None)
        if read is None or "rope_theta" not in part:
            continue
        scaled = part.get("rope_type", "default") != "default"
        if part["rope_theta"] != read or (scaled and not config.rope_scaling):
            raise ModelError(
                f"`rope_parameters` says {part}, the installed transformers reads `{name}` {read}",
                "install transformers 5, with which this configuration was written",
            )


def check_length(max_length: int, longest: int) -> None:
    """Raise ConfigError if texts may have more tokens than the encoder has positions."""
    if max_length > longest:
        raise ConfigError(f"`max_length` is {max_length}, the encoder has {longest} positions")
