"""The trunk layout: one pass over the lower layers serves all tasks, and each answers as in the shared layout."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from export_kit import shared_request
from matrix import matrix
from unit_kit import units_removed

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.export import export_shared
from maskpack.exporters.session import make_session, token_feeds
from maskpack.formats import ConfigError, ExportError, open_artifact
from maskpack.runtime import Session
from maskpack.tasks import find_task

FAMILIES = (
    *("bert", "gpt2", "distilbert", "roberta", "electra"),
    *("llama", "modernbert", "xlnet", "deberta-v2"),
)
EXACT = 1e-4  # of a logit; what fp32 graphs promise
TEXTS = ["a good film", "bad", "the plot is thin and the acting is bad"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, family_models, sentiment):
    """`trained(kind, bits)`: an artifact of two tasks, `one` and `two`, whose masks lie on the last layer alone."""
    made = {}

    def make(kind, bits=8):
        if (kind, bits) not in made:
            out = tmp_path_factory.mktemp("trained") / "artifact"
            for name, seed in (("one", 0), ("two", 1)):
                config = FitConfig(
                    bits=bits,
                    group=0 if bits == 8 else 16,
                    steps=4,
                    batch_size=16,
                    max_length=16,
                    precision="fp32",
                    teacher="none",
                    margin=0.3,
                    layers="1",
                    seed=seed,
                )
                model, task = str(family_models(kind)), find_task("sst2")
                fit_task(FitRequest(model, task, out, config, data=sentiment, name=name))
            made[kind, bits] = out
        return made[kind, bits]

    return make


def export(artifact, out, compute="fp32", layout="trunk", **options):
    reports = export_shared(shared_request(artifact, out, compute, layout=layout, **options))
    for report in reports.values():
        assert report.ok, report.findings
    return out


def logits(folder, task):
    """Of random tokens, two shapes."""
    session = make_session(folder / f"{task}.onnx", threads=1)
    shapes = ((1, 7), (3, 12))
    feeds = [token_feeds(session, batch=b, length=s, vocabulary=40) for b, s in shapes]
    for each in feeds:
        each["attention_mask"][-1, -2:] = 0
    return [session.run(["logits"], each)[0] for each in feeds]


@pytest.mark.parametrize(
    ("kind", "compute", "bits"), matrix(FAMILIES, ["fp32", "int8", "nbits"], [8, 4])
)
def test_a_trunk_and_a_top_are_the_graph_of_the_shared_layout(
    trained, tmp_path, kind, compute, bits
):
    artifact = trained(kind, bits)
    reports = export_shared(
        shared_request(artifact, tmp_path / "trunk", compute, layout="trunk")
    )
    export(artifact, tmp_path / "shared", compute, layout="shared", verify=False)
    for task, report in reports.items():
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > 0
        if compute == "fp32":
            assert max(check.max_diff for check in report.values) <= EXACT
        for left, right in zip(
            *(logits(tmp_path / layout, task) for layout in ("trunk", "shared")), strict=True
        ):
            np.testing.assert_array_equal(left, right)
