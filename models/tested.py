"""What is known of architectures that the rule of `rule.py` takes: which ones tests export, and of which no graph can be made.

One that stands in no list is learned too; before that, a small model of it is exported (`exporters/exportable.py`).
"""

from __future__ import annotations

TESTED = frozenset(
    {
        *("arcee", "biogpt", "bloom", "ctrl", "data2vec-text", "deberta", "diffllama", "ernie"),
        *("ernie_m", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text", "glm", "glm4"),
        *("gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "helium", "hunyuan_v1_dense"),
        *("megatron-bert", "ministral", "mistral", "modernbert-decoder", "mpt", "nemotron"),
        *("nezha", "nystromformer", "openai-gpt", "opt", "persimmon", "phi", "phi3", "qwen2"),
        *("qwen3", "rembert", "roberta-prelayernorm", "roc_bert", "roformer", "seed_oss"),
        *("smollm3", "stablelm", "starcoder2", "xlm-roberta-xl", "yoso"),
        # of newer releases of transformers
        *("eurobert", "gte", "jina_embeddings_v3", "ministral3", "nomic_bert", "olmo", "olmo2"),
        *("olmo3", "ultrabert"),
    }
)
"""Architectures by rule that tests learn on, export in every layout and compare with torch."""

_EXPERTS = "which of its experts compute depends on the text, and a graph has one way"
_ADAPTERS = "which of its adapters compute depends on the text, and a graph has one way"
_BLOCKS = "its attention works in blocks, whose number a graph would have to know"
_UNUSED = "its classifier leaves a part of the encoder unused"

NO_GRAPH: dict[str, str] = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "hunyuan_v1_moe", "minimax"), _EXPERTS),
    **dict.fromkeys(
        ("jamba", "mixtral", "phimoe", "qwen2_moe", "qwen3_moe", "qwen3_next"), _EXPERTS
    ),
    **dict.fromkeys(("big_bird", "longformer"), _BLOCKS),
    **dict.fromkeys(("esm", "luke", "mra"), _UNUSED),
    "xmod": _ADAPTERS,
    "tapas": "it counts the cells of a table while it computes, and a graph has fixed sizes",
    "doge": "its graph does not compute what torch does",
    "open-llama": "torch has no ONNX form of one of its operators",
}
"""Architectures that can be learned on and of which no graph can be made -> why."""

REFUSED = {"reformer": "it learns only on texts whose lengths are multiples of its blocks"}
"""Architectures that the rule would take, and that cannot be learned on -> why."""
