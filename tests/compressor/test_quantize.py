from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from maskpack.compressor.config import FitConfig
from maskpack.compressor.quantization.quantize import quantize_model, scheme_of
from maskpack.formats import ModelError, Scheme
from maskpack.models.load import load_pretrained

SCHEME = Scheme(8, None, "minmax", 8)
LINEAR = {
    "bert": {"pooler.dense.weight", "encoder.layer.0.attention.self.query.weight"},
    "roberta": {"encoder.layer.1.output.dense.weight"},
    "electra": {"embeddings_project.weight", "encoder.layer.0.intermediate.dense.weight"},
    "albert": {
        "encoder.embedding_hidden_mapping_in.weight",
        "encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight",
        "pooler.weight",
    },
    "distilbert": {
        "transformer.layer.0.attention.q_lin.weight",
        "transformer.layer.1.ffn.lin2.weight",
    },
}
TABLES = {
    "bert": {"word", "position", "token_type"},
    "roberta": {"word", "position", "token_type"},
    "electra": {"word", "position", "token_type"},
    "albert": {"word", "position", "token_type"},
    "distilbert": {"word", "position"},
}
LINEARS = {"bert": 13, "roberta": 12, "electra": 13, "albert": 8, "distilbert": 12}


@pytest.fixture(params=list(LINEAR))
def kind(request):
    return request.param


@pytest.fixture
def base(kind, tiny_models):
    return load_pretrained(str(tiny_models[kind])).model


def test_linears_become_codes_embeddings_tables_and_the_rest_float16(kind, base):
    backbone = quantize_model(base, Scheme(4, 16, "mse", 8))
    parameters = dict(base.named_parameters())
    assert len(backbone.linears) == LINEARS[kind]
    assert set(backbone.linears) >= LINEAR[kind]
    assert set(backbone.embeddings) == {
        f"embeddings.{table}_embeddings.weight" for table in TABLES[kind]
    }
    assert {*backbone.linears, *backbone.embeddings, *backbone.dense} == set(parameters)
    assert all(name.endswith(".bias") or "norm" in name.lower() for name in backbone.dense)
    assert {(tensor.bits, tensor.group) for tensor in backbone.linears.values()} == {(4, 16)}
    assert {tensor.bits for tensor in backbone.embeddings.values()} == {8}
    assert backbone.maskable == sum(parameters[name].numel() for name in backbone.linears)


def test_no_weight_moves_further_than_half_a_step_and_the_model_stays_as_it_was(base):
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    backbone = quantize_model(base, SCHEME)
    for name, parameter in base.named_parameters():
        assert torch.equal(parameter, before[name])
        weight = parameter.detach().numpy()
        if name in backbone.dense:
            assert np.allclose(backbone.dense[name], weight, rtol=1e-3, atol=1e-6)
        else:
            tensor = {**backbone.linears, **backbone.embeddings}[name]
            error = np.abs(tensor.dequantize() - weight)
            assert (error <= tensor.expanded_scales() * 0.5001 + 1e-7).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight"])
def test_a_value_that_is_not_finite_is_refused_by_name(name, value):
    model = nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 4))
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[1] = value
    with pytest.raises(ModelError, match=f"`{name}` of the source model .* not finite"):
        quantize_model(model, SCHEME)


def test_a_bias_too_large_for_float16_is_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        model[0].bias[2] = 1e5
    with pytest.raises(ModelError, match=r"`0\.bias` holds 1e\+05, too large for float16"):
        quantize_model(model, SCHEME)


def test_what_is_neither_a_linear_nor_a_table_stays_float16():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.table = nn.Parameter(torch.arange(6.0).view(1, 2, 3))

    backbone = quantize_model(Odd(), SCHEME)
    assert set(backbone.linears) == {"linear.weight"}
    assert set(backbone.dense) == {"linear.bias", "table"}
    assert backbone.dense["table"].dtype == np.float16
    assert backbone.dense["table"].tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("options", "scheme"),
    [
        ({}, Scheme(8, None, "minmax", 8)),
        ({"bits": 4}, Scheme(4, 64, "mse", 8)),
        ({"bits": 4, "group": 32, "quantizer": "minmax"}, Scheme(4, 32, "minmax", 8)),
        ({"bits": 8, "group": 128, "quantizer": "mse"}, Scheme(8, 128, "mse", 8)),
    ],
)
def test_automatic_choices_are_resolved_by_the_width_of_a_code(options, scheme):
    assert scheme_of(FitConfig(**options)) == scheme


def test_the_scheme_decides_method_width_and_group():
    weight = torch.from_numpy(np.random.default_rng(0).standard_t(2, (8, 32)).astype("f4"))
    model = nn.Sequential(nn.Linear(32, 8))
    with torch.no_grad():
        model[0].weight.copy_(weight)
    codes = {
        quantize_model(model, scheme).linears["0.weight"].codes.tobytes()
        for scheme in (
            SCHEME,
            Scheme(4, None, "minmax", 8),
            Scheme(4, 16, "minmax", 8),
            Scheme(4, None, "mse", 8),
        )
    }
    assert len(codes) == 4
