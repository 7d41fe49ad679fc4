"""Which rows of a table are wide: as few as give the error of three bits on text that the order has not seen."""

from __future__ import annotations

import numpy as np
import pytest

from maskpack.compressor.backbone_config import BackboneConfig
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.compressor.quantization.quantize import scheme_of
from maskpack.compressor.quantization.rare_rows import (
    frequent_rows,
    quantize_rows,
    token_counts,
)
from maskpack.compressor.quantization.rounding import quantize_mse
from maskpack.formats import ConfigError, check_artifact
from maskpack.formats.mixed_rows import MixedRows
from maskpack.models.load import load_pretrained
from maskpack.tasks.context import ModelContext

ROWS = 200


@pytest.fixture(scope="module")
def weight():
    return np.random.default_rng(0).normal(0, 1, (ROWS, 32)).astype("f4")


def zipf(order):
    """Counts of two halves of a text in which the tokens of an order have the ranks 1, 2, ..."""
    counts = np.zeros((2, ROWS), dtype=np.int64)
    counts[:, order] = (100_000 / np.arange(1, ROWS + 1)).astype(np.int64)
    return counts


def error(weight, table, counts, sif=1e-3):
    """Expected error by hand: each row's squared error, weighted as the module says."""
    both = counts.sum(axis=0)
    weights = both * sif / (sif + both / both.sum())
    return float(weights @ np.square(weight - table.dequantize()).sum(axis=1))


def test_the_error_is_that_of_three_bits_with_as_few_wide_rows_as_can_be(weight):
    order = np.random.default_rng(1).permutation(ROWS)
    counts = zipf(order)
    chosen = frequent_rows(weight, counts, [])
    assert set(np.flatnonzero(chosen)) == set(order[: chosen.sum()]), "the most frequent ones"
    target = error(weight, quantize_mse(weight, 3, None), counts)
    table = quantize_rows(weight, chosen, 4, lambda one: one)
    assert isinstance(table, MixedRows)
    assert error(weight, table, counts) <= target
    fewer = chosen.copy()
    fewer[order[chosen.sum() - 1]] = False
    assert error(weight, quantize_rows(weight, fewer, 4, lambda one: one), counts) > target


def test_halves_that_differ_need_more_rows(weight):
    """A text that says nothing of the other half gives an order that is of no use there."""
    alike = zipf(np.arange(ROWS))
    unlike = alike.copy()
    unlike[1] = alike[1][::-1]
    assert frequent_rows(weight, unlike, []).sum() > frequent_rows(weight, alike, []).sum()


def test_tokens_that_no_text_says_go_by_their_number_and_special_ones_are_wide(weight):
    counts = np.zeros((2, ROWS), dtype=np.int64)
    counts[0, [150, 160]] = counts[1, [170, 180]] = 5
    chosen = frequent_rows(weight, counts, [199, 7_000])
    assert chosen[199]
    rest = np.flatnonzero(chosen[:150])
    assert len(rest) > 100
    np.testing.assert_array_equal(rest, np.arange(len(rest)))


def test_a_text_without_tokens_makes_no_difference(weight):
    chosen = frequent_rows(weight, np.zeros((2, ROWS), dtype=np.int64), [3])
    assert set(np.flatnonzero(chosen)) == {0, 3}, "the first row of the order, and a special one"


def test_rows_of_one_kind_are_a_table_of_one_width(weight):
    for value, bits in ((True, 4), (False, 2)):
        table = quantize_rows(weight, np.full(ROWS, value), 4, lambda one: one)
        assert type(table) is not MixedRows
        assert table.bits == bits


def test_rows_whose_scales_float16_cannot_hold_are_float32(weight):
    large = weight.copy()
    large[0] *= 1e7
    chosen = np.arange(ROWS) < 5
    table = quantize_rows(large, chosen, 4, lambda one: one)
    assert table.scales.dtype == np.float32
    assert np.isfinite(table.dequantize()).all()


def test_tokens_are_counted_in_the_halves_of_a_text(tiny_model):
    pretrained = load_pretrained(str(tiny_model))
    preprocessor = ModelContext.of_pretrained(pretrained).preprocessor()
    ids = pretrained.tokenizer.convert_tokens_to_ids
    rows = len(pretrained.tokenizer)
    counts = token_counts(preprocessor, ["film film", "the film", "the", "food"], rows)
    assert counts[:, ids("film")].tolist() == [3, 0]
    assert counts[:, ids("the")].tolist() == [1, 1]
    assert counts[:, ids("food")].tolist() == [0, 1]
    assert counts[:, ids("[CLS]")].tolist() == [2, 2]
    assert counts[:, ids("[PAD]")].tolist() == [0, 0], "padding is no token of a text"
    assert token_counts(preprocessor, ["film"], rows)[0].sum() == 0


def test_an_artifact_of_it(tiny_model, tmp_path):
    config = BackboneConfig(bits=4, group=16, embedding_bits="auto")
    assert scheme_of(config).embedding_bits == 4
    artifact = make_backbone(str(tiny_model), tmp_path / "artifact", config)
    assert artifact.manifest.requires == ("embedding-rows",)
    assert check_artifact(artifact.path) == []
    again = make_backbone(str(tiny_model), tmp_path / "again", config)
    assert again.manifest.backbone_sha256 == artifact.manifest.backbone_sha256


def test_a_word_that_is_none_is_refused():
    with pytest.raises(
        ConfigError, match="`embedding_bits` is 'automatic', expected a whole number"
    ):
        BackboneConfig(embedding_bits="automatic")
    with pytest.raises(ConfigError, match="`embedding_bits` is 5, expected 8, 4, 3, 2 or auto"):
        BackboneConfig(embedding_bits=5)
