"""From torch to a float graph with its parameters under their own names."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from export_kit import ROW_KINDS
from onnx import numpy_helper

from maskpack.exporters import make_session, ort_predict
from maskpack.exporters.graph.trace import PREFIX, input_names, trace
from maskpack.formats import ExportError, ModelError, open_artifact
from maskpack.models.families import family_of
from maskpack.tasks.batches import torch_predict
from maskpack.tasks.context import restore_task


def names_of(config):
    """Names of the inputs of the architecture that a configuration names."""
    return input_names(family_of(config["model_type"]), config)


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_every_weight_matrix_keeps_its_name_and_its_values(traced, artifacts, kind):
    found = {t.name: numpy_helper.to_array(t) for t in traced(kind).graph.initializer}
    parameters = dict(restore_task(open_artifact(artifacts[kind]), "sst2").named_parameters())
    matrices = {name: value for name, value in parameters.items() if value.ndim == 2}
    assert len(matrices) >= 12
    for name, value in matrices.items():
        np.testing.assert_array_equal(found[f"{PREFIX}{name}"], value.detach().numpy())


@pytest.mark.parametrize("kind", ROW_KINDS)
def test_a_traced_graph_equals_torch_on_a_shape_it_was_not_traced_with(
    traced, artifacts, tokens, kind
):
    session = make_session(traced(kind).SerializeToString())
    feeds = tokens(names_of({"model_type": kind}), 3, 21, padded=True)
    wanted = torch_predict(restore_task(open_artifact(artifacts[kind]), "sst2"))(feeds)
    np.testing.assert_allclose(ort_predict(session)(feeds), wanted, rtol=0, atol=1e-5)


def test_inputs_are_those_the_architecture_reads():
    plain = ["input_ids", "attention_mask"]
    assert names_of({"model_type": "bert"}) == [*plain, "token_type_ids"]
    assert names_of({"model_type": "xlm-roberta"}) == plain
    assert names_of({"model_type": "deberta-v2", "type_vocab_size": 0}) == plain
    with pytest.raises(ModelError, match="`t5` is not an architecture"):
        names_of({"model_type": "t5"})


class Undecided(torch.nn.Module):
    """A model whose path depends on its data, which no graph can express."""

    config = SimpleNamespace(model_type="distilbert", to_dict=lambda: {"model_type": "distilbert"})

    def forward(self, input_ids, attention_mask):
        logits = input_ids.float() if input_ids.sum().item() > 3 else attention_mask.float()
        return SimpleNamespace(logits=logits)


def test_a_model_that_torch_cannot_trace_is_an_error_of_one_line():
    level = logging.getLogger("torch.onnx").level
    with pytest.raises(ExportError, match="torch cannot trace `distilbert`: ") as error:
        trace(Undecided(), family_of("distilbert"))
    assert "\n" not in str(error.value)
    assert logging.getLogger("torch.onnx").level == level


def test_the_error_gives_torchs_reason_without_colours_and_advice():
    with pytest.raises(ExportError) as error:
        trace(Undecided(), family_of("distilbert"))
    assert "\x1b" not in str(error.value)
    assert "Next steps" not in str(error.value)


def test_tracing_says_nothing_and_leaves_the_loggers_level_alone(artifacts, capfd):
    model = restore_task(open_artifact(artifacts["distilbert"]), "sst2", attention="eager")
    model.config.update({"note": "no graph of it is kept"})
    logger = logging.getLogger("torch.onnx")
    before, level = logger.level, logging.INFO
    logger.setLevel(level)
    capfd.readouterr()  # what was said while the artifact was made
    try:
        trace(model, family_of("distilbert"))
        assert logger.level == level
    finally:
        logger.setLevel(before)
    assert capfd.readouterr() == ("", "")
