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
    for mark in found.drawn[0].marks:
        assert found.left <= mark.x <= found.right
        assert found.top <= mark.y <= found.bottom
    for tick in found.x_ticks:
        assert found.left - 0.1 <= tick.at <= found.right + 0.1
    for tick in found.y_ticks:
        assert found.top - 0.1 <= tick.at <= found.bottom + 0.1
    assert found.y_ticks
    assert all(math.isfinite(tick.at) for tick in (*found.x_ticks, *found.y_ticks))


def test_higher_is_further_up_and_later_further_right():
    found = chart("t", [line((1, 1), (2, 3))], x_label="x")
    first, second = found.drawn[0].marks
    assert second.y < first.y
    assert second.x > first.x
    assert found.drawn[0].path == f"M{first.x:g} {first.y:g}L{second.x:g} {second.y:g}"


def test_widths_stand_at_even_distances_and_series_beside_them():
    found = chart("t", [line((7.4, 1), (8.6, 1), (4, 1), (2, 1))], x_label="bits", scale="bits")
    assert [tick.text for tick in found.x_ticks] == ["2", "4", "8"]
    two, four, eight = (tick.at for tick in found.x_ticks)
    assert eight - four == pytest.approx(four - two, abs=0.2)


def test_a_level_far_below_is_left_out_and_one_nearby_is_shown():
    levels = [Level("far", 0.1, dashed=True), Level("near", 0.85, 0.01)]
    found = chart("t", [line((1, 0.86), (2, 0.88))], x_label="x", levels=levels)
    assert [rule.level.name for rule in found.rules] == ["near"]
    assert found.rules[0].height > 0


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
    assert all(len(tick.text) <= 7 for tick in found.y_ticks)  # some 40 units at this size of type
    assert len({tick.text for tick in found.y_ticks}) == len(found.y_ticks)


def test_ticks_close_together_have_different_words():
    found = chart("t", [line((1, 2019.2), (2, 2020.9))], x_label="x")
    assert len({tick.text for tick in found.y_ticks}) == len(found.y_ticks) > 2


def test_colours_repeat_with_other_shapes():
    lines = [Line("x", (), slot=slot) for slot in range(21)]
    assert len({(each.colour, each.shape) for each in lines}) == 21
    assert 0 not in {each.colour for each in lines}  # grey is the reference's
