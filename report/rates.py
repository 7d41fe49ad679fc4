"""A range test as a picture: loss against the learning rate."""

from __future__ import annotations

from pathlib import Path

from maskpack.compressor.lr_find import RateCurve
from maskpack.formats.writer import write_bytes
from maskpack.report.charts import Line, Value, chart
from maskpack.report.figures import Figure, check_installed
from maskpack.report.picture import figure_svg, to_png

_HIGHEST = 1.5  # times the first loss: above that only divergence is seen


def draw_rates(path: Path, curve: RateCurve, title: str) -> None:
    """Write the curve as SVG or, by the name's end, as PNG.

    Raises:
        MissingPackageError: a package of the extra `plots` is missing.
        ArtifactError: the file cannot be written; an old one stays.
    """
    if path.suffix == ".png":
        check_installed()
    most = _HIGHEST * curve.losses[0]
    points = [
        Value(rate, loss)
        for rate, loss in zip(curve.rates, curve.losses, strict=True)
        if loss < most
    ]
    told = [each for each in points if each.x >= curve.suggestion][:1]
    lines = [
        Line("smoothed loss", tuple(points), slot=0, dots=False),
        Line(f"suggestion: {curve.suggestion:g}", tuple(told), slot=1, joined=False),
    ]
    panel = chart(f"loss by {curve.option}", lines, x_label="learning rate", scale="powers")
    assert panel is not None
    figure = Figure("rates", title, (panel,), tuple(panel.lines))
    svg = figure_svg(figure, "range test: the rate rises with every step")
    write_bytes(path, to_png(svg) if path.suffix == ".png" else svg.encode())
