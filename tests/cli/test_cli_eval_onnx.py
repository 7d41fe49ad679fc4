"""`compress eval --onnx`: the metrics of an exported graph, its texts read as a device reads them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest


@pytest.fixture(scope="module")
def graph(tmp_path_factory, tiny_artifact):
    """An exported task."""
    from maskpack.exporters import ExportRequest, Tolerance, export_onnx

    out = tmp_path_factory.mktemp("eval") / "graph"
    tolerance = Tolerance.of("fp32")
    export_onnx(ExportRequest(tiny_artifact, "sst2", out, "fp32", tolerance, verify=False))
    return out


def test_an_exact_graph_has_the_metrics_of_its_torch_model(main, tiny_artifact, sentiment, graph):
    args = ["eval", tiny_artifact, "--data", sentiment, "--json"]
    torch, graphs = main(*args).json, main(*args, "--onnx", graph).json
    assert graphs == torch
    assert graphs["same_data"]


def test_logits_come_back_in_the_order_of_the_texts(tiny_artifact, sentiment, graph):
    from maskpack.formats import open_artifact
    from maskpack.runtime import Session
    from maskpack.tasks.evaluation.evaluate import predict_split

    wanted = predict_split(open_artifact(tiny_artifact), "sst2", data=sentiment)
    texts = [text for (text,) in wanted.split.texts]
    found = Session(graph).logits(texts, batch_size=5)
    assert np.abs(found - wanted.logits).max() < 1e-4
    assert np.abs(found[1:] - found[:-1]).max() > 1e-2


def test_the_graph_answers_and_not_the_torch_model(main, tiny_artifact, sentiment, graph, work):
    """The graph of a head that is sure of the first label."""
    model = onnx.load(graph / "model.onnx")
    bias = next(one for one in model.graph.initializer if one.name.endswith("classifier.bias"))
    value = onnx.numpy_helper.to_array(bias) + np.array([9, -9], np.float32)
    bias.CopyFrom(onnx.numpy_helper.from_array(value, bias.name))
    shutil.copytree(graph, work / "other")
    onnx.save(model, work / "other" / "model.onnx")
    args = ["eval", tiny_artifact, "--data", sentiment, "--json"]
    found = main(*args, "--onnx", "other").json
    assert [one["given"] for one in found["classes"]] == [32, 0]


def test_a_graph_of_other_labels_is_refused(main, tiny_artifact, sentiment, graph, work):
    shutil.copytree(graph, work / "other")
    config = json.loads((graph / "task.json").read_text())
    (work / "other" / "task.json").write_text(json.dumps({**config, "labels": ["a", "b"]}))
    found = main("eval", tiny_artifact, "--data", sentiment, "--onnx", "other")
    assert (found.code, found.out) == (1, "")
    assert "`sst2` at `other` has the labels a, b, in" in found.err


def test_what_only_a_graph_has_is_refused_without_one(main, tiny_artifact, sentiment):
    found = main("eval", tiny_artifact, "--data", sentiment, "--provider", "cpu")
    assert (found.code, found.err[:30]) == (1, "error: `--provider` is for `--")


WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
from pathlib import Path
from maskpack.formats import open_artifact
from maskpack.tasks.evaluation.exported import assess_exported
artifact, graph, data = map(Path, sys.argv[1:])
print(assess_exported(open_artifact(artifact), graph, data=data).to_json())
"""


def test_a_graph_is_evaluated_without_torch(main, tiny_artifact, sentiment, graph, environment):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(tiny_artifact), str(graph), str(sentiment)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = main("eval", tiny_artifact, "--data", sentiment, "--onnx", graph, "--json").json
    assert json.loads(done.stdout) == expected
