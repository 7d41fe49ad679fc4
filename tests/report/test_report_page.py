"""What a page shows of views that no small run gives: fifty tasks, thirty classes, constant answers."""

from __future__ import annotations

import re
from dataclasses import replace

from html_page import Page

from maskpack.formats import open_artifact
from maskpack.report.figures import pair_chart
from maskpack.report.page import artifact_page
from maskpack.report.view import view_artifact
from maskpack.tasks.evaluation.evaluate import Assessment, ErrorAnalysis
from maskpack.tasks.evaluation.marked import mark
from maskpack.tasks.evaluation.metrics import Confusion


def test_given_and_true_values_stand_on_one_scale_so_that_a_constant_answer_looks_like_one():
    analysis = ErrorAnalysis(None, None, pairs=((0.0, 2.56), (5.0, 2.57), (3.0, 2.565)))
    chart = pair_chart(analysis)
    exact, rows = (line.values for line in chart.lines)
    assert [value.x for value in exact] == [rows[0].x, rows[1].x]
    (low, high), given = ([chart.y(value.y) for value in values] for values in (exact, rows))
    assert abs(given[0] - given[1]) < 0.01 * abs(low - high)
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


def test_texts_with_entities_are_marked_and_escaped(tiny_artifact):
    view = view_artifact(open_artifact(tiny_artifact))
    assessment = Assessment("sst2", 30, {}, {}, {}, same_data=True)
    text = mark("<b>Rome</b> in May", [(3, 7, "place"), (15, 18, "time")], [(3, 7, "<i>")])
    analysis = ErrorAnalysis(assessment, None, texts=(text,))
    page = artifact_page(view, {"sst2": analysis})
    assert '<mark class="wrong">Rome <small>&lt;i&gt;, wrong: place</small></mark>' in page
    assert '&lt;b&gt;<mark class="wrong">' in page
    assert '<mark class="missed">May <small>time, missed</small></mark>' in page
