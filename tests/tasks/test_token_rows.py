"""Flat arrays of tokens act as tuples of arrays do; batches and held-out rows are those of the plain ways to make them."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskpack.formats import waiting
from maskpack.tasks.batches import EncodedTokens, joined, training_batches
from maskpack.tasks.data.held_out import SEED, SHARE, held_out_places
from maskpack.tasks.token_rows import TokenRows, chained

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=12)


def lists(rows: TokenRows) -> list[list[int]]:
    return [row.tolist() for row in rows]


@settings(max_examples=60, deadline=None)
@given(several=st.lists(ROWS, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_they_are_taken_chained_cut_and_searched_as_lists_are(several, seed):
    plain = [row for rows in several for row in rows]
    rows = chained([TokenRows.of(each) for each in several])
    assert lists(rows) == plain
    assert rows.lengths.tolist() == [len(row) for row in plain]
    chosen = np.random.default_rng(seed).integers(0, len(plain), 7)
    some, wanted = rows.take(chosen), [plain[place] for place in chosen]
    for one, other in (
        (rows, plain),
        (some, wanted),
        (rows[1:4], plain[1:4]),
        (rows[::-1], plain[::-1]),
    ):
        assert lists(one) == other
        assert one.flat().tolist() == [entry for row in other for entry in row]
        assert one.largest() == max((entry for row in other for entry in row), default=-1)
        for limit in (0, 5, 9, 10):
            above = (n for n, row in enumerate(other) if max(row, default=-1) >= limit)
            assert one.first_above(limit) == next(above, None)


def test_joined_rows_share_their_arrays():
    left, right = (
        EncodedTokens([[1, 2], [3]], [[0, 0], [1]], np.array([n, 1]), pad=0) for n in (0, 5)
    )
    both = joined([left, right.without_labels()])
    assert lists(both.ids) == [[1, 2], [3], [1, 2], [3]]
    assert both.ids.parts[1] is right.ids.parts[0]
    assert both.labelled.tolist() == [True, True, False, False]
    feeds = both.take(np.array([3, 0])).feeds(np.array([0, 1]))
    assert feeds["input_ids"].tolist() == [[3, 0], [1, 2]]
    assert feeds["input_ids"].dtype == np.int64
    assert feeds["token_type_ids"].tolist() == [[1, 0], [0, 0]]


def plain_batches(lengths, *, batch_size, seed, epoch):
    """Batches as a list of arrays."""
    rng = np.random.default_rng([seed, epoch])
    order, batches, window = rng.permutation(len(lengths)), [], 50 * batch_size
    for start in range(0, len(order), window):
        part = order[start : start + window]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return [batches[i].tolist() for i in rng.permutation(len(batches))]


@pytest.mark.parametrize("count", [1, 7, 399, 400, 401, 1603])
def test_batches_are_those_of_a_list_of_all_of_them(count):
    lengths = np.random.default_rng(3).integers(1, 40, count)
    for batch_size, epoch in ((8, 0), (8, 1), (3, 0)):
        made = training_batches(lengths, batch_size=batch_size, seed=4, epoch=epoch)
        plain = plain_batches(lengths, batch_size=batch_size, seed=4, epoch=epoch)
        assert [batch.tolist() for batch in made] == plain
        assert [batch.tolist() for batch in made[2:5]] == plain[2:5]
        assert made[-1].tolist() == plain[-1]


def plain_places(groups):
    """Held-out rows through lists of the rows of each group."""
    places = defaultdict(list)
    for index in np.random.default_rng(SEED).permutation(len(groups)):
        places[groups[index]].append(int(index))
    sizes = {group: len(places[group]) for group in sorted(places)}
    quota = {group: size // SHARE for group, size in sizes.items()}
    left = len(groups) // SHARE - sum(quota.values())
    for group in sorted(sizes, key=lambda one: -(sizes[one] % SHARE))[:left]:
        quota[group] += 1
    for group, size in sizes.items():
        quota[group] = min(max(quota[group], 1), size - 1)
    return sorted(index for group in sizes for index in places[group][: quota[group]])


@settings(max_examples=100, deadline=None)
@given(groups=st.lists(st.sampled_from(["", "a", "b", "c", "\u00e9", "B"]), max_size=200))
def test_held_out_rows_are_those_chosen_group_by_group(groups):
    assert held_out_places(groups).tolist() == plain_places(groups)


def test_long_work_says_how_far_it_is(caplog, monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 6.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        counted = waiting.Counted(logging.getLogger("maskpack.x"), "reading", 4000)
        for _ in range(4):
            counted.add(1000)
    assert caplog.messages == [
        "reading: 2,000 of 4,000, about 4 s left",
        "reading: 4,000 of 4,000, about 0 s left",
    ]
