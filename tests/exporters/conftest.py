"""Artifacts and exported folders, each made once: tracing a tiny graph takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnx
import pytest


@dataclass(frozen=True)
class Exported:
    """One exported folder and where it came from. Read only."""

    kind: str
    folder: Path
    artifact_path: Path
    compute: object
    report: object

    @property
    def graph(self) -> Path:
        return self.folder / "model.onnx"

    def proto(self) -> onnx.ModelProto:
        """A fresh copy of the graph, free to be changed."""
        return onnx.load(str(self.graph))

    @cached_property
    def artifact(self):
        from maskpack.formats import open_artifact

        return open_artifact(self.artifact_path)

    @property
    def base(self) -> str:
        from maskpack.models.families import family_of

        return family_of(self.artifact.manifest.source.model_type).base

    def arrays(self) -> dict[str, np.ndarray]:
        """Initialisers of the graph by name."""
        initializers = self.proto().graph.initializer
        return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in initializers}

    def keeps(self) -> dict[str, np.ndarray]:
        """Parameter of the encoder -> its mask, true where the weight stays."""
        masks = self.artifact.patch("sst2").masks
        return {name: mask.to_bool() for name, mask in masks.items()}

    def stem(self, parameter: str) -> str:
        """What the names of a parameter's codes and scales start with."""
        return f"{self.base}.{parameter.removesuffix('.weight')}"


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory, tiny_models, tiny_artifact, sentiment) -> dict[str, Path]:
    """Architecture -> artifact with 8-bit rows, learned when it is asked for; `grouped`: a BERT with 4-bit groups.

    The narrow margin lets the masks remove about a weight in ten, so that a zero at the wrong place
    shows. The BERT holds a second task, `other`.
    """
    from maskpack.compressor import FitConfig, FitRequest, fit_task
    from maskpack.tasks import find_task

    root = tmp_path_factory.mktemp("artifacts")
    options = {
        "steps": 12,
        "batch_size": 16,
        "max_length": 16,
        "precision": "fp32",
        "teacher": "none",
        "margin": 0.5,
    }

    class Learned(dict):
        def __missing__(self, kind: str) -> Path:
            model, task = str(tiny_models[kind]), find_task("sst2")
            for name, seed in (("sst2", 0), ("other", 1))[: 2 if kind == "bert" else 1]:
                config = FitConfig(bits=8, seed=seed, **options)
                fit_task(FitRequest(model, task, root / kind, config, data=sentiment, name=name))
            self[kind] = root / kind
            return self[kind]

    return Learned(grouped=tiny_artifact)


@pytest.fixture(scope="session")
def exported(tmp_path_factory, artifacts, sentiment) -> Callable[..., Exported]:
    """`exported(kind, compute, task)`: the exported folder, with its verdict, made on first use."""
    from maskpack.exporters import Compute, ExportRequest, Tolerance, export_onnx

    root = tmp_path_factory.mktemp("exported")

    @cache
    def export(kind: str, compute: str, task: str) -> Exported:
        kind_of = Compute(compute)
        # Untrained encoders sit on the fence: one argmax may differ. The logits are what counts.
        tolerance = Tolerance.of(kind_of, max_drop=100.0, rtol=0.5)
        out = root / f"{kind}-{compute}-{task}"
        request = ExportRequest(artifacts[kind], task, out, kind_of, tolerance, data=sentiment)
        report = export_onnx(request)
        assert report is not None
        assert report.ok, report.findings
        return Exported(kind, out, artifacts[kind], kind_of, report)

    return lambda kind, compute, task="sst2": export(kind, compute, task)


@pytest.fixture(scope="session")
def laid_out(tmp_path_factory, artifacts) -> Callable[..., tuple[Path, dict[str, object]]]:
    """`laid_out(kind, compute, layout)`: a folder over one backbone.bin, and its verdicts.

    Made on first use. Read only.
    """
    from export_kit import shared_request

    from maskpack.exporters.export import export_shared
    from maskpack.exporters.options import Layout

    root = tmp_path_factory.mktemp("laid-out")

    @cache
    def make(kind: str, compute: str, layout: str) -> tuple[Path, dict[str, object]]:
        out = root / f"{kind}-{compute}-{layout}"
        request = shared_request(artifacts[kind], out, compute, layout=Layout(layout))
        return out, export_shared(request)

    return make


@pytest.fixture(scope="session")
def shared(laid_out) -> Callable[[str, str], tuple[Path, dict[str, object]]]:
    """`shared(kind, compute)`: a graph for each task, and the verdicts."""
    return lambda kind, compute: laid_out(kind, compute, "shared")


@pytest.fixture(scope="session")
def swapped(laid_out) -> Callable[[str, str], tuple[Path, dict[str, object]]]:
    """`swapped(kind, compute)`: one graph with an adapter for each task, and the verdicts."""
    return lambda kind, compute: laid_out(kind, compute, "swap")


@pytest.fixture(scope="session")
def traced(artifacts) -> Callable[[str], onnx.ModelProto]:
    """`traced(kind)`: the float graph as the tracer leaves it, before any rewrite."""
    import onnx_ir as ir

    from maskpack.exporters.graph.trace import trace
    from maskpack.formats import open_artifact
    from maskpack.models.families import family_of
    from maskpack.tasks.context import restore_task

    def make(kind: str) -> onnx.ModelProto:
        model = restore_task(open_artifact(artifacts[kind]), "sst2", attention="eager")
        return ir.serde.serialize_model(trace(model, family_of(model.config.model_type)))

    return make


@pytest.fixture(scope="session")
def tokens() -> Callable[..., dict[str, np.ndarray]]:
    """`tokens(names, batch, sequence)`: random tokens, both token types, ragged padding at will."""

    def make(names, batch: int, sequence: int, *, padded: bool = False) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([batch, sequence])
        ids = rng.integers(5, 50, (batch, sequence), dtype=np.int64)
        attention = np.ones_like(ids)
        if padded:
            for row in range(batch):
                attention[row, sequence - row :] = 0
            ids[attention == 0] = 0
        every = {
            "input_ids": ids,
            "attention_mask": attention,
            "token_type_ids": rng.integers(0, 2, ids.shape, dtype=np.int64) * attention,
        }
        return {name: every[name] for name in names}

    return make


@pytest.fixture(scope="session")
def tagger(tmp_path_factory, tiny_model, sentiment, quick) -> tuple[Path, Path]:
    """An artifact with a classifier, `sst2`, and a task that finds entities, `names`; the rows of the latter. Read only."""
    from test_entity_graphs import names

    from maskpack.compressor import FitRequest, fit_task
    from maskpack.tasks import find_task

    root = tmp_path_factory.mktemp("tagger")
    for split, rows in (("train", 120), ("dev", 40)):
        lines = ["\n".join(map("\t".join, zip(*row, strict=True))) for row in names(rows, rows)]
        (root / f"{split}.conll").write_text("\n\n".join(lines))
    options = quick(steps=150, max_length=32, head_lr=0.3)
    kind = "token-classification"
    task = find_task("names", text_field="text", label_field="label", kind=kind)
    place = root / "artifact"
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), place, quick(), data=sentiment))
    fit_task(FitRequest(str(tiny_model), task, place, options, data=root))
    return place, root


@pytest.fixture(scope="session")
def tagged_exports(tmp_path_factory, tagger) -> Callable[[str], Path]:
    """`tagged_exports(layout)`: a folder with both tasks, made on first use. Read only."""
    return layouts_of(tagger[0], tmp_path_factory.mktemp("tagged"))


def layouts_of(artifact: Path, root: Path) -> Callable[[str], Path]:
    """All tasks of an artifact as fp32 graphs of a layout, not verified."""
    from maskpack.exporters import Tolerance
    from maskpack.exporters.export import export_shared
    from maskpack.exporters.options import SharedRequest

    @cache
    def make(layout: str) -> Path:
        out, tolerance = root / layout, Tolerance.of("fp32")
        request = SharedRequest(artifact, (), out, "fp32", tolerance, verify=False, layout=layout)
        export_shared(request)
        return out

    return make


@pytest.fixture(scope="session")
def asker(tmp_path_factory, tiny_model, sentiment, quick) -> tuple[Path, Path]:
    """An artifact with a classifier, `sst2`, and what answers questions over windows of 32 tokens, `asked`; the rows of the latter.

    Read only.
    """
    from test_question_graphs import questions

    from maskpack.compressor import FitRequest, fit_task
    from maskpack.tasks import find_task

    root = tmp_path_factory.mktemp("asker")
    for name, rows in (("train", 160), ("dev", 40)):
        lines = (json.dumps(row) for row in questions(rows, rows))
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    fields = {"text_field": "question", "pair_field": "context", "label_field": "answers"}
    task = find_task("asked", **fields, kind="question-answering", stride=8)
    place, plan = root / "artifact", {"layers": "1"}  # the lower layer may be a trunk
    sst2 = FitRequest(str(tiny_model), find_task("sst2"), place, quick(**plan), data=sentiment)
    fit_task(sst2)
    options = quick(steps=150, max_length=32, head_lr=0.3, **plan)
    fit_task(FitRequest(str(tiny_model), task, place, options, data=root))
    return place, root


@pytest.fixture(scope="session")
def asked_exports(tmp_path_factory, asker) -> Callable[[str], Path]:
    """`asked_exports(layout)`: a folder with both tasks, made on first use. Read only."""
    return layouts_of(asker[0], tmp_path_factory.mktemp("asked"))
