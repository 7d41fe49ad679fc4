"""Charts as geometry: values in, places on a canvas out. A template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
class Axis:
    """One direction of a chart: called with a value, it gives the value's place on the canvas.

    Attributes:
        ticks: values that are marked, and what is written there.
        low, high: values at its ends.
        start, end: places of its ends.
        logarithmic: whether equal distances are equal factors.
    """

    ticks: tuple[tuple[float, str], ...]
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; of one below the axis, the start."""
        change = math.log if self.logarithmic else float
        low, high = change(self.low), change(self.high)
        share = (change(max(value, self.low)) - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Chart:
    """One panel, on a canvas of `WIDTH` x `HEIGHT`.

    Attributes:
        title: above it.
        x_label: of the horizontal axis.
        x, y: its axes; that of `y` starts below.
        lines: its series, each with a point or more.
        levels: horizontal lines.
        below: those that would flatten the points, and are not drawn.
    """

    title: str
    x_label: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    below: tuple[Level, ...]
    width: float = WIDTH
    height: float = HEIGHT

    def path(self, line: Line) -> str:
        """The way through the points of a series as SVG has it; empty for points alone."""
        if not line.joined or len(line.values) == 1:
            return ""
        places = [(self.x(value.x), self.y(value.y)) for value in line.values]
        places.sort(key=lambda place: place[0])
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)


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
        levels: horizontal lines; one far below all points is not drawn.
        scale: of the horizontal axis: `linear`, or logarithmic: `bits` (a tick a width), `bytes`, `powers` of ten.
    """
    values = [value for line in lines for value in line.values]
    if not values:
        return None
    near = tuple(level for level in levels if _near(level, _heights(values)))
    return Chart(
        title=title,
        x_label=x_label,
        x=_horizontal([value.x for value in values], scale),
        y=_vertical([*_heights(values), *_heights(near)]),
        lines=tuple(line for line in lines if line.values),
        levels=near,
        below=tuple(level for level in levels if level not in near),
    )


def _heights(values: Sequence[Value | Level]) -> list[float]:
    return [end for v in values for end in (v.y - v.spread, v.y + v.spread)]


def _near(level: Level, ys: Sequence[float]) -> bool:
    """Whether a level can be shown without flattening the points."""
    low, high = min(ys), max(ys)
    return level.y > low - 1.5 * max(high - low, 0.02 * abs(high), 1e-9)


def _horizontal(xs: Sequence[float], scale: str) -> Axis:
    if scale == "bits":
        widths = sorted({2.0 ** round(math.log2(x)) for x in xs})  # series stand beside them
        ticks = [(x, f"{x:g}") for x in widths]
        low, high = widths[0] / 1.3, widths[-1] * 1.3
    elif scale == "bytes":
        xs = [max(x, 1.0) for x in xs]
        first, last = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) + 1e-9)
        powers = range(first, last + 1, 1 if last - first < 5 else 2)
        units = ("B", "KB", "MB", "GB", "TB", "PB")
        ticks = [(10.0**n, f"{10 ** (n % 3)} {units[n // 3]}") for n in powers]
        low, high = 10.0**first, 10.0**last
    elif scale == "powers":
        first, last = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)) + 1e-9)
        ticks = [(10.0**n, f"1e{n}") for n in range(first, last + 1)]
        low, high = 10.0**first, 10.0**last
    else:
        low, high = _roomy(min(xs), max(xs))
        ticks = [(x, _plain(x)) for x in ticks_between(low, high)]
    return Axis(tuple(ticks), low, high, _LEFT, WIDTH - _RIGHT, logarithmic=scale != "linear")


def _vertical(ys: Sequence[float]) -> Axis:
    low, high = _roomy(min(ys), max(ys))
    ticks = tuple((y, _plain(y)) for y in ticks_between(low, high))
    return Axis(ticks, low, high, HEIGHT - _BOTTOM, _TOP)


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
