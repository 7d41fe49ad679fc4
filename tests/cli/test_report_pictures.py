"""Pictures of a report: files that stand alone, with the charts of the page and nothing cut off."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import resvg_py
from PIL import Image, ImageChops

from maskpack.compressor.sweep.table import tables_of_lines
from maskpack.formats import open_artifact
from maskpack.report import picture
from maskpack.report.figures import sweep_figures
from maskpack.report.page import artifact_page, sweep_page
from maskpack.report.picture import draw, figure_svg, to_png
from maskpack.report.view import view_artifact

RESULTS = Path(__file__).parents[2] / "docs" / "results"
SVG = "{http://www.w3.org/2000/svg}"


def tables(name, **changes):
    lines = [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]
    return tables_of_lines([{**line, **changes} for line in lines], reference="dense")


@pytest.fixture(scope="module")
def patches():
    """Figures of twenty methods on two tasks: name -> SVG."""
    (table,) = tables("patches.jsonl")
    return {figure.name: figure_svg(figure, "demo") for figure in sweep_figures(table)}


@pytest.fixture(scope="module")
def view(tiny_artifact):
    return view_artifact(open_artifact(tiny_artifact))


def image(data):
    return Image.open(io.BytesIO(data)).convert("RGB")


def texts(svg):
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter(f"{SVG}text")]


def charts(page):
    return [
        body.strip() for body in re.findall(r'<svg class="chart"[^>]*>(.*?)</svg>', page, re.DOTALL)
    ]


def test_page_and_pictures_draw_the_same(patches, view, work):
    drawn = charts(sweep_page(tables("patches.jsonl"), "patches"))
    assert len(drawn) == 9
    for panels, svg in zip((drawn[:3], drawn[3:6], drawn[6:]), patches.values(), strict=True):
        assert all(panel in svg for panel in panels)
    draw(work, tasks=view.tasks, kinds=("svg",))
    curves = (work / "sst2-curves.svg").read_text()
    drawn = charts(artifact_page(view, {"sst2": "unknown"}))
    assert len(drawn) == 3
    assert all(panel in curves for panel in drawn)


def test_a_picture_needs_no_page_and_no_other_file(patches):
    for svg in patches.values():
        root = ET.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert "var(" not in svg
        assert "href" not in svg
        assert "url(" not in svg
        classes = {name for each in root.iter() for name in each.get("class", "").split()}
        style = root.find(f"{SVG}style").text
        assert {name for name in classes if f".{name}" not in style} == set()


def test_a_picture_says_what_is_drawn(patches):
    words = texts(patches["quality-bytes"])
    for text in (
        "quality against bytes a task adds, coded",
        "demo",
        "sst2, accuracy",
        "mean over tasks",
        "small2 target_bytes=70000",
        "dense (reference)",
        "majority class",
        "has a collapsed seed",
        "100 KB",
    ):
        assert text in words, text
    assert words.count("bytes a task adds, coded") == 3
    (table,) = tables("quality.jsonl")
    bits = figure_svg(sweep_figures(table)[0], "demo")
    assert "majority class 0.509, below" in texts(bits)
    assert {"1", "2", "4", "8"} <= set(texts(bits))
    assert 'class="error"' in bits
    assert "has a collapsed seed" not in bits


def test_a_legend_of_twenty_methods_lies_in_its_picture(patches):
    """Each key has a place of its own: no ink beyond its column, none below the lower edge."""
    svg = patches["quality-bytes"]
    root = ET.fromstring(svg)
    width, height = (float(root.get(name)) for name in ("width", "height"))
    keys = [
        each for each in root.findall(f"{SVG}g") if each.find(f"{SVG}text[@x='30']") is not None
    ]
    places = [tuple(map(float, re.findall(r"[\d.]+", each.get("transform")))) for each in keys]
    assert len(places) == len(set(places)) == 24
    across = sorted({x for x, _ in places})
    below = min(y for _, y in places) * 2
    legend = image(to_png(svg)).crop((0, int(below), int(2 * width), int(2 * height)))
    for x in (*across[1:], width):
        gap = legend.crop((int(2 * x) - 12, 0, int(2 * x) - 2, legend.height))
        assert gap.getextrema() == ((255, 255),) * 3, x
    assert max(y for _, y in places) + 14 <= height


def test_a_png_is_the_picture_at_twice_its_size(patches):
    svg = patches["quality-bits"]
    root = ET.fromstring(svg)
    drawn = image(to_png(svg))
    assert drawn.size == tuple(int(2 * float(root.get(name))) for name in ("width", "height"))
    assert drawn.getpixel((0, 0)) == (255, 255, 255)
    colours = {colour for _, colour in drawn.getcolors(maxcolors=1 << 20)}
    for name in ("0072b2", "c2520a", "00805f", "17212b"):
        assert tuple(bytes.fromhex(name)) in colours


def test_letters_come_from_the_font_that_is_given(patches, monkeypatch):
    """The library draws no text in a font that it does not find, and most machines lack this one."""
    svg = patches["quality-sparsity"]
    drawn = to_png(svg)
    bare = image(resvg_py.svg_to_bytes(svg_string=svg, zoom=2, skip_system_fonts=True))
    title = (0, 0, 700, 100)
    assert bare.crop(title).getextrema() == ((255, 255),) * 3
    assert ImageChops.difference(image(drawn).crop(title), bare.crop(title)).getbbox()
    alone = partial(resvg_py.svg_to_bytes, skip_system_fonts=True)
    monkeypatch.setattr(resvg_py, "svg_to_bytes", alone)
    assert to_png(svg) == drawn


def test_zeros_are_written_in_cells_as_dark_as_the_page_has_them(view):
    heat = view.tasks[0].heat
    svg = picture.zeros_svg(heat, "sst2")
    cells = [cell for row in heat.cells for cell in row]
    assert svg.count('class="cell"') == sum(cell is not None for cell in cells)
    assert svg.count('class="none"') == sum(cell is None for cell in cells)
    assert {*heat.parts, "layer 0", f"{100 * heat.highest:.2f}"} <= set(texts(svg))
    shades = [float(shade) for shade in re.findall(r'fill-opacity="([\d.]+)"', svg)]
    assert max(shades) == 1.0
    values = re.findall(r"--v: ([\d.]+)", artifact_page(view, {"sst2": "unknown"}))
    assert shades == pytest.approx([0.06 + 0.94 * float(value) for value in values], abs=1e-3)


def test_a_picture_has_no_panel_without_a_curve(view):
    task = view.tasks[0]
    short = replace(task, curves=replace(task.curves, score_steps=(), scores=()))
    none = replace(task, curves=None)
    wide, narrow = (picture._of_tasks([each])["sst2-curves"] for each in (task, short))
    assert 'width="1080' in wide
    assert 'width="720' in narrow
    assert picture._of_tasks([none]).keys() == {"sst2-zeros"}


@pytest.mark.parametrize(
    "name",
    [
        "a$\\frac{$b",
        "<b>&amp;\"'",
        "bell\x07 \ud800",
        "模型" * 60,
        "var(--c1)",
        "sentence-transformers/" * 12,
    ],
)
def test_a_picture_takes_any_name(name, work):
    drawn = draw(work / "odd", tables("quality.jsonl", sweep_model=name, coded_bytes=0))
    assert len(drawn) == 4  # without a byte there is no figure of bytes
    for path in drawn:
        if path.suffix == ".svg":
            words = texts(path.read_text())
            shown = name.replace("\x07", "\ufffd").replace("\ud800", "\ufffd")
            assert f"{shown}: mean and SD over seeds" in words
        else:
            size = image(path.read_bytes()).size
            assert size[0] >= 1440
            edge = image(path.read_bytes()).crop((size[0] - 20, 0, *size))
            assert edge.getextrema() == ((255, 255),) * 3


def test_each_model_has_files_of_its_own(work):
    both = [*tables("quality.jsonl"), *tables("quality.jsonl", sweep_model="other/one")]
    names = {path.name for path in draw(work / "two", both, kinds=("svg",))}
    assert "demo-quality-bits.svg" in names
    assert "other_one-quality-bits.svg" in names
    assert len(names) == 6


def test_a_stop_while_a_picture_is_drawn_leaves_the_old_one(view, work, monkeypatch):
    before = {path: path.read_bytes() for path in draw(work, tasks=view.tasks)}
    assert len(before) == 4

    def stopped(svg):
        raise KeyboardInterrupt

    monkeypatch.setattr(picture, "to_png", stopped)
    with pytest.raises(KeyboardInterrupt):
        draw(work, tasks=view.tasks)
    assert {path: path.read_bytes() for path in work.iterdir()} == before
