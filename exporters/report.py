"""The report on a graph as a value: every figure, every finding, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from maskpack.formats import DataError
from maskpack.formats.checks import spell_out
from maskpack.tasks.evaluation.gains import gain

REPORT_FILE = "maskpack_report.json"


@dataclass(frozen=True)
class ValueCheck:
    """Logits of graph and torch on one input shape.

    Attributes:
        batch, sequence: shape of the input.
        padded: whether rows end in padding.
        max_diff: largest absolute difference of a logit.
        argmax: rows on which both choose the same class, or the same labels (all, for a regression).
        relative: error of the logits, root mean square over root mean square.
    """

    batch: int
    sequence: int
    padded: bool
    max_diff: float
    argmax: int
    relative: float = 0.0


@dataclass(frozen=True)
class AccuracyCheck:
    """Scores on the evaluation data.

    Attributes:
        rows: evaluation rows.
        metric: name of the main metric.
        graph, torch: its value for the graph and for the masked torch model.
        agreement: share of rows on which both give the same class, the same labels, or (of a
            regression) the same number to 0.0001.
        max_diff: largest absolute difference of a logit.
        reference: value for the fine-tuned model that was given, if any.
        relative: error of the logits, root mean square over root mean square.
        reference_agreement: share of rows on which graph and fine-tuned model give the same, if one was given.
    """

    rows: int
    metric: str
    graph: float
    torch: float
    agreement: float
    max_diff: float
    reference: float | None = None
    relative: float = 0.0
    reference_agreement: float | None = None

    @property
    def drop(self) -> float:
        """Points that the graph loses against the masked torch model; what a point is: `gain` in `gains.py`."""
        return -gain(self.metric, self.graph, self.torch)


@dataclass(frozen=True)
class TextCheck:
    """Texts that the shipped files and training gave the same tokens, or not.

    Attributes:
        rows: evaluation rows that were compared.
        probes: other rows: long, empty, of other scripts, with added tokens.
        same: whether all had the same tokens.
    """

    rows: int
    probes: int
    same: bool


@dataclass(frozen=True)
class GraphFacts:
    """Figures of the graph's file.

    Attributes:
        bytes: of the file.
        nodes: operators.
        opset, ir_version: of the file.
        masked_weights: weights that a mask covers; linears without a mask do not count.
        mask_zeros: those of them that the mask removes.
        code_zeros: zero codes of these linears in the graph: those that the mask removes, codes that were
            0 before, and codes that requantising rounds to 0.
        removed: zero codes at the positions that the mask removes; equal to `mask_zeros`, or the
            graph is wrong.
        left_out: weights of removed units that are not in the graph; they count as zeros.
        wrong: integers of matrices that lost units which are not those of the backbone at their places.
        longest: tokens of an input at most, where rows of positions were left out; None: what the model reads.
        cut_bytes: of these rows.
    """

    bytes: int
    nodes: int
    opset: int
    ir_version: int
    masked_weights: int
    mask_zeros: int
    code_zeros: int
    removed: int
    left_out: int = 0
    wrong: int = 0
    longest: int | None = None
    cut_bytes: int = 0


@dataclass(frozen=True)
class Report:
    """The whole report.

    Attributes:
        task, compute: the exported task and its arithmetic.
        atol, max_drop, rtol: the tolerance.
        session: runtime, version and options behind the figures.
        graph: figures of the file.
        values: one entry an input shape.
        accuracy: on the evaluation data, or None if there was none.
        findings: everything that is wrong, one line each; empty if the graph is within its tolerance.
        texts: tokens of texts, or None if a graph alone was verified.
    """

    task: str
    compute: str
    atol: float | None
    max_drop: float
    session: Mapping[str, str]
    graph: GraphFacts
    values: tuple[ValueCheck, ...]
    accuracy: AccuracyCheck | None
    findings: tuple[str, ...]
    rtol: float | None = None
    texts: TextCheck | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no finding."""
        return not self.findings

    def to_json(self) -> str:
        """Canonical text; inverse of `from_json`."""
        tree = asdict(self)
        if self.accuracy is not None:
            tree["accuracy"]["drop"] = self.accuracy.drop
        tree = spell_out({**tree, "ok": self.ok})
        return json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read the text of `to_json`."""
        try:
            tree = json.loads(text)
            if tree["accuracy"] is not None:
                tree["accuracy"].pop("drop")
                tree["accuracy"] = AccuracyCheck(**_read_back(tree["accuracy"]))
            tree.pop("ok")
            if tree.get("texts") is not None:
                tree["texts"] = TextCheck(**tree["texts"])
            tree["graph"] = GraphFacts(**tree["graph"])
            tree["values"] = tuple(ValueCheck(**_read_back(value)) for value in tree["values"])
            tree["findings"] = tuple(tree["findings"])
            return cls(**tree)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"not a report: {error}") from error


_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _read_back(tree: dict[str, Any]) -> dict[str, Any]:
    """The words of `spell_out` as numbers again, in the values of one check."""
    return {
        key: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
        for key, value in tree.items()
    }
