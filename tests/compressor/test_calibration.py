from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from maskpack.compressor.quantization import quantize_gptq, quantize_minmax
from maskpack.compressor.quantization.calibration import (
    Calibration,
    Calibrator,
    blocks_of,
    calibration_texts,
)
from maskpack.compressor.quantization.quantize import bits_of, quantize_model, scheme_of
from maskpack.formats import ConfigError, DataError, Scheme
from maskpack.models.load import load_pretrained
from maskpack.tasks.batches import Encoded
from maskpack.tasks.context import ModelContext

TEXTS = ["the film was good", "bad", "we found the food very sad and this story quite nice", "it"]


@pytest.fixture(scope="module")
def pretrained(tiny_model):
    return load_pretrained(str(tiny_model))


def calibration_of(pretrained, texts, **options) -> Calibration:
    return Calibration.of(ModelContext.of_pretrained(pretrained).preprocessor(), texts, **options)


@pytest.fixture(scope="module")
def calibration(pretrained):
    return calibration_of(pretrained, TEXTS * 3)


def inputs_by_hand(base, encoded: Encoded, name: str) -> np.ndarray:
    """What a linear sees of each text, run alone and so without padding."""
    seen: list[torch.Tensor] = []
    module = base.get_submodule(name.removesuffix(".weight"))
    hook = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    with torch.no_grad():
        for row in encoded.ids:
            ids = torch.from_numpy(row)[None]
            base(input_ids=ids, attention_mask=torch.ones_like(ids))
    hook.remove()
    return torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in seen]).double().numpy()


def linears_of(base) -> dict[str, np.ndarray]:
    return {
        f"{name}.weight": module.weight.detach().numpy()
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def test_gram_matrices_are_those_of_the_inputs_without_their_padding(pretrained, calibration):
    base = pretrained.model.eval()
    names = linears_of(base)
    assert len(set(calibration.encoded.lengths.tolist())) > 2
    found = {}
    for grams in Calibrator(base, calibration).blocks(names):
        found.update(grams)
    assert set(found) == set(names)
    for name, gram in found.items():
        rows = inputs_by_hand(base, calibration.encoded, name)
        expected = rows.T @ rows
        assert np.abs(gram - expected).max() < 1e-4 * np.abs(expected).max()


def test_later_blocks_see_the_quantised_ones_before_and_the_model_stays(pretrained, calibration):
    base = pretrained.model.eval()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    linears, calibrator = linears_of(base), Calibrator(base, calibration)
    twin, seen = copy.deepcopy(base), 0
    for grams in calibrator.blocks(linears):
        for name, gram in grams.items():
            rows = inputs_by_hand(twin, calibration.encoded, name)
            expected = rows.T @ rows
            assert np.abs(gram - expected).max() < 1e-4 * np.abs(expected).max()
            plain = inputs_by_hand(base, calibration.encoded, name)
            seen += int(np.abs(gram - plain.T @ plain).max() > 1e-3 * np.abs(expected).max())
        block = {name: quantize_minmax(linears[name], 2, 16) for name in grams}
        calibrator.settle(block)
        with torch.no_grad():
            for name, tensor in block.items():
                dict(twin.named_parameters())[name].copy_(torch.from_numpy(tensor.dequantize()))
    assert seen == 7  # the second layer and the pooler
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


@pytest.mark.parametrize("kind", ["bert", "electra", "distilbert", "roberta", "albert"])
def test_every_family_is_quantised_against_text_always_the_same_way(kind, tiny_models):
    pretrained = load_pretrained(str(tiny_models[kind]))
    calibration = calibration_of(pretrained, TEXTS)
    assert (calibration.encoded.types is not None) == (kind in {"bert", "electra", "albert"})
    scheme = Scheme(2, 16, "gptq", 4)
    first, again = (quantize_model(pretrained.model, scheme, calibration) for _ in range(2))
    plain = quantize_model(pretrained.model, Scheme(2, 16, "mse", 4))
    assert list(first.linears) == list(plain.linears)
    for name, tensor in first.linears.items():
        assert (tensor.bits, tensor.zero_free) == (2, True)
        assert tensor.codes.tobytes() == again.linears[name].codes.tobytes()
        assert tensor.codes.tobytes() != plain.linears[name].codes.tobytes()
    widths = [tensor.bits for name, tensor in first.embeddings.items() if "word" in name]
    others = {tensor.bits for name, tensor in first.embeddings.items() if "word" not in name}
    assert (widths, others) == ([4], {8})


def test_a_model_is_quantised_block_by_block_against_the_quantised_blocks_before(
    pretrained, calibration
):
    base = pretrained.model.eval()
    linears = linears_of(base)
    backbone = quantize_model(base, Scheme(2, 16, "gptq", 8), calibration)
    calibrator, naive = Calibrator(base, calibration), Calibrator(base, calibration)
    for each in (calibrator, naive):
        each.settle(backbone.embeddings)  # they stand before every block
    changed = []
    for grams, plain in zip(calibrator.blocks(linears), naive.blocks(linears), strict=True):
        block = {name: quantize_gptq(linears[name], 2, 16, gram) for name, gram in grams.items()}
        calibrator.settle(block)
        for name, tensor in block.items():
            assert np.array_equal(backbone.linears[name].codes, tensor.codes)
            alone = quantize_gptq(linears[name], 2, 16, plain[name]).codes
            changed.append(not np.array_equal(alone, tensor.codes))
    assert changed == [False] * 6 + [True] * 7


def test_a_projection_before_all_layers_is_a_block_of_its_own_before_them(tiny_models):
    names = linears_of(load_pretrained(str(tiny_models["electra"])).model)
    blocks = blocks_of(names)
    assert blocks[0] == ["embeddings_project.weight"]
    assert [len(block) for block in blocks] == [1, 6, 6]


def test_a_budget_of_tokens_is_spent_evenly_over_the_texts(pretrained):
    texts = ["good"] * 20_000 + ["bad"] * 20_000
    calibration = calibration_of(pretrained, texts)
    assert len(calibration.encoded) == 20_000
    encoded = calibration.first(3001)
    assert 3001 <= encoded.lengths.sum() < 3001 + 3
    good = pretrained.tokenizer("good")["input_ids"][1]
    assert np.mean([row[1] == good for row in encoded.ids]) == pytest.approx(0.5, abs=0.05)
    assert len(encoded.types) == len(encoded.labels) == len(encoded)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_third_of_the_rows_are_pairs_of_neighbours_if_asked_for(kind, tiny_models):
    pretrained = load_pretrained(str(tiny_models[kind]))
    tokenizer = pretrained.tokenizer
    texts = [" ".join(["good"] * count) for count in range(1, 31)]
    calibration = calibration_of(pretrained, texts, pairs=True)
    one = len(tokenizer("good")["input_ids"]) - 1
    two = len(tokenizer("good", "good")["input_ids"]) - 2
    lengths = sorted(int(length) for length in calibration.encoded.lengths[20:])
    neighbours = {two + count + (count + 1 if count < 30 else 1) for count in range(1, 31)}
    assert len(calibration.encoded) == 30
    assert set(lengths) <= neighbours
    assert set(calibration.encoded.lengths[:20]) <= {one + count for count in range(1, 31)}
    if kind == "bert":
        second = [int(row.max()) for row in calibration.encoded.types]
        assert second == [0] * 20 + [1] * 10
    else:
        assert calibration.encoded.types is None


def test_texts_come_from_a_file_line_by_line_or_from_the_samples(write):
    assert calibration_texts(write("t.txt", "one\n\n  two \n")) == ("one", "two")
    assert len(calibration_texts(None)) > 500


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the calibration text"),
        (b"\n \n", "the calibration text"),
        (b"\xff\xfe\n", "line 1 of"),
    ],
)
def test_a_file_without_text_is_refused_by_name(write, content, words):
    with pytest.raises(DataError, match=rf"{words} `.*t\.txt`"):
        calibration_texts(write("t.txt", content))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        calibration_texts(tmp_path / "nowhere.txt")


NAMES = ("encoder.layer.0.a.weight", "encoder.layer.1.a.weight", "pooler.dense.weight")


def scheme_with(overrides) -> Scheme:
    return Scheme(2, 64, "mse", 8, overrides)


def test_the_last_pattern_that_matches_decides():
    overrides = {"*": 4, "encoder.layer.1.*": 1, "*.a.*": 8, "encoder.layer.0.*": 2}
    assert list(bits_of(dict.fromkeys(NAMES), scheme_with(overrides)).values()) == [2, 8, 4]
    assert set(bits_of(dict.fromkeys(NAMES), scheme_with({})).values()) == {2}


@pytest.mark.parametrize("pattern", ["encoder.layer.7.*", "pooler", ""])
def test_a_pattern_that_matches_nothing_is_refused_with_an_example(pattern):
    with pytest.raises(ConfigError, match="names no linear") as caught:
        bits_of(dict.fromkeys(NAMES), scheme_with({"*": 4, pattern: 8}))
    assert "encoder.layer.0.a.weight" in caught.value.hint


@pytest.mark.parametrize("quantizer", ["minmax", "mse", "gptq"])
def test_each_layer_gets_the_bits_it_is_given(quantizer, pretrained, calibration, quick):
    config = quick(
        bits=2, quantizer=quantizer, bits_override={"encoder.layer.1.*": 4, "pooler.*": 8}
    )
    backbone = quantize_model(pretrained.model, scheme_of(config), calibration)
    bits = {name: tensor.bits for name, tensor in backbone.linears.items()}
    assert {bits[name] for name in bits if ".layer.0." in name} == {2}
    assert {bits[name] for name in bits if ".layer.1." in name} == {4}
    assert bits["pooler.dense.weight"] == 8
