"""What a run reports: the same shape for learned masks and dense baselines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from maskpack.formats import MaskCount


@dataclass(frozen=True)
class RunResult:
    """Figures of one run, all measured.

    Attributes:
        method: `mask`, or the baseline: `full`, `head`, `head-pooler`, `bitfit`, `lora`.
        model: name of the source model.
        task: name of the task.
        bits: width of a backbone code; 32 for baselines on the float model.
        seed: of the run.
        train_rows, eval_rows: rows used.
        steps: optimiser steps.
        seconds: of training alone.
        metric: name of the main metric.
        scores: metric name -> value on the evaluation split, for the model as it is stored.
        majority: the same for always answering the commonest class: the floor under any result.
        weights, zeros: of the mask; 0 for the baselines.
        mask_bytes: of the packed mask.
        head_bytes: of the head as stored.
        extra_bytes: of biases, LayerNorm parameters and scales that the task trained besides.
        patch_bytes: of the task's file; for a baseline, of all weights it trained, in float32.
        backbone_bytes: of the shared weights.
        original: scores of the source model, where it was fine-tuned for this task before; else None.
        options: every option of the run.
    """

    method: str
    model: str
    task: str
    bits: int
    seed: int
    train_rows: int
    eval_rows: int
    steps: int
    seconds: float
    metric: str
    scores: Mapping[str, float]
    majority: Mapping[str, float]
    weights: int = 0
    zeros: int = 0
    mask_bytes: int = 0
    head_bytes: int = 0
    extra_bytes: int = 0
    patch_bytes: int = 0
    backbone_bytes: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    original: Mapping[str, float] | None = None

    @property
    def score(self) -> float:
        """The main metric's value."""
        return self.scores[self.metric]

    @property
    def count(self) -> MaskCount:
        """Size of the mask."""
        return MaskCount(self.weights, self.zeros)

    @property
    def coded_bytes(self) -> int:
        """What the task adds when its mask is coded: entropy of the mask, head and the rest.

        For a baseline: its trained values in float16.
        """
        if self.weights == 0:
            return self.patch_bytes // 2
        return self.count.entropy_bytes + self.head_bytes + self.extra_bytes

    @property
    def collapsed(self) -> bool:
        """Whether the result is no better than always giving the same answer."""
        return self.score <= self.majority[self.metric]

    def to_json(self) -> str:
        """One line of JSON, derived sizes included."""
        count = self.count
        derived = {
            "sparsity": count.sparsity,
            "entropy_bpp": count.entropy_bpp,
            "entropy_bytes": count.entropy_bytes,
            "coded_bytes": self.coded_bytes,
            "collapsed": self.collapsed,
        }
        return json.dumps({**asdict(self), **derived}, sort_keys=True)
