"""A fine-tuned float model whose opinion of the training rows a mask learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from maskpack.compressor.baseline import trained_groups
from maskpack.compressor.batches import Encoded
from maskpack.compressor.config import BaselineConfig, FitConfig
from maskpack.compressor.dropout import Noise, quicken_dropout
from maskpack.compressor.evaluate import predict_all
from maskpack.compressor.hub import load_classifier, load_finetuned
from maskpack.compressor.objective import Objective, Teaching
from maskpack.compressor.predict import torch_predict
from maskpack.compressor.train import NoCheckpoints, Plan, train
from maskpack.formats import ModelError

TWIN = "twin"
"""As `teacher`: fine-tune a dense twin first, with the same data and budget."""


def opinion(
    config: FitConfig,
    rows: Encoded,
    *,
    model: str,
    revision: str | None,
    outputs: int,
    labels: Sequence[str],
    plan: Plan,
) -> Teaching | None:
    """The teacher's logits of every row, or None without a teacher.

    Args:
        config: names the teacher.
        rows: the training rows.
        model: the pretrained model, for a twin.
        revision: of the model.
        outputs: logits expected.
        labels: names of the classes.
        plan: steps and order of a twin's training.

    Raises:
        ModelError: the teacher has other logits, tokens or labels than the task.
    """
    if config.teacher is None:
        return None
    if config.teacher == TWIN:
        teacher = _twin(model, revision, rows, outputs=outputs, plan=plan)
    else:
        teacher = load_finetuned(config.teacher)
    _check_fits(teacher.config, config.teacher, rows, labels, outputs)
    return Teaching(
        predict_all(torch_predict(teacher), rows), config.teacher_share, config.temperature
    )


def _check_fits(config: Any, name: str, rows: Encoded, labels: Sequence[str], outputs: int) -> None:
    """Raise ModelError unless the teacher reads these tokens and means these labels."""
    if config.num_labels != outputs:
        raise ModelError(f"the teacher `{name}` has {config.num_labels} logits, the task {outputs}")
    highest = max(int(row.max()) for row in rows.ids)
    if highest >= config.vocab_size:
        raise ModelError(
            f"the teacher `{name}` has {config.vocab_size} tokens, the data holds token {highest}",
            "teacher and backbone must share a tokenizer",
        )
    told = [config.id2label[place] for place in range(outputs)]
    if set(told) == set(labels) and told != list(labels):
        raise ModelError(
            f"the teacher `{name}` has its labels in another order: {told}, the task {[*labels]}"
        )


def _twin(model: str, revision: str | None, rows: Encoded, *, outputs: int, plan: Plan) -> Any:
    """Fine-tune every weight of the float model."""
    torch.manual_seed(plan.seed)
    twin = load_classifier(model, outputs=outputs, revision=revision)
    noise = Noise(plan.seed)
    quicken_dropout(twin, noise)
    train(
        twin,
        rows,
        plan=plan,
        groups=trained_groups(twin, BaselineConfig()),
        objective=Objective(rows.labels),
        company=noise,
        checkpoints=NoCheckpoints(),
        observe=lambda _: None,
    )
    return twin
