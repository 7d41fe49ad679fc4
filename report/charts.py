"""Charts as geometry: values in, places on a canvas out. A template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 22.0, 12.0, 40.0
_ROOM = 0.06  # of the range, on either side
COLOURS = 7  # grey is for what they are compared with
_SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Value:
    """A point to be drawn: where, how uncertain, and its words."""

    x: float
    y: float
    spread: float = 0.0
    words: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """Points of one series.

    Attributes:
        name: for the legend.
        values: its points.
        slot: number that gives it its colour and its shape.
        joined: whether a line goes through them.
        dots: whether each is marked.
    """

    name: str
    values: tuple[Value, ...]
    slot: int = 0
    joined: bool = True
    dots: bool = True

    @property
    def colour(self) -> int:
        """Number of its colour, from 1."""
        return 1 + self.slot % COLOURS

    @property
    def shape(self) -> str:
        """What marks its points: another shape once colours repeat."""
        return _SHAPES[(self.slot % COLOURS + self.slot // COLOURS) % len(_SHAPES)]


@dataclass(frozen=True)
class Level:
    """A horizontal line, with a band about it."""

    name: str
    y: float
    spread: float = 0.0
    dashed: bool = False


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A point on the canvas: its place, its error bar from `low` to `high`, and its words."""

    x: float
    y: float
    low: float
    high: float
    words: str
    hollow: bool


@dataclass(frozen=True)
class Drawn:
    """A series on the canvas: `path` as SVG has it, empty for points alone."""

    line: Line
    path: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Rule:
    """A level on the canvas."""

    level: Level
    y: float
    top: float
    height: float


@dataclass(frozen=True)
class Chart:
    """One panel, ready to be drawn on a canvas of `WIDTH` x `HEIGHT`."""

    title: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    drawn: tuple[Drawn, ...]
    rules: tuple[Rule, ...]
    left: float = _LEFT
    right: float = WIDTH - _RIGHT
    top: float = _TOP
    bottom: float = HEIGHT - _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    levels: Sequence[Level] = (),
    scale: str = "linear",
) -> Chart | None:
    """Lay a chart out; None without a point.

    Args:
        title: above it.
        lines: its series.
        x_label: of the horizontal axis.
        levels: horizontal lines; one far below all points is left out.
        scale: of the horizontal axis: `linear`, `bits` (a tick a width) or `bytes`; both logarithmic.
    """
    values = [value for line in lines for value in line.values]
    if not values:
        return None
    levels = [level for level in levels if _near(level, _heights(values))]
    x_ticks, across = _horizontal([value.x for value in values], scale)
    y_ticks, up = _vertical([*_heights(values), *_heights(levels)])
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=tuple(Tick(_round(across(at)), text) for at, text in x_ticks),
        y_ticks=tuple(Tick(_round(up(at)), text) for at, text in y_ticks),
        drawn=tuple(_draw(line, across, up) for line in lines if line.values),
        rules=tuple(_rule(level, up) for level in levels),
    )


def _heights(values: Sequence[Value | Level]) -> list[float]:
    return [end for v in values for end in (v.y - v.spread, v.y + v.spread)]


def _near(level: Level, ys: Sequence[float]) -> bool:
    """Whether a level can be shown without flattening the points."""
    low, high = min(ys), max(ys)
    return level.y > low - 1.5 * max(high - low, 0.02 * abs(high), 1e-9)


def _draw(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> Drawn:
    marks = tuple(_mark(value, across, up) for value in line.values)
    ordered = sorted(marks, key=lambda mark: mark.x)
    path = "M" + "L".join(f"{mark.x:g} {mark.y:g}" for mark in ordered) if line.joined else ""
    return Drawn(line, path if len(marks) > 1 else "", marks)


def _mark(value: Value, across: Callable[[float], float], up: Callable[[float], float]) -> Mark:
    heights = (value.y, value.y - value.spread, value.y + value.spread)
    middle, low, high = (_round(up(height)) for height in heights)
    return Mark(_round(across(value.x)), middle, low, high, value.words, value.hollow)


def _rule(level: Level, up: Callable[[float], float]) -> Rule:
    top = up(level.y + level.spread)
    return Rule(level, _round(up(level.y)), _round(top), _round(up(level.y - level.spread) - top))


def _horizontal(
    xs: Sequence[float], scale: str
) -> tuple[list[tuple[float, str]], Callable[[float], float]]:
    """Ticks of the horizontal axis, and the function from a value to its place."""
    if scale == "bits":
        widths = sorted({2.0 ** round(math.log2(x)) for x in xs})  # series stand beside them
        ticks = [(x, f"{x:g}") for x in widths]
        low, high = ticks[0][0] / 1.3, ticks[-1][0] * 1.3
    elif scale == "bytes":
        xs = [max(x, 1.0) for x in xs]
        first, last = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) + 1e-9)
        step = 1 if last - first < 5 else 2
        low, high = 10.0**first, 10.0**last
        ticks = [(10.0**n, short_size(10.0**n)) for n in range(first, last + 1, step)]
    else:
        low, high = _roomy(min(xs), max(xs))
        ticks = [(x, _plain(x)) for x in ticks_between(low, high)]
    change = float if scale == "linear" else math.log
    start, end = change(low), change(high)

    def across(x: float) -> float:
        share = (change(max(x, low)) - start) / (end - start)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    return ticks, across


def _vertical(ys: Sequence[float]) -> tuple[list[tuple[float, str]], Callable[[float], float]]:
    """Ticks of the vertical axis, and the function from a value to its place."""
    low, high = _roomy(min(ys), max(ys))

    def up(y: float) -> float:
        return HEIGHT - _BOTTOM - (y - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    return [(y, _plain(y)) for y in ticks_between(low, high)], up


def _roomy(low: float, high: float) -> tuple[float, float]:
    """A range with some room; never empty, and not below 0 without need."""
    room = _ROOM * (high - low) or 0.1 * abs(low) or 1.0
    return (max(0.0, low - room) if low >= 0 else low - room, high + room)


def ticks_between(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers between two values, as people choose them.

    >>> ticks_between(0.0, 97.0)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    >>> ticks_between(0.813, 0.889)
    [0.82, 0.84, 0.86, 0.88]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + n) * step, 12) for n in range(count)]


def short_size(count: float) -> str:
    """Bytes in as few characters as an axis has room for.

    >>> short_size(100.0), short_size(10_000.0), short_size(1e7)
    ('100 B', '10 KB', '10 MB')
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= factor:
            return f"{count / factor:g} {unit}"
    return f"{count:g} B"


def _plain(value: float) -> str:
    """A number of a tick: thousands with a comma, no needless digits, never wider than its place.

    >>> _plain(0.25), _plain(12_000.5), _plain(-1_250_000.0), _plain(1e20)
    ('0.25', '12,000.5', '-1.25M', '1e+20')
    """
    size = abs(value)
    if size < 1000 or size >= 1e12:
        return f"{value:g}"
    if size < 1e5:
        return f"{value:,.6g}"
    unit, factor = next(each for each in (("G", 1e9), ("M", 1e6), ("k", 1e3)) if size >= each[1])
    return f"{value / factor:g}{unit}"


def _round(place: float) -> float:
    return round(place, 1)


def size(count: int) -> str:
    """Bytes in decimal units.

    >>> size(134_553), size(23_100_000), size(4_543_710_000)
    ('134.6 KB', '23.10 MB', '4.54 GB')
    """
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1e3:.1f} KB"
    return f"{count / 1e6:.2f} MB" if count < 1_000_000_000 else f"{count / 1e9:.2f} GB"
