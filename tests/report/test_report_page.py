"""What a page shows of views that no small run gives: fifty tasks, thirty classes, constant answers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from html_page import Page

from maskpack.formats import open_artifact
from maskpack.report.figures import pair_chart
from maskpack.report.page import artifact_page
from maskpack.report.view import view_artifact
from maskpack.tasks.evaluation.evaluate import Assessment, ErrorAnalysis
from maskpack.tasks.evaluation.metrics import Confusion

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def test_given_and_true_values_stand_on_one_scale_so_that_a_constant_answer_looks_like_one():
    analysis = ErrorAnalysis(None, None, pairs=((0.0, 2.56), (5.0, 2.57), (3.0, 2.565)))
    chart = pair_chart(analysis)
    exact, rows = chart.drawn
    (first, last), marks = exact.marks, rows.marks
    assert (first.x, last.x) == (marks[0].x, marks[1].x)
    assert abs(marks[0].y - marks[1].y) < 0.01 * abs(first.y - last.y)
    assert pair_chart(ErrorAnalysis(None, None)) is None


def test_classes_too_many_for_a_matrix_are_mistakes_or_none(tiny_artifact):
    view = view_artifact(open_artifact(tiny_artifact))
    labels = tuple(f"class {n}" for n in range(30))
    right = [[int(row == column) for column in range(30)] for row in range(30)]
    assessment = Assessment("sst2", 30, {}, {}, {}, same_data=True)

    def told(counts):
        confusion = Confusion(labels, tuple(map(tuple, counts)))
        return Page(artifact_page(view, {"sst2": ErrorAnalysis(assessment, confusion)})).text

    assert "30 classes; no row was taken for another" in told(right)
    right[3] = right[4]
    assert "30 classes; the commonest mistakes: true class given as rows class 3 class 4 1" in (
        told(right)
    )


def test_parts_of_many_tasks_have_other_colours_than_dense_copies(tiny_artifact):
    view = view_artifact(open_artifact(tiny_artifact))
    tasks = tuple(replace(view.tasks[0], name=f"t{n}") for n in range(50))
    text = artifact_page(replace(view, tasks=tasks), {task.name: "unknown" for task in tasks})
    page = Page(text)
    colours = re.findall(r'<i(?: class="thin")? style="--series: var\(--(c\d+)\)', text)
    assert colours.count("c0") == 50  # the copies
    assert {*colours} == {f"c{n}" for n in range(8)}
    assert (
        sum(value == f"#task-{task.name}" for task in tasks for _, _, value in page.values) == 100
    )


def test_gaps_between_many_small_parts_do_not_lengthen_a_bar(tiny_artifact):
    view = view_artifact(open_artifact(tiny_artifact))
    tasks = tuple(
        replace(view.tasks[0], name=f"t{n}", dense_bytes=90_000_000, patch_bytes=1_350_000)
        for n in range(50)
    )
    analyses = {task.name: "unknown" for task in tasks}
    text = artifact_page(replace(view, tasks=tasks, backbone_bytes=23_000_000), analyses)
    bars = text.split('<div class="track"')[1:4]
    assert [bar.count('class="thin"') for bar in bars] == [0, 51, 51]
    assert "4.50 GB" in Page(text).text
    assert "i.thin { min-width: 0; }" in text


def test_a_stop_while_a_picture_is_drawn_leaves_the_old_one(tiny_artifact, work, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure")
    from maskpack.report.plots import draw_tasks

    view = view_artifact(open_artifact(tiny_artifact))
    before = {path: path.read_bytes() for path in draw_tasks(view, work)}
    drawn = figure.Figure.savefig

    def stopped(self, place, **options):
        drawn(self, place, **{**options, "dpi": 20})
        raise KeyboardInterrupt

    monkeypatch.setattr(figure.Figure, "savefig", stopped)
    with pytest.raises(KeyboardInterrupt):
        draw_tasks(view, work)
    assert {path: path.read_bytes() for path in work.iterdir()} == before


def test_a_picture_has_no_panel_without_a_curve_and_takes_any_name(tiny_artifact, work):
    pytest.importorskip("matplotlib")
    from maskpack.compressor.sweep.table import tables_of_lines
    from maskpack.report.plots import draw, draw_tasks

    view = view_artifact(open_artifact(tiny_artifact))
    curves = replace(view.tasks[0].curves, score_steps=(), scores=())
    short = replace(view, tasks=(replace(view.tasks[0], curves=curves),))
    wide, narrow = work / "wide", work / "narrow"
    sizes = []
    for tree, folder in ((view, wide), (short, narrow)):
        draw_tasks(tree, folder)
        header = (folder / "sst2-curves.png").read_bytes()[16:24]
        sizes.append(int.from_bytes(header[:4], "big"))
    assert sizes == [1800, 1200]
    lines = [json.loads(line) for line in (RESULTS / "quality.jsonl").read_text().splitlines()]
    odd = [
        {
            **line,
            "sweep_model": "a$\\frac{$b",
            "coded_bytes": line["coded_bytes"] * (line["bits"] > 4),
        }
        for line in lines
    ]
    assert len(draw(tables_of_lines(odd), work / "odd", kinds=("png",))) == 3


def test_a_legend_of_twenty_methods_lies_in_its_picture():
    """Half of it was below the lower edge once, and with it the mark of a collapse."""
    pytest.importorskip("matplotlib")
    from matplotlib import rc_context

    from maskpack.compressor.sweep.table import tables_of_lines
    from maskpack.report.figures import PLOTS
    from maskpack.report.plots import STYLE, _figure

    lines = [json.loads(line) for line in (RESULTS / "patches.jsonl").read_text().splitlines()]
    (table,) = tables_of_lines(lines, reference="dense")
    with rc_context(STYLE):
        figure = _figure(table, PLOTS[-1])
        figure.canvas.draw()
        (legend,) = figure.legends
        box = legend.get_window_extent()
    assert len(legend.texts) > 20
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.bbox.width
    assert box.y1 <= figure.bbox.height


def test_a_family_of_methods_has_a_colour_of_its_own():
    from maskpack.compressor.sweep.table import tables_of_lines
    from maskpack.report.plots import _looks

    lines = [json.loads(line) for line in (RESULTS / "patches.jsonl").read_text().splitlines()]
    (table,) = tables_of_lines(lines, reference="dense")
    looks = _looks(table, [row.arm.label for row in table.rows], joined=False)
    colours = {row.arm.family: looks[row.arm.label]["color"] for row in table.rows}
    assert len(colours) > 9
    assert len(set(colours.values())) == len(colours)
