"""Quantising one layer at a time gives what quantising in the whole float32 model gives."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel

from maskpack.compressor.quantization import quantize_gptq
from maskpack.compressor.quantization.calibration import (
    _BATCH,
    _TOKENS,
    Calibration,
    Calibrator,
    blocks_of,
)
from maskpack.compressor.quantization.quantize import quantize_model
from maskpack.formats import Scheme
from maskpack.formats.codec import encode_backbone
from maskpack.models.families import family_of
from maskpack.models.linears import layer_of
from maskpack.models.load import load_pretrained
from maskpack.models.placement import to_tensors
from maskpack.tasks.batches import evaluation_batches
from maskpack.tasks.context import ModelContext

TEXTS = ["the film was good", "bad", "we found the food very sad and this story quite nice", "it"]
KINDS = ("bert", "electra", "albert", "deberta-v2", "deberta-v2-own", "modernbert", "xlnet", "gpt2")
SCHEME = Scheme(4, 16, "gptq", 8)


@pytest.fixture(scope="module")
def stored(family_models, tmp_path_factory):
    """`stored(kind, dtype)`: a model that is stored in a half type."""

    def make(kind, dtype):
        folder = tmp_path_factory.mktemp("stored") / kind
        shutil.copytree(family_models(kind), folder)
        AutoModel.from_pretrained(folder).to(dtype).save_pretrained(folder)
        return load_pretrained(str(folder))

    return make


def calibration_of(pretrained) -> Calibration:
    return Calibration.of(ModelContext.of_pretrained(pretrained).preprocessor(), TEXTS * 9)


def whole_model(base, embeddings, calibration):
    """Codes of GPTQ from passes through a whole float32 model whose earlier blocks are quantised."""
    model = copy.deepcopy(base).float().eval()
    parameters, encoded = dict(model.named_parameters()), calibration.first(_TOKENS)
    time_first = family_of(base.config.model_type).time_first

    def settle(tensors):
        with torch.no_grad():
            for name, tensor in tensors.items():
                parameters[name].copy_(torch.from_numpy(tensor.dequantize()))

    settle(embeddings)
    names = [f"{n}.weight" for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    weights = {name: parameters[name].detach().clone().numpy() for name in names}
    done = {}
    for block in blocks_of(names):
        grams = whole_grams(model, block, encoded, time_first=time_first)
        own = {n: quantize_gptq(weights[n], 4, 16, g.numpy()) for n, g in grams.items()}
        settle(own)
        done.update(own)
    return done


@torch.no_grad()
def whole_grams(model, names, encoded, *, time_first):
    grams, here = {}, []

    def note(name, inputs):
        seen = inputs[0]
        rows = seen[here[-1]] if seen.shape[:2] == here[-1].shape else seen.flatten(0, -2)
        grams[name] = grams[name].addmm_(rows.T, rows) if name in grams else rows.T @ rows

    hooks = [
        model.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
            lambda _, inputs, name=name: note(name, inputs)
        )
        for name in names
    ]
    for rows in evaluation_batches(encoded.lengths, batch_size=_BATCH):
        feeds = to_tensors(encoded.feeds(rows), model)
        mask = feeds["attention_mask"].bool()
        here.append(mask.T if time_first else mask)
        model(**feeds)
    for hook in hooks:
        hook.remove()
    return grams


@pytest.mark.parametrize("kind", [*KINDS, "llama"])
def test_every_family_gets_the_codes_of_the_whole_float32_model(kind, stored):
    pretrained = stored(kind, torch.bfloat16)
    types = {parameter.dtype for parameter in pretrained.model.parameters()}
    assert (
        torch.bfloat16 in types
    )  # transformers makes some of XLNet's float32, whatever it is asked for
    calibration = calibration_of(pretrained)
    backbone = quantize_model(pretrained.model, SCHEME, calibration)
    wanted = whole_model(pretrained.model, backbone.embeddings, calibration)
    assert wanted.keys() == backbone.linears.keys()
    for name, tensor in wanted.items():
        assert np.array_equal(tensor.codes, backbone.linears[name].codes), name
        assert np.array_equal(tensor.scales, backbone.linears[name].scales), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", [Scheme(4, 16, "mse", 8), Scheme(8, None, "minmax", 4), SCHEME])
def test_a_stored_half_type_gives_the_bytes_of_its_float32_values(dtype, scheme, stored):
    pretrained = stored("llama", dtype)
    plain = copy.deepcopy(pretrained.model).float()
    calibration = calibration_of(pretrained)
    found, wanted = (
        encode_backbone(quantize_model(base, scheme, calibration))
        for base in (pretrained.model, plain)
    )
    assert found == wanted


def test_only_the_layer_that_computes_has_float32_weights(stored):
    pretrained = stored("llama", torch.bfloat16)
    calibration, seen = calibration_of(pretrained), []
    names = [n for n, p in pretrained.model.named_parameters() if p.ndim == 2 and "proj" in n]
    calibrator = Calibrator(pretrained.model, calibration)
    model = calibrator._encoder.model
    for number, layer in enumerate(model.layers):

        def look(*_, number=number):
            wide = {n for n, p in model.named_parameters() if p.dtype == torch.float32}
            seen.append((number, {layer_of(name) for name in wide}))

        layer.self_attn.register_forward_pre_hook(look)
    for grams in calibrator.blocks(names):
        assert grams
    assert {number for number, _ in seen} == {0, 1}
    assert all(layers == {None, number} for number, layers in seen)
    assert {p.dtype for n, p in model.named_parameters() if layer_of(n) is not None} == {
        torch.bfloat16
    }
