"""A report as one page of HTML: what is shown, in which order. No numbers are made here.

The page holds its style and its pictures, so that it can be mailed, printed and archived; it names no
other file and no address. Everything that comes from outside is escaped by the template engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from maskpack.compressor.sweep.table import Table
from maskpack.exporters.report import Report
from maskpack.report.charts import COLOURS, size
from maskpack.report.figures import curve_charts, pair_chart, sweep_figures
from maskpack.report.table import head_of, notes_of, rows_of
from maskpack.report.view import ArtifactView, Part, TaskView
from maskpack.tasks.evaluation.marked import Part as MarkedPart

if TYPE_CHECKING:
    from maskpack.tasks.evaluation.evaluate import ErrorAnalysis  # imports torch


_MOST_CLASSES = 20  # that a matrix of classes is readable with
_MOST_MISTAKES = 12
_THIN = 0.6  # percent: a few pixels of a wide page


@dataclass(frozen=True)
class Segment:
    """A part of a bar: its width in percent of the longest bar, and the number of its colour."""

    part: Part
    width: float
    colour: int

    @property
    def thin(self) -> bool:
        """Whether the gap before it would be wider than it; fifty such gaps would be a bar of their own."""
        return self.width < _THIN


@dataclass(frozen=True)
class Bar:
    """A stacked bar of bytes."""

    name: str
    bytes: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class TaskPage:
    """What the page shows of one task.

    Attributes:
        view: its numbers.
        analysis: on the evaluation rows, or why there is none.
        verdicts: on its exported graphs.
    """

    view: TaskView
    analysis: ErrorAnalysis | str
    verdicts: tuple[Report, ...]


def artifact_page(
    view: ArtifactView,
    analyses: Mapping[str, ErrorAnalysis | str],
    verdicts: Sequence[Report] = (),
    tables: Sequence[Table] = (),
) -> str:
    """The page of an artifact.

    Args:
        view: its numbers.
        analyses: task -> how it does on its evaluation rows, or why that is not known.
        verdicts: on exported graphs.
        tables: of a sweep, to compare with.
    """
    tasks = tuple(
        TaskPage(task, analyses[task.name], tuple(v for v in verdicts if v.task == task.name))
        for task in view.tasks
    )
    return render(
        "report.html",
        title=f"{view.model}, {view.widths}",
        artifact=view,
        tasks=tasks,
        bars=_size_bars(view),
        inside=_inside(view),
        sweeps=tables,
    )


def sweep_page(tables: Sequence[Table], name: str) -> str:
    """The page of a sweep.

    Args:
        tables: one a model.
        name: of the file of results.
    """
    return render("report.html", title=name, artifact=None, tasks=(), sweeps=tables)


def render(name: str, **content: object) -> str:
    """A template of this package with its content; every text is escaped."""
    environment = Environment(
        loader=PackageLoader("maskpack.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": _code,
        "curves": curve_charts,
        "figures": sweep_figures,
        "head": head_of,
        "notes": notes_of,
        "pairs": pair_chart,
        "rows": rows_of,
        "said": _said,
        "size": size,
    }
    return environment.get_template(name).render(
        **content,
        version=version("maskpack"),
        most_classes=_MOST_CLASSES,
        most_mistakes=_MOST_MISTAKES,
    )


def _code(text: str) -> Markup:
    """Words with `backticks` as HTML; everything in it is escaped."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _said(part: MarkedPart) -> str:
    """What a page says of a part of a text behind it.

    >>> from maskpack.tasks.evaluation.marked import Verdict
    >>> _said(MarkedPart("Rome", "place", "person", Verdict.WRONG))
    'person, wrong: place'
    """
    if part.verdict.value == "right":
        return part.given
    if not part.given:
        return f"{part.true}, missed"
    ends = "other ends" if part.given == part.true else part.true
    return f"{part.given}, wrong: {ends or 'nothing'}"


def _size_bars(view: ArtifactView) -> tuple[Bar, ...]:
    """The artifact beside what it stands in for, on one scale."""
    if not view.tasks:
        return ()
    copies = [Part(f"copy for {task.name}", task.dense_bytes) for task in view.tasks]
    patches = [Part(f"task {task.name}", task.patch_bytes) for task in view.tasks]
    packed = [Part(f"task {task.name}, packed", task.packed_bytes) for task in view.tasks]
    backbone = Part("backbone", view.backbone_bytes)
    stacks = {
        f"{len(copies)} dense float32 {'copy' if len(copies) == 1 else 'copies'}": copies,
        "this artifact": [backbone, *patches],
        "as downloaded, tasks packed": [backbone, *packed],
    }
    longest = max(sum(part.bytes for part in parts) for parts in stacks.values())
    return tuple(
        _bar(name, parts, longest, shaded=parts is copies) for name, parts in stacks.items()
    )


def _inside(view: ArtifactView) -> tuple[Bar, ...]:
    """Each file's parts, on its own scale."""
    files = [("backbone", view.parts), *((f"task {t.name}", t.parts) for t in view.tasks)]
    return tuple(_bar(name, parts, sum(part.bytes for part in parts)) for name, parts in files)


def _bar(name: str, parts: Sequence[Part], longest: int, *, shaded: bool = False) -> Bar:
    """A bar whose parts have colours in turn, or all the grey one if it is shaded."""
    segments = tuple(
        Segment(
            part,
            width=round(100 * part.bytes / max(1, longest), 3),
            colour=0 if shaded else 1 + place % COLOURS,
        )
        for place, part in enumerate(parts)
    )
    return Bar(name, sum(part.bytes for part in parts), segments)
