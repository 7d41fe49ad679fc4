"""Each seam takes a new entry that computes something else, from the first step to the last, and no file changes.

An entry is one object and one line in a table; the tests below are what whoever adds one writes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import yaml

from maskpack.compressor import FitConfig, FitRequest, fit, fit_task
from maskpack.compressor.config import BackboneConfig
from maskpack.compressor.masking.patterns import PATTERNS
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.compressor.sweep import run as sweep
from maskpack.compressor.sweep.executors import EXECUTORS
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.log import read_log
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.arithmetic.fp32 import FP32, emit_fp32
from maskpack.exporters.graph.builder import serialize
from maskpack.exporters.layouts import LAYOUTS
from maskpack.exporters.layouts.base import GraphLayout, TaskGraph
from maskpack.formats import ConfigError, open_artifact
from maskpack.formats.writer import write_bytes
from maskpack.models.placement import PLACEMENTS, CpuPlacement
from maskpack.runtime import Session
from maskpack.runtime.outputs import DECODERS, OutputDecoder, Prediction
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.preprocess import PREPROCESSORS, TextPreprocessor
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.regression import Regression
from maskpack.tasks.types.single_label import SingleLabel

QUICK = FitConfig(bits=4, group=16, steps=30, batch_size=16, max_length=16, precision="fp32")
EXACT = Tolerance(1e-4, 100.0)


@pytest.fixture(scope="module")
def usual(tmp_path_factory, tiny_model, sentiment) -> Path:
    """What the same run makes without any new entry."""
    out = tmp_path_factory.mktemp("usual") / "artifact"
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, QUICK, data=sentiment))
    return out


def masks(artifact: Path) -> dict[str, np.ndarray]:
    """Parameter -> its mask, true where the weight stays."""
    patch = open_artifact(artifact).patch("sst2")
    return {name: mask.to_bool() for name, mask in patch.masks.items()}


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    assert left.keys() == right.keys()
    return all(np.array_equal(left[name], right[name]) for name in left)


class Logarithm(Regression):
    """A number above 0, learned as its logarithm."""

    name = "logarithm"
    problem_type = "regression"

    def encode(self, cells, names, separator, split):
        return np.log(super().encode(cells, names, separator, split))


def test_a_type_of_task(monkeypatch, tmp_path, tiny_model):
    """Labels, loss and outputs of a kind of task that nobody knew."""
    monkeypatch.setitem(TASK_TYPES, "logarithm", Logarithm())
    number = DECODERS["regression"]
    powers = lambda labels, logits: [Prediction(None, float(np.exp(row[0])), {}) for row in logits]  # noqa: E731
    monkeypatch.setitem(DECODERS, "logarithm", OutputDecoder(False, powers, number.same))
    rows = [f"{'great ' * (n % 5)}film,{10.0 ** (n % 5)}" for n in range(60)]
    data = tmp_path / "sizes.csv"
    data.write_text("\n".join(["text,size", *rows]) + "\n")
    task = find_task("sizes", text_field="text", label_field="size", kind="logarithm")

    artifact, out = tmp_path / "artifact", tmp_path / "graph"
    longer = replace(QUICK, steps=120)
    result = fit_task(FitRequest(str(tiny_model), task, artifact, longer, data=data))
    assert open_artifact(artifact).entry("sizes").kind == "logarithm"
    assert result.scores["spearman"] > result.majority["spearman"] + 0.5

    report = export_onnx(ExportRequest(artifact, "sizes", out, "fp32", EXACT, data=data))
    assert report.ok
    few, many = Session(out).predict(["film", "great great great great film"])
    assert 0 < few.score < many.score, "numbers come back as numbers, not as logarithms"
    assert many.score > 100, "the logarithm of the largest is 9.2"


@dataclass(frozen=True, eq=False)
class Backwards(TextPreprocessor):
    """The words of a text from the last to the first."""

    def encode(self, split, *, max_length):
        turned = tuple(tuple(" ".join(t.split()[::-1]) for t in row) for row in split.texts)
        return super().encode(replace(split, texts=turned), max_length=max_length)


class ReadBackwards(SingleLabel):
    """A label of a text that is read from its end."""

    name = "backwards"
    preprocessor = "backwards"


def test_a_preprocessor(monkeypatch, tmp_path, tiny_model):
    """Whether `good` stands before or after `film`: learned either way, from other tokens."""
    monkeypatch.setitem(TASK_TYPES, "backwards", ReadBackwards())
    monkeypatch.setitem(DECODERS, "backwards", DECODERS["classification"])
    monkeypatch.setitem(PREPROCESSORS, "backwards", Backwards.of_files)
    rows = [
        f"{'good film' if n % 2 else 'film good'} {'the ' * (n % 4)},{n % 2}" for n in range(80)
    ]
    data = tmp_path / "order.csv"
    data.write_text("\n".join(["text,label", *rows]) + "\n")
    scores = {}
    for kind in ("classification", "backwards"):
        task = find_task("order", text_field="text", label_field="label", kind=kind)
        out = tmp_path / kind
        fit_task(FitRequest(str(tiny_model), task, out, QUICK, data=data))
        scores[kind] = assess(open_artifact(out), "order", data=data)
    out = tmp_path / "graph"
    report = export_onnx(ExportRequest(tmp_path / kind, "order", out, "fp32", EXACT, data=data))
    assert report.ok, "the verdict reads the rows as the task does"
    assert not same_file(tmp_path / "classification", tmp_path / "backwards", "order")


def same_file(left: Path, right: Path, task: str) -> bool:
    files = [path / open_artifact(path).entry(task).file for path in (left, right)]
    return files[0].read_bytes() == files[1].read_bytes()


class RowPattern:
    """A score a row of a matrix: an output is kept with all its weights, or goes with all of them."""

    def score_shape(self, weight):
        return (weight[0], 1)

    def expand(self, scores, weight):
        return scores.expand(weight)

    def reduce(self, values):
        return values.sum(dim=1, keepdim=True)


def test_a_pattern_of_masks(monkeypatch, tmp_path, tiny_model, sentiment):
    monkeypatch.setitem(PATTERNS, "row", RowPattern())
    out = tmp_path / "artifact"
    config = replace(QUICK, sparsity=0.4, init="constant")
    request = FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment)
    result = fit_task(replace(request, pattern="row"))
    found = masks(out)
    for name, mask in found.items():
        live = open_artifact(out).backbone.linears[name].codes != 0  # the others count as kept
        kept = (mask & live).sum(axis=1)
        assert ((kept == 0) | (kept == live.sum(axis=1))).all(), f"{name}: a row goes as a whole"
    assert 0.2 < result.zeros / result.weights < 0.6
    assert any(mask.any() and not mask.all() for mask in found.values())


def test_a_checkpoint_belongs_to_one_pattern(monkeypatch, tmp_path, tiny_model, sentiment):
    monkeypatch.setitem(PATTERNS, "row", RowPattern())
    request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", QUICK, data=sentiment)
    keys = {fit._checkpoints(fit.prepare(replace(request, pattern=one))).key for one in PATTERNS}
    assert len(keys) == len(PATTERNS) == 2
    with pytest.raises(ConfigError, match="no pattern `nope`") as caught:
        fit.prepare(replace(request, pattern="nope"))
    assert caught.value.hint == "patterns: weight, row"


def emit_half(editor, inputs, tensor, context):
    """The product in float16."""
    half = editor.cast(
        emit_fp32(editor, inputs, tensor, context), ir.DataType.FLOAT16, label="half"
    )
    return editor.cast(half, ir.DataType.FLOAT, label="back")


def test_an_arithmetic(monkeypatch, tmp_path, usual, sentiment):
    half = replace(FP32, name="half", emit=emit_half, tolerance=Tolerance(0.05, 100.0))
    monkeypatch.setitem(ARITHMETICS, "half", half)
    reports = {}
    for compute in ("fp32", "half"):
        request = ExportRequest(
            usual, "sst2", tmp_path / compute, compute, Tolerance.of(compute), data=sentiment
        )
        reports[compute] = export_onnx(request)
        assert reports[compute].ok
    casts = [
        node
        for node in onnx.load(str(tmp_path / "half" / "model.onnx")).graph.node
        if node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.FLOAT16
    ]
    assert len(casts) == 13, "six linears of two layers, and the pooler"
    far, near = (reports[name].accuracy.max_diff for name in ("half", "fp32"))
    assert far > 10 * near, "the product is rounded"


def write_nested(builder, entries, folder):
    """A folder a task, with its own weights in it, as `folded` has them."""
    for entry in entries:
        home = folder / entry.name
        home.mkdir()
        write_bytes(home / "model.onnx", serialize(builder.folded(entry)))
        write_bytes(home / "tokenizer.json", builder.artifact.file("tokenizer.json"))
        yield TaskGraph(entry, home / "model.onnx", home / "task.json")


def test_a_layout(monkeypatch, tmp_path, usual, sentiment):
    monkeypatch.setitem(LAYOUTS, "nested", GraphLayout("nested", write_nested))
    out = tmp_path / "graphs"
    request = SharedRequest(
        usual, (), out, "fp32", EXACT, data={"sst2": sentiment}, layout="nested"
    )
    (report,) = export_shared(request).values()
    assert report.ok
    assert (out / "sst2" / "model.onnx").is_file()
    assert not (out / "backbone.bin").exists()
    assert Session(out).predict(["a great film"])[0].label in {"negative", "positive"}


def do_elsewhere(run, *, on_progress):
    """The run, and the process that it was done in as its time."""
    torch.set_num_threads(1)
    return replace(sweep.do_run(run, on_progress=on_progress), seconds=float(os.getpid()))


class Processes:
    """Each run in a process of its own."""

    def execute(self, runs, attempt):
        fresh = multiprocessing.get_context("spawn")
        for run in runs:
            with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                attempt(run, do=lambda each, *, on_progress: send(pool, each))


def send(pool, run):
    return pool.submit(do_elsewhere, run, on_progress=print).result()


def test_an_executor(monkeypatch, tmp_path, tiny_model, sentiment):
    monkeypatch.setitem(EXECUTORS, "processes", Processes())
    plan = {
        "models": [str(tiny_model)],
        "tasks": {"sst2": {"data": str(sentiment)}},
        "options": {"steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "methods": {"mask": {"bits": 4, "group": 16}},
    }
    lines = {}
    for executor in ("local", "processes"):
        path = tmp_path / executor / "plan.yaml"
        path.parent.mkdir()
        path.write_text(yaml.safe_dump(plan))
        made = read_plan(path)
        options = {"watch": lambda run: nullcontext(print), "failed": pytest.fail}
        assert sweep.run_sweep(made.runs, made.out, executor=executor, **options) == ()
        (lines[executor],) = read_log(made.out).lines
    spent = {name: line.pop("seconds") for name, line in lines.items()}
    assert spent["processes"] == int(spent["processes"]) != os.getpid(), "another process did it"
    assert json.dumps(lines["local"]) == json.dumps(lines["processes"])


def test_a_placement(monkeypatch, tmp_path, tiny_model, sentiment, usual):
    """A device that multiplies in bfloat16 whatever it is asked for."""
    monkeypatch.setitem(PLACEMENTS, "rounding", lambda precision: CpuPlacement("cpu", bf16=True))
    request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", QUICK, data=sentiment)
    fit_task(replace(request, device="rounding"))
    assert not same(masks(tmp_path / "a"), masks(usual)), "its steps are rounded"
    fit_task(replace(request, device="cpu", out=tmp_path / "b"))
    assert same(masks(tmp_path / "b"), masks(usual))


def test_codes_are_refined_on_the_device_that_was_asked_for(monkeypatch, tmp_path, tiny_model):
    """By the name of its entry, not by torch's name of the device."""
    asked = []

    def made(precision):
        asked.append(precision)
        return CpuPlacement.of(precision)

    monkeypatch.setitem(PLACEMENTS, "rounding", made)
    narrow = BackboneConfig(bits=2, group=16, refine=1)
    make_backbone(str(tiny_model), tmp_path / "a", narrow, device="rounding")
    assert asked == ["auto"]
