"""Whether a model can be exported, before anything is learned. Imports what traces only where it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from maskpack.formats import ExportError
from maskpack.models.config import load_config
from maskpack.models.families import FAMILIES, family_of, settings_of
from maskpack.models.locate import resolve
from maskpack.models.tested import NO_GRAPH, TESTED

_OTHERWISE = "give another model; for torch alone it can be learned with `fit_task`"
_NO_SWITCH = {  # sizes, and what no graph depends on
    *("num_hidden_layers", "n_layers", "n_layer"),
    *("intermediate_size", "hidden_dim", "n_inner", "d_inner"),
    *("vocab_size", "hidden_size", "embedding_size", "dim", "n_embd", "d_model", "type_vocab_size"),
    *("num_attention_heads", "n_heads", "n_head", "num_key_value_heads", "head_dim", "d_head"),
    *("max_position_embeddings", "n_positions", "n_ctx", "model_type", "use_cache"),
    *("architectures", "dtype", "torch_dtype", "transformers_version", "tokenizer_class"),
    *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "_name_or_path"),
    *("tie_word_embeddings", "max_window_layers"),
    *("image_size", "patch_size", "encoder_stride", "mlp_ratio"),
    *("stage_names", "out_features", "out_indices", "apply_layernorm", "reshape_hidden_states"),
    *("output_past", "gradient_checkpointing", "task_specific_params", "_num_labels"),
}
_KINDS = "layer_types"  # a list as long as there are layers


def check_exportable(model: str, *, revision: str | None = None) -> None:
    """Refuse a model of which no graph can be made, or one that computes something else.

    A model with the usual settings of an architecture that tests export passes at once; of others a graph is made, which
    takes seconds.

    Args:
        model: folder, hub id or alias; only its configuration is read.
        revision: branch, tag or commit of a hub model.

    Raises:
        ModelError: no such model, or one of an unknown family.
        ExportError: the architecture, with the settings of this model, cannot be exported.
    """
    config = load_config(resolve(model), revision=revision)
    family_of(config.model_type)
    tree = config.to_dict()
    switches, known = unusual(tree), config.model_type in {*FAMILIES, *TESTED}
    if known and not switches:
        return
    if why := NO_GRAPH.get(config.model_type):
        raise ExportError(f"`{config.model_type}` cannot be exported: {why}", _OTHERWISE)
    from maskpack.exporters.graph.miniature import find_problem  # noqa: PLC0415 - imports the tracer

    problem = find_problem(tree)
    if problem is not None:
        odd = ", ".join(f"`{name}` {value}" for name, value in switches.items())
        settings = f"; its unusual settings: {odd}" if switches else ""
        raise ExportError(
            f"`{model}` cannot be exported: {problem}{settings}",
            _OTHERWISE,
        )


def unusual(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a configuration that may change its graph: neither sizes nor as in the configuration's class.

    >>> unusual({"model_type": "bert", "hidden_size": 8, "hidden_act": "relu", "layer_norm_eps": 0.5})
    {'hidden_act': 'relu'}
    """
    default = CONFIG_MAPPING[config["model_type"]]()
    usual = default.to_dict() | settings_of(default)
    return {
        name: value
        for name, value in config.items()
        if name not in _NO_SWITCH
        and not name.endswith("_token_id")
        and not isinstance(value, float)
        and value != usual.get(name)
        and not (name == _KINDS and set(value or ()) <= set(usual.get(name) or ()))
    }
