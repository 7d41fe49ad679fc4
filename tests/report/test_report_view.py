"""An artifact's numbers for a report: where matrices lie, which options are told, what is confused."""

from __future__ import annotations

import numpy as np
import pytest

from maskpack.compressor import FitConfig
from maskpack.formats import open_artifact
from maskpack.formats.tensors import BitMask, Patch
from maskpack.report.view import heat_map, place_of, told_options, view_artifact
from maskpack.tasks.evaluation.metrics import Confusion, count_confusion


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("encoder.layer.3.attention.self.query.weight", ("3", "attention.self.query")),
        ("pooler.dense.weight", ("", "pooler.dense")),
        ("layers.11.mlp.gate_proj.weight", ("11", "mlp.gate_proj")),
        ("encoder.groups.0.layers.1.ffn.weight", ("0.1", "ffn")),
        ("h.0.c_attn.weight", ("0", "c_attn")),
    ],
)
def test_a_matrix_has_a_layer_and_a_part(name, place):
    assert place_of(name) == place


def test_layers_stand_in_the_order_of_numbers_and_gaps_are_none():
    def mask(zeros):
        keep = np.ones((2, 4), dtype=bool)
        keep.reshape(-1)[:zeros] = False
        return BitMask.from_bool(keep)

    names = {"l.10.a.weight": 4, "l.2.a.weight": 2, "l.2.b.weight": 0, "pooler.weight": 8}
    heat = heat_map(Patch({name: mask(zeros) for name, zeros in names.items()}, {}))
    assert heat.layers == ("2", "10", "")
    assert heat.parts == ("a", "b", "pooler")
    shares = [[None if cell is None else cell.share for cell in row] for row in heat.cells]
    assert shares == [[0.25, 0.5, None], [0.0, None, None], [None, None, 1.0]]
    assert heat.highest == 1.0
    assert heat_map(Patch({}, {})).highest == 0.0


def test_only_options_that_are_no_defaults_are_told():
    training = {**FitConfig(bits=2, seed=4).record(), "history": {"steps": "1"}, "later": 7}
    assert told_options(training) == {"bits": 2, "later": 7, "seed": 4}


def test_a_dense_copy_has_every_parameter_of_encoder_and_head(tiny_artifact, tiny_model):
    from transformers import BertModel

    encoder = sum(p.numel() for p in BertModel.from_pretrained(tiny_model).parameters())
    view = view_artifact(open_artifact(tiny_artifact))
    (task,) = view.tasks
    assert task.dense_bytes == 4 * (encoder + 2 * 32 + 2)
    assert view.widths == "4-bit"


def test_confusion_counts_true_against_given():
    found = count_confusion(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 0]), ("a", "b", "c"))
    assert found.counts == ((1, 1, 0), (0, 1, 0), (1, 0, 1))
    assert found.rows == 5
    assert found.recall == (0.5, 1.0, 0.5)
    assert found.precision == (0.5, 0.5, 1.0)
    assert found.mistakes(9) == [("a", "b", 1), ("c", "a", 1)]
    assert found.mistakes(1) == [("a", "b", 1)]
    assert Confusion(("a", "b"), ((0, 0), (0, 2))).recall == (None, 1.0)
