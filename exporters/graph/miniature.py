"""The graph of a miniature of a model, with random weights: what fails there fails for every task of the model.

The miniature has the configuration of the model, two layers and few tokens, so that no weights are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from maskpack.exporters.arithmetic import find_arithmetic
from maskpack.exporters.graph.builder import module_of, serialize
from maskpack.exporters.graph.external_masks import FoldedMasks
from maskpack.exporters.graph.masked import masked_graph
from maskpack.exporters.graph.passes import RewriteContext
from maskpack.exporters.session import make_session, ort_predict
from maskpack.formats import Backbone, ModelError, QuantTensor
from maskpack.models.build import base_of, build_classifier, fresh_classifier
from maskpack.models.failures import failure, first_line
from maskpack.models.families import family_of
from maskpack.models.inputs import inputs_of
from maskpack.models.linears import linearize
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import described
from maskpack.tasks.types import TASK_TYPES

_LAYERS = ("num_hidden_layers", "n_layers", "n_layer")
_WIDTHS = ("intermediate_size", "hidden_dim", "n_inner", "d_inner")
_FEW = 64  # tokens, and values inside a layer's two linears
_SHAPES = ((1, 1, False), (2, 9, True))  # batch, sequence, padded
_LARGEST = 1e-3  # difference of a logit; float32 on both sides


def miniature_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of the same architecture with two layers and few tokens.

    >>> miniature_of({"model_type": "bert", "num_hidden_layers": 12, "vocab_size": 30522, "pad_token_id": 0})
    {'model_type': 'bert', 'num_hidden_layers': 2, 'vocab_size': 64, 'pad_token_id': 0}
    """
    small = dict(config)
    for name in (*_LAYERS, "num_hidden_groups"):
        if name in small:
            small[name] = min(small[name], 2)
    for name in (*_WIDTHS, "vocab_size"):
        if small.get(name):
            small[name] = min(small[name], _FEW)
    for name, value in config.items():
        if name.endswith("_token_id") and isinstance(value, int) and value >= _FEW:
            small[name] = value % _FEW
    if small.get("pad_token_id") is None:
        small["pad_token_id"] = 0  # as `settle_padding` sees to it for a whole model
    if kinds := small.get("layer_types"):
        other = next((kind for kind in kinds if kind != kinds[0]), kinds[0])
        small["layer_types"] = [kinds[0], other][: len(kinds)]
    if heads := small.get("pruned_heads"):
        small["pruned_heads"] = {layer: each for layer, each in heads.items() if int(layer) < 2}
    return small


def find_problem(config: Mapping[str, Any]) -> str | None:
    """What goes wrong with the graph of a configuration; None if it is what torch computes.

    Raises:
        ModelError: transformers cannot follow the configuration.
    """
    try:
        small = miniature_of(config)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # a value of another type
        raise failure(error, "config.json") from error
    return _problem(json.dumps(small, sort_keys=True))


@cache
def _problem(config: str) -> str | None:
    family = family_of(json.loads(config)["model_type"])
    auto_class = inputs_of(family).auto_class
    kind = next(one for one in TASK_TYPES.values() if one.auto_class == auto_class)
    described_by = described(config.encode(), kind, ("a", "b"))
    backbone = random_backbone(described_by)
    try:
        model = build_classifier(backbone, described_by, seed=0, attention="eager").eval()
        nothing = {
            module_of(family.base, name): np.zeros(tensor.codes.size, dtype=np.bool_)
            for name, tensor in backbone.linears.items()
        }
        context = RewriteContext(FoldedMasks(nothing))
        graph = masked_graph(model, family, backbone, find_arithmetic("fp32"), context)
        found = ort_predict(make_session(serialize(graph)))
        # as it is learned and evaluated: fused attention may leave out what a setting asks for
        wanted = torch_predict(build_classifier(backbone, described_by, seed=0).eval())
        reading, settings = inputs_of(family), described_by.to_dict()
        for shape in reading.shapes(family, settings, _SHAPES):
            feeds = reading.random(family, settings, shape)
            difference = float(np.abs(found(feeds) - wanted(feeds)).max())
            if not difference <= _LARGEST:
                return f"logits of its graph differ from torch's by {difference:.3g}"
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - torch itself may fail on an input, in any way
        return first_line(error)
    return None


def random_backbone(config: Any) -> Backbone:
    """8-bit weights that keep the size of what goes through them."""
    model = linearize(fresh_classifier(config).float())
    base, rng = base_of(model), np.random.default_rng(0)
    linears: dict[str, QuantTensor] = {}
    embeddings: dict[str, QuantTensor] = {}
    kinds = {f"{name}.weight": module for name, module in base.named_modules()}
    dense = {}
    for name, parameter in base.named_parameters():
        module = kinds.get(name)
        if isinstance(module, nn.Linear | nn.Embedding):
            inward = module.in_features if isinstance(module, nn.Linear) else 1
            held = linears if isinstance(module, nn.Linear) else embeddings
            codes = rng.integers(-127, 128, tuple(parameter.shape), dtype=np.int8)
            scales = np.full((codes.shape[0], 1), inward**-0.5 / 73, dtype=np.float32)
            held[name] = QuantTensor(codes, scales, 8, codes.shape[1])
        else:
            noise = torch.from_numpy(rng.normal(0, 0.1, tuple(parameter.shape)))
            dense[name] = (parameter.detach() + noise).numpy().astype(np.float16)
    return Backbone(linears, embeddings, dense)
