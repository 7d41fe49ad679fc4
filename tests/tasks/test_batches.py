from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.models.load import load_tokenizer
from maskpack.tasks.batches import EncodedTokens, evaluation_batches, training_batches
from maskpack.tasks.data.splits import Split
from maskpack.tasks.texts import TextPreprocessor

relaxed = settings(deadline=None, max_examples=60)
lengths = st.lists(st.integers(1, 30), min_size=1, max_size=150).map(
    lambda drawn: np.array(drawn, dtype=np.int64)
)


@relaxed
@given(lengths, st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
def test_every_row_is_in_exactly_one_batch_of_an_epoch(lengths, batch_size, seed, epoch):
    batches = training_batches(lengths, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    sizes = sorted(len(rows) for rows in batches)
    assert set(sizes[1:]) <= {batch_size}
    assert 1 <= sizes[0] <= batch_size


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    sizes = np.random.default_rng(0).integers(1, 30, size=64)

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = training_batches(sizes, batch_size=4, seed=seed, epoch=epoch)
        return [rows.tolist() for rows in batches]

    np.random.seed(1)  # noqa: NPY002 - it must not matter
    first = order(0, 0)
    np.random.seed(2)  # noqa: NPY002
    assert order(0, 0) == first
    orders = [order(0, 0), order(1, 0), order(0, 1), order(1, 1)]
    assert len({str(batches) for batches in orders}) == 4


def test_rows_of_similar_length_share_a_batch_and_batches_are_shuffled():
    sizes = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 33), 4))
    batches = training_batches(sizes, batch_size=4, seed=0, epoch=0)
    assert all(len(set(sizes[rows])) == 1 for rows in batches)
    widths = [int(sizes[rows[0]]) for rows in batches]
    assert sorted(widths) == list(range(1, 33))
    assert widths != sorted(widths)


@relaxed
@given(lengths, st.integers(1, 7))
def test_evaluation_takes_every_row_once_from_short_to_long(lengths, batch_size):
    batches = list(evaluation_batches(lengths, batch_size=batch_size))
    order = np.concatenate(batches)
    assert sorted(order) == list(range(len(lengths)))
    assert (np.diff(lengths[order]) >= 0).all()
    assert all(len(rows) == batch_size for rows in batches[:-1])
    again = np.concatenate(list(evaluation_batches(lengths, batch_size=batch_size)))
    assert order.tolist() == again.tolist()


def rows_of(*rows: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(row, dtype=np.int64) for row in rows)


def test_a_batch_is_padded_to_its_longest_row_and_the_mask_covers_the_tokens():
    encoded = EncodedTokens(
        rows_of([5, 6, 7], [8], [9, 9], [1, 2, 3, 4]),
        rows_of([0, 0, 1], [0], [0, 1], [0, 0, 0, 1]),
        np.array([0, 1, 0, 1]),
        pad=3,
    )
    feeds = encoded.feeds(np.array([1, 0, 2]))
    assert feeds["input_ids"].tolist() == [[8, 3, 3], [5, 6, 7], [9, 9, 3]]
    assert feeds["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert {array.dtype.name for array in feeds.values()} == {"int64"}
    assert encoded.lengths.tolist() == [3, 1, 2, 4]


def test_a_model_without_token_types_is_not_fed_any():
    encoded = EncodedTokens(rows_of([5, 6], [8]), None, np.array([0, 1]), pad=0)
    assert set(encoded.feeds(np.array([0, 1]))) == {"input_ids", "attention_mask"}


@pytest.fixture
def tokenizer(tiny_model):
    return load_tokenizer(str(tiny_model))


def test_a_text_becomes_the_tokens_of_the_tokenizer_between_its_marks(tokenizer):
    split = Split((("the good film",), ("awful",)), np.array([1, 0]))
    encoded = TextPreprocessor(tokenizer, token_types=True).encode(split, max_length=16)
    words = [tokenizer.convert_ids_to_tokens(row.tolist()) for row in encoded.ids]
    assert words == [["[CLS]", "the", "good", "film", "[SEP]"], ["[CLS]", "awful", "[SEP]"]]
    assert [row.tolist() for row in encoded.types] == [[0] * 5, [0] * 3]
    assert encoded.labels is split.labels
    assert encoded.pad == tokenizer.pad_token_id
    assert len(encoded) == 2


def test_the_second_text_of_a_pair_is_of_the_second_type(tokenizer):
    split = Split((("good film", "we was"),), np.array([1]))
    encoded = TextPreprocessor(tokenizer, token_types=True).encode(split, max_length=16)
    words = tokenizer.convert_ids_to_tokens(encoded.ids[0].tolist())
    assert words == ["[CLS]", "good", "film", "[SEP]", "we", "was", "[SEP]"]
    assert encoded.types[0].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_a_long_text_is_cut_and_keeps_its_closing_mark(tokenizer):
    split = Split((("good " * 40,), ("bad",)), np.array([1, 0]))
    encoded = TextPreprocessor(tokenizer, token_types=False).encode(split, max_length=8)
    assert encoded.lengths.tolist() == [8, 3]
    assert encoded.ids[0][-1] == tokenizer.sep_token_id
    assert encoded.types is None
