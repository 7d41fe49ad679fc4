"""Each seam takes a new entry that computes something else, from the first step to the last, and no file changes.

An entry is one object and one line in a registry. The task type, the mask pattern, the arithmetic and the layout below are the
examples of CONTRIBUTING.md, with the lines that it gives.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
import torch
import yaml

from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.compressor.backbone_config import QUANTIZERS, BackboneConfig
from maskpack.compressor.mask_config import ESTIMATORS, PATTERNS, SCORE_INITS, Estimator
from maskpack.compressor.masking.gates import Compared
from maskpack.compressor.masking.learner import MaskLearner
from maskpack.compressor.masking.score_init import ScoreInit
from maskpack.compressor.prepare import prepare
from maskpack.compressor.quantization import Quantizer
from maskpack.compressor.quantization.backbone import make_backbone
from maskpack.compressor.schedules import SCHEDULES, Schedule
from maskpack.compressor.stops import checkpoints_of
from maskpack.compressor.sweep import run as sweep
from maskpack.compressor.sweep.executors import EXECUTORS
from maskpack.compressor.sweep.file import read_plan
from maskpack.compressor.sweep.log import read_log
from maskpack.compressor.training.callbacks import TrainerCallback
from maskpack.exporters import ExportRequest, SharedRequest, Tolerance, export_onnx, export_shared
from maskpack.exporters.arithmetic import ARITHMETICS
from maskpack.exporters.layouts import LAYOUTS
from maskpack.formats import ConfigError, QuantTensor, open_artifact
from maskpack.models.placement import PLACEMENTS, CpuPlacement
from maskpack.runtime import Session
from maskpack.runtime.outputs import DECODERS
from maskpack.tasks import find_task
from maskpack.tasks.evaluation.evaluate import assess
from maskpack.tasks.preprocess import PREPROCESSORS
from maskpack.tasks.texts import TextPreprocessor
from maskpack.tasks.types import TASK_TYPES
from maskpack.tasks.types.single_label import SingleLabel

QUICK = FitConfig(
    bits=4, group=16, steps=30, batch_size=16, max_length=16, precision="fp32", teacher="none"
)
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


PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = dict(
    re.findall(r"^```python\n# (\S+)\.py\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
)


@pytest.fixture
def example(monkeypatch):
    """`example(path)`: the module of a path with the page's code for it in it, new or beside what is there."""

    def made(path: str) -> ModuleType:
        name = f"maskpack.{path.replace('/', '.')}"
        module = ModuleType(name)
        if (Path(__file__).parents[1] / f"{path}.py").exists():
            vars(module).update(vars(importlib.import_module(name)))
        else:
            monkeypatch.setitem(sys.modules, name, module)
        exec(compile(BLOCKS[path], f"CONTRIBUTING.md: {path}", "exec"), vars(module))
        return module

    return made


def line_of(registry: str) -> str:
    """The line that the page adds to a registry."""
    (line,) = re.findall(rf"^\| `{registry}` in `\S+` \| `(.*)` \|$", PAGE, flags=re.MULTILINE)
    return line


def test_the_page_has_an_example_for_each_of_four_seams():
    assert list(BLOCKS) == [
        "tasks/types/logarithm",
        "runtime/outputs",
        "compressor/masking/rows",
        "exporters/arithmetic/half",
        "exporters/layouts/nested",
    ]


def test_a_type_of_task(monkeypatch, tmp_path, tiny_model, example):
    """Labels, loss and outputs of a type of task that the release does not have."""
    one = eval(line_of("TASK_TYPES"), vars(example("tasks/types/logarithm")))
    monkeypatch.setitem(TASK_TYPES, one.name, one)
    entry = eval(f"{{{line_of('DECODERS')}}}", vars(example("runtime/outputs")))
    monkeypatch.setitem(DECODERS, *entry.popitem())
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


@pytest.fixture
def rows(monkeypatch, example):
    """The page's pattern of masks in its registry."""
    add_lazily(monkeypatch, example, "PATTERNS", "compressor/masking/rows")


@pytest.mark.usefixtures("rows")
def test_a_pattern_of_masks(tmp_path, tiny_model, sentiment):
    out = tmp_path / "artifact"
    config = replace(QUICK, sparsity=0.4, init="constant", pattern="row")
    result = fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment))
    found = masks(out)
    for name, mask in found.items():
        live = open_artifact(out).backbone.linears[name].codes != 0  # the others count as kept
        kept = (mask & live).sum(axis=1)
        assert ((kept == 0) | (kept == live.sum(axis=1))).all(), f"{name}: a row goes as a whole"
    assert 0.2 < result.zeros / result.weights < 0.6
    assert any(mask.any() and not mask.all() for mask in found.values())


@pytest.mark.usefixtures("rows")
def test_a_checkpoint_belongs_to_one_pattern(tmp_path, tiny_model, sentiment):
    request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", QUICK, data=sentiment)
    keys = set()
    for pattern in ("weight", "row"):
        changed = replace(request, config=replace(QUICK, pattern=pattern))
        keys.add(checkpoints_of(prepare(changed)).key)
    assert len(keys) == 2
    with pytest.raises(ConfigError, match="no pattern `nope`") as caught:
        replace(QUICK, pattern="nope")
    assert caught.value.hint == f"patterns: {', '.join(PATTERNS)}"


class Spared(TrainerCallback):
    """At the end the first matrix keeps all of its weights."""

    def __init__(self, learning):
        self.first = next(iter(learning.layers.values()))

    def on_step_end(self, step, steps):
        if step == steps:
            self.first.threshold.fill_(-torch.inf)


@dataclass(frozen=True)
class Mirrored(Compared):
    """A weight is kept where its score is below the threshold."""

    def strength(self, score):
        return -score


def by_column(given):
    return torch.arange(given.weight.shape[1]).expand(given.weight.shape).float()


def test_an_estimator_and_an_initialisation(monkeypatch, tmp_path, tiny_model, sentiment):
    """Scores that rise from column to column and are read with their sign turned: the last columns go."""
    module = ModuleType("maskpack.compressor.masking.mirrored")
    module.MIRRORED = MaskLearner(lambda one: [Spared(one)], gate=lambda draw: Mirrored())
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(ESTIMATORS, "mirrored", Estimator(f"{module.__name__}:MIRRORED"))
    monkeypatch.setitem(SCORE_INITS, "column", ScoreInit(by_column))
    config = replace(QUICK, estimator="mirrored", init="column", sparsity=0.5, margin=1e3)
    out = tmp_path / "artifact"
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment))
    assert open_artifact(out).entry("sst2").training["estimator"] == "mirrored"
    whole = [name for name, mask in masks(out).items() if mask.all()]
    assert len(whole) == 1
    for name, mask in masks(out).items():
        if name in whole:
            continue
        live = open_artifact(out).backbone.linears[name].codes != 0  # the others count as kept
        kept, there = (each.sum(axis=0) for each in (mask & live, live))
        last = int(np.flatnonzero(kept).max())
        assert (kept[:last] == there[:last]).all(), f"{name}: columns stay from the left"
        assert 0.3 < (live & ~mask).mean() <= 0.5
    with pytest.raises(ConfigError, match="estimator mirrored needs a share of zeros"):
        replace(QUICK, estimator="mirrored")
    with pytest.raises(ConfigError, match="no estimator `nope`") as caught:
        replace(QUICK, estimator="nope")
    assert caught.value.hint == f"estimators: {', '.join(ESTIMATORS)}"


def add_lazily(monkeypatch, example, registry, path):
    """The page's line in a registry whose entries are loaded on first use."""
    name, target = re.fullmatch(r'(\w+)="(\S+)"', line_of(registry)).groups()
    module = example(path)
    assert target.partition(":")[0] == module.__name__
    table = {"ARITHMETICS": ARITHMETICS, "LAYOUTS": LAYOUTS, "PATTERNS": PATTERNS}[registry]
    monkeypatch.setitem(table, name, target)
    assert table[name] in vars(module).values(), "loaded when it is asked for"


def test_an_arithmetic(monkeypatch, tmp_path, usual, sentiment, example):
    add_lazily(monkeypatch, example, "ARITHMETICS", "exporters/arithmetic/half")
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


def test_a_layout(monkeypatch, tmp_path, usual, sentiment, example):
    add_lazily(monkeypatch, example, "LAYOUTS", "exporters/layouts/nested")
    out = tmp_path / "graphs"
    request = SharedRequest(
        usual, (), out, "fp32", EXACT, data={"sst2": sentiment}, layout="nested"
    )
    (report,) = export_shared(request).values()
    assert report.ok
    assert (out / "sst2" / "model.onnx").is_file()
    assert not (out / "backbone.bin").exists()
    assert Session(out).predict(["a great film"])[0].label in {"negative", "positive"}


def do_elsewhere(run, threads, *, on_progress):
    """The run, and the process that it was done in as its time."""
    torch.set_num_threads(threads)
    return replace(sweep.do_run(run, on_progress=on_progress), seconds=float(os.getpid()))


def test_a_quantiser(monkeypatch, tmp_path, tiny_model, sentiment):
    """Signs alone, with a scale of a tenth."""

    def signs(weight, bits, group):
        codes = np.where(weight < 0, -1, 1).astype(np.int8)
        scales = np.full((len(weight), 1), 0.1, np.float32)
        return QuantTensor(codes, scales, bits, weight.shape[1])

    monkeypatch.setitem(QUANTIZERS, "signs", Quantizer(signs))
    config = replace(QUICK, quantizer="signs")
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment))
    artifact = open_artifact(tmp_path / "a")
    assert artifact.manifest.scheme.quantizer == "signs"
    assert all(set(np.unique(t.codes)) == {-1, 1} for t in artifact.backbone.linears.values())


def test_a_schedule(monkeypatch, tmp_path, tiny_model, sentiment, usual):
    """Rates that fall by halves."""
    halves = Schedule(lambda step, span: 0.5 ** (5 * step / span.steps))
    monkeypatch.setitem(SCHEDULES, "halves", halves)
    config = replace(QUICK, schedule="halves")
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", config, data=sentiment))
    assert not same(masks(tmp_path / "a"), masks(usual))
    assert open_artifact(tmp_path / "a").entry("sst2").training["schedule"] == "halves"


class Processes:
    """Each run in a process of its own."""

    def __init__(self, options):
        self.threads = options.resources.cpus

    def execute(self, runs, attempt):
        fresh = multiprocessing.get_context("spawn")
        for run in runs:
            with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                attempt(run, do=lambda each, *, on_progress: self.send(pool, each))

    def send(self, pool, run):
        return pool.submit(do_elsewhere, run, self.threads, on_progress=print).result()


def test_an_executor(monkeypatch, tmp_path, tiny_model, sentiment):
    monkeypatch.setitem(EXECUTORS, "processes", Processes)
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
    monkeypatch.setitem(
        PLACEMENTS, "rounding", lambda device, precision: CpuPlacement("cpu", "bf16")
    )
    request = FitRequest(str(tiny_model), find_task("sst2"), tmp_path / "a", QUICK, data=sentiment)
    fit_task(replace(request, device="rounding"))
    assert not same(masks(tmp_path / "a"), masks(usual)), "its steps are rounded"
    fit_task(replace(request, device="cpu", out=tmp_path / "b"))
    assert same(masks(tmp_path / "b"), masks(usual))


def test_codes_are_refined_on_the_device_that_was_asked_for(monkeypatch, tmp_path, tiny_model):
    """By the name of its entry, not by torch's name of the device."""
    asked = []

    def made(device, precision):
        asked.append(precision)
        return CpuPlacement.of("cpu", precision)

    monkeypatch.setitem(PLACEMENTS, "rounding", made)
    narrow = BackboneConfig(bits=2, group=16, refine=1)
    make_backbone(str(tiny_model), tmp_path / "a", narrow, device="rounding")
    assert asked == ["auto"]
