"""Tiny models of architectures beyond those of `conftest.py`: general sizes, and what each needs besides."""

from __future__ import annotations

from transformers import CONFIG_MAPPING, AutoModel

from maskpack.models.families import family_of
from maskpack.models.tested import TESTED

_SIZES = {
    "vocab_size": 50,
    "max_position_embeddings": 66,
    "n_positions": 64,
    "max_seq_len": 64,
    "hidden_size": 32,
    "d_model": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "intermediate_size": 64,
    "ffn_dim": 64,
    "n_inner": 64,
    "dff": 64,
    "ffn_hidden_size": 64,
    "embedding_size": 16,
    "input_embedding_size": 16,
    "output_embedding_size": 16,
    "pad_token_id": 0,
    "cls_token_id": 2,
    "bos_token_id": 2,
    "sep_token_id": 3,
    "eos_token_id": 3,
    "initializer_range": 0.25,
}
_NEAR = {"query_pre_attn_scalar": 8, "sliding_window": 4}
_OTHERWISE = {
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "ernie_m": {"pad_token_id": 1},  # as published: its positions begin at 2
    "falcon": {"head_dim": None},
    "gemma2": _NEAR,
    "gemma3_text": _NEAR,
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4},
    "mistral": {"sliding_window": 4},
    "mobilebert": {
        "intra_bottleneck_size": 16,
        "true_hidden_size": 16,
        "num_feedforward_networks": 2,
    },
    "modernbert-decoder": {"local_attention": 4},
    "phi3": {"original_max_position_embeddings": 64},
    "roc_bert": {
        "pronunciation_vocab_size": 10,
        "pronunciation_embed_dim": 8,
        "shape_vocab_size": 10,
        "shape_embed_dim": 8,
    },
}


def tiny_config(kind: str, **changes):
    """A configuration of two layers of width 32; each size goes to a setting that the architecture has."""
    made = CONFIG_MAPPING[kind]
    known, renamed = made().to_dict().keys(), made.attribute_map
    wanted = {name: value for name, value in _SIZES.items() if name in {*known, *renamed}}
    wanted |= _OTHERWISE.get(kind, {}) | changes
    for name, other in renamed.items():
        if name in wanted and other in wanted:
            del wanted[name]
    return made(**{name: value for name, value in wanted.items() if value is not None})


def random_model(kind: str):
    """The encoder of such a configuration."""
    return AutoModel.from_config(tiny_config(kind))


def is_bare(kind: str) -> bool:
    """Whether texts of an architecture of this file end with no token of their own, as those of decoders."""
    return kind in TESTED and family_of(kind).last_token
