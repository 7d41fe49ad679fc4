"""Pictures: the charts of the page as files that stand alone, SVG and, by resvg, PNG.

A picture holds its style, its title and its legend, in the page's light colours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from unicodedata import east_asian_width

from markupsafe import Markup

from maskpack.compressor.sweep.plan import slug
from maskpack.compressor.sweep.table import Table
from maskpack.formats import ConfigError
from maskpack.formats.writer import write_bytes
from maskpack.report.charts import HEIGHT, WIDTH
from maskpack.report.figures import Figure, check_installed, curve_charts, sweep_figures
from maskpack.report.page import render
from maskpack.report.view import HeatMap, TaskView

_ZOOM = 2  # pixels a unit: sharp where a page shows it at half its size
_EDGE, _TOP = 14, 68  # left of all texts; the titles of the first panels
_PANEL = HEIGHT + 30
_KEY = 18  # height of a line of the legend
_CELL_WIDTH, _CELL_HEIGHT = 64, 24
_LETTER = 6.4  # width in units: more than the mean of the font at 11 px
_HOLLOW = "has a collapsed seed"
_PROPERTY = re.compile(r"--([\w-]+): ([^;]+);")
_NO_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def draw(
    folder: Path,
    tables: Sequence[Table] = (),
    tasks: Sequence[TaskView] = (),
    *,
    kinds: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Write the figures of sweeps, the curves and the zeros of tasks as files of these kinds.

    Returns:
        The files. What has nothing to show has none.

    Raises:
        ConfigError: a package is missing, or the folder cannot be made.
        ArtifactError: a picture cannot be written; an old one stays.
    """
    check_installed()
    pictures = {**_of_tasks(tasks), **_of_sweeps(tables)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write plots into `{folder}`: {error.strerror}") from error
    written = []
    for stem, svg in pictures.items():
        for kind in kinds:
            written.append(folder / f"{stem}.{kind}")
            write_bytes(written[-1], to_png(svg) if kind == "png" else svg.encode())
    return written


def _of_sweeps(tables: Sequence[Table]) -> dict[str, str]:
    pictures = {}
    for table in tables:
        prefix = f"{slug(table.model)}-" if len(tables) > 1 else ""
        for figure in sweep_figures(table):
            note = f"{table.model}: mean and SD over seeds"
            pictures[f"{prefix}{figure.name}"] = figure_svg(figure, note)
    return pictures


def _of_tasks(tasks: Sequence[TaskView]) -> dict[str, str]:
    pictures = {}
    for task in tasks:
        curves = Figure("curves", f"{task.name}: how it was learned", curve_charts(task))
        if curves.panels:
            score = f"{task.metric} {task.scores[task.metric]:.4f}"
            note = f"{score}, {100 * task.count.sparsity:.2f} % zeros in the mask"
            pictures[f"{task.name}-curves"] = figure_svg(curves, note)
        if task.heat.parts:
            title = f"{task.name}: where weights are removed"
            pictures[f"{task.name}-zeros"] = zeros_svg(task.heat, title)
    return pictures


def to_png(svg: str) -> bytes:
    """A picture as PNG, two pixels a unit.

    The font is named and given, because resvg draws no text where it does not find the font. Fonts of
    the system are only for letters that this one lacks.
    """
    from resvg_py import svg_to_bytes  # noqa: PLC0415 - optional

    fonts = files("ttf_opensans") / "ttf"
    weights = [str(fonts / f"OpenSans-{weight}.ttf") for weight in ("Regular", "SemiBold")]
    return svg_to_bytes(svg_string=svg, zoom=_ZOOM, font_files=weights)


def figure_svg(figure: Figure, note: str) -> str:
    """Panels in rows, and below them their legend."""
    names = [line.name for line in figure.legend] + [level.name for level in figure.levels]
    names += [_HOLLOW] if figure.hollow else []
    key_width = 48 + max(map(_extent, names), default=0.0)
    width = max(figure.columns * WIDTH, _EDGE + key_width, _heading(figure.title, note))
    across = int((width - _EDGE) // key_width)
    legend_top = _TOP + -(-len(figure.panels) // figure.columns) * _PANEL - 10
    return _picture(
        "figure.svg",
        title=figure.title,
        note=note,
        width=width,
        height=legend_top + -(-len(names) // across) * _KEY + 8,
        figure=figure,
        across=across,
        key_width=key_width,
        key_height=_KEY,
        legend_top=legend_top,
        panel_height=_PANEL,
        hollow_name=_HOLLOW,
    )


def zeros_svg(heat: HeatMap, title: str) -> str:
    """Share of zeros of each matrix, by part and layer."""
    note = "zeros of each matrix in percent, by part and layer"
    left = _EDGE + max(map(_extent, heat.parts)) + 6
    return _picture(
        "zeros.svg",
        title=title,
        note=note,
        width=max(left + len(heat.layers) * _CELL_WIDTH + _EDGE, _heading(title, note)),
        height=_TOP + len(heat.parts) * _CELL_HEIGHT + 20,
        heat=heat,
        left=left,
        cell_width=_CELL_WIDTH,
        cell_height=_CELL_HEIGHT,
    )


def _picture(name: str, **content: object) -> str:
    """A template with its style. Values stand in place of CSS variables, which resvg does not know."""
    colours = dict(_PROPERTY.findall(render("report.css").partition("}")[0]))
    style = re.sub(r"var\(--([\w-]+)\)", lambda use: colours[use[1]], render("picture.css"))
    text = render(name, style=Markup(style), edge=_EDGE, top=_TOP, **content)  # noqa: S704 - ours
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _heading(title: str, note: str) -> float:
    return 2 * _EDGE + max(1.3 * _extent(title), _extent(note))


def _extent(text: str) -> float:
    """Room for a text in units; letters of Chinese, Japanese and Korean take two places."""
    return _LETTER * sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
