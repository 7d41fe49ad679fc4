"""Charts as geometry: everything lies on the canvas, ticks are round, nothing is divided by zero."""

from __future__ import annotations

import math

import pytest

from maskpack.report.charts import Level, Line, Value, chart, ticks_between


def line(*points, **more):
    return Line("a", tuple(Value(x, y) for x, y in points), **more)


@pytest.mark.parametrize(
    "points",
    [
        [(1, 1)],
        [(0, 0)],
        [(5, 0.7), (5, 0.7)],
        [(1, -3), (2, 4), (3, 1)],
        [(1e-9, 1e9), (2e-9, 2e9)],
        [(0, 0.5), (1000, 0.5)],
    ],
)
@pytest.mark.parametrize("scale", ["linear", "bytes"])
def test_everything_lies_on_the_canvas(points, scale):
    found = chart("t", [line(*points)], x_label="x", scale=scale)
    for value in found.lines[0].values:
        assert found.x.start <= found.x(value.x) <= found.x.end
        assert found.y.end <= found.y(value.y) <= found.y.start
    for at, _ in found.x.ticks:
        assert found.x.start - 0.1 <= found.x(at) <= found.x.end + 0.1
    for at, _ in found.y.ticks:
        assert found.y.end - 0.1 <= found.y(at) <= found.y.start + 0.1
    assert found.y.ticks
    places = [axis(at) for axis in (found.x, found.y) for at, _ in axis.ticks]
    assert all(map(math.isfinite, places))


def test_higher_is_further_up_and_later_further_right():
    found = chart("t", [line((1, 1), (2, 3))], x_label="x")
    assert found.y(3) < found.y(1)
    assert found.x(2) > found.x(1)
    way = f"M{found.x(1):g} {found.y(1):g}L{found.x(2):g} {found.y(3):g}"
    assert found.path(found.lines[0]) == way
    assert found.path(line((2, 3), (1, 1))) == way  # from left to right
    assert not found.path(line((1, 1)))
    assert not found.path(line((1, 1), (2, 3), joined=False))


def test_widths_stand_at_even_distances_and_series_beside_them():
    found = chart("t", [line((7.4, 1), (8.6, 1), (4, 1), (2, 1))], x_label="bits", scale="bits")
    assert [text for _, text in found.x.ticks] == ["2", "4", "8"]
    two, four, eight = (found.x(at) for at, _ in found.x.ticks)
    assert eight - four == pytest.approx(four - two, abs=0.2)


def test_bytes_are_marked_at_powers_of_ten_with_their_unit():
    found = chart("t", [line((5_000, 1), (45_000_000, 2))], x_label="x", scale="bytes")
    assert [text for _, text in found.x.ticks] == [
        "1 KB",
        "10 KB",
        "100 KB",
        "1 MB",
        "10 MB",
        "100 MB",
    ][::2]
    small = chart("t", [line((0, 1), (900, 2))], x_label="x", scale="bytes")
    assert [text for _, text in small.x.ticks] == ["1 B", "10 B", "100 B", "1 KB"]
    assert small.x(0) == small.x(1) == small.x.start


def test_a_level_far_below_is_only_named_and_one_nearby_is_shown():
    levels = [Level("far", 0.1, dashed=True), Level("near", 0.85, 0.01)]
    found = chart("t", [line((1, 0.86), (2, 0.88))], x_label="x", levels=levels)
    assert [level.name for level in found.levels] == ["near"]
    assert [level.name for level in found.below] == ["far"]
    assert found.y(0.84) > found.y(0.86)


def test_no_point_is_no_chart():
    assert chart("t", [line()], x_label="x") is None


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.81, 0.83), (-3, 1e6), (1e-7, 2e-7), (5, 6)])
def test_ticks_are_few_and_between(low, high):
    ticks = ticks_between(low, high)
    assert 2 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


@pytest.mark.parametrize("scale", [1.0, 3e4, 2e5, 7e6, 1e9, 1e15])
def test_what_is_written_at_a_tick_has_room_beside_the_axis(scale):
    found = chart("t", [line((0, -scale), (scale, scale))], x_label="x")
    texts = [text for _, text in found.y.ticks]
    assert all(len(text) <= 7 for text in texts)  # some 40 units at this size of type
    assert len(set(texts)) == len(texts)


def test_ticks_close_together_have_different_words():
    found = chart("t", [line((1, 2019.2), (2, 2020.9))], x_label="x")
    assert len({text for _, text in found.y.ticks}) == len(found.y.ticks) > 2


def test_colours_repeat_with_other_shapes():
    lines = [Line("x", (), slot=slot) for slot in range(21)]
    assert len({(each.colour, each.shape) for each in lines}) == 21
    assert 0 not in {each.colour for each in lines}  # grey is the reference's
