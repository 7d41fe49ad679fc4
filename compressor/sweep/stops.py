"""What a run left on its way, as lines of results: a run of `continual` passes several shares of zeros. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskpack.compressor.mask_config import levels_of
from maskpack.tasks.evaluation.gains import gain

Line = Mapping[str, Any]


def lines_on_the_way(line: Line) -> dict[float, Line]:
    """Share of zeros -> the line of a run that had ended there; the last share, which is the line itself, is left out.

    Args:
        line: of a run, as `RunResult.to_json` writes it; one of a run without `continual` has none.

    >>> way = {"task": "t-10", "scores": {"accuracy": 0.9}, "zeros": 10, "coded_bytes": 5}
    >>> line = {"metric": "accuracy", "majority": {"accuracy": 0.5}, "weights": 100, "snapshots": [way],
    ...         "options": {"continual": "0.1,0.5"}, "scores": {"accuracy": 0.8}, "sparsity": 0.5}
    >>> {share: (one["scores"], one["sparsity"]) for share, one in lines_on_the_way(line).items()}
    {0.1: ({'accuracy': 0.9}, 0.1)}
    """
    shares = line.get("options", {}).get("continual")
    if shares is None:
        return {}
    on_the_way = zip(levels_of(shares), line.get("snapshots", ()), strict=False)
    return {share: _ended_at(line, snapshot) for share, snapshot in on_the_way}


def _ended_at(line: Line, snapshot: Mapping[str, Any]) -> Line:
    """The line with the figures of one of its snapshots."""
    metric, scores = line["metric"], snapshot["scores"]
    return {
        **line,
        "scores": scores,
        "collapsed": gain(metric, scores[metric], line["majority"][metric]) <= 0,
        "sparsity": snapshot["zeros"] / line["weights"],
        "coded_bytes": snapshot["coded_bytes"],
        "snapshots": (),
    }
