"""Size, memory, latency and error side by side, each from a process that says what it saw."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from maskpack.exporters import Compute, Tolerance
from maskpack.exporters.bench import run as benching
from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory, read_memory
from maskpack.exporters.bench.reference import PEERS
from maskpack.exporters.bench.result import AllTasks, Cell, read_cpuinfo, this_machine
from maskpack.exporters.bench.run import REFERENCE, BenchRequest, bench, weight_files
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import SharedRequest
from maskpack.exporters.session import Spent
from maskpack.formats import ConfigError, DataError, ExportError
from maskpack.formats.errors import ArtifactError
from maskpack.runtime.outputs import DECODERS

SMALL = {"batches": (1, 2), "lengths": (8,), "threads": (1,), "runs": 1}
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc is Linux's")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, artifacts):
    """Two tasks of the tiny BERT over one file of weights."""
    out = tmp_path_factory.mktemp("bench") / "all"
    tolerance = Tolerance.of(Compute.INT8)
    export_shared(SharedRequest(artifacts["bert"], (), out, Compute.INT8, tolerance, verify=False))
    return out


@pytest.fixture(scope="module")
def found(shared, exported, artifacts, tmp_path_factory):
    """One benchmark of everything, and what was said meanwhile."""
    said = []
    texts = tmp_path_factory.mktemp("texts") / "texts"
    texts.write_text("the good film\n\nbad food\tvery sad\n" + "we were happy\n" * 9)
    request = BenchRequest(
        shared,
        "sst2",
        beside=(exported("bert", "fp32").folder,),
        artifact=artifacts["bert"],
        texts=texts,
        **SMALL,
    )
    return bench(request, say=said.append), said


def variants(result):
    return {variant.name: variant for variant in result.variants}


def test_everything_is_measured_beside_the_reference(found):
    result, said = found
    assert [v.name for v in result.variants] == [REFERENCE, *PEERS, "all", "bert-fp32-sst2"]
    assert [v.exported for v in result.variants] == [False] * 3 + [True] * 2
    assert result.task == "sst2"
    for variant in result.variants:
        assert [(c.threads, c.batch, c.length) for c in variant.cells] == [(1, 1, 8), (1, 2, 8)]
        for cell in variant.cells:
            assert 0 < cell.best <= cell.p50 <= cell.p90
            assert cell.runs == 1
            assert cell.speedup > 0
            assert cell.cpu > 0
    assert all(cell.speedup == cell.cpu_speedup == 1 for cell in result.variants[0].cells)
    assert len(said) == len(set(said)) > 6


def test_errors_stand_beside_the_speed(found):
    result, _ = found
    errors = {name: variant.error for name, variant in variants(result).items()}
    assert (result.rows, result.inputs) == (11, "texts")
    assert (errors[REFERENCE].relative, errors[REFERENCE].same) == (0, 1)
    assert errors["bert-fp32-sst2"].relative < 1e-5
    for name in ("all", *PEERS):
        assert 1e-4 < errors[name].relative < 0.6, name
        assert errors[name].max_diff > 0


def test_files_are_those_on_the_disk(found, shared, exported):
    costs = {name: variant.footprint for name, variant in variants(found[0]).items()}
    assert costs["all"].bytes == (shared / "sst2.onnx").stat().st_size
    assert costs["all"].shared_bytes == (shared / "backbone.bin").stat().st_size
    assert costs["bert-fp32-sst2"].bytes == exported("bert", "fp32").graph.stat().st_size
    assert costs["bert-fp32-sst2"].shared_bytes == 0
    assert costs["quantize_dynamic"].bytes < costs[REFERENCE].bytes
    assert all(cost.load_ms > 0 for cost in costs.values())


@linux
def test_memory_is_told_for_each_graph_and_for_one_and_all_tasks(found):
    result, _ = found
    for variant in result.variants:
        cost = variant.footprint
        assert cost.running.rss == pytest.approx(cost.running.anon + cost.running.mapped, abs=0.1)
        assert cost.peak >= cost.loaded.rss - 0.1
    assert [row.tasks for row in result.tasks] == [1, 2]
    one, two = result.tasks
    assert 0 < one.added.rss < one.process.rss
    assert two.process.anon > one.process.anon - 4


def test_the_result_is_json_and_names_the_machine(found):
    tree = json.loads(found[0].to_json())
    assert tree["machine"]["onnxruntime"]
    assert tree["machine"]["cores"] >= 1
    assert len(tree["variants"]) == 5
    assert str(Path.home()) not in found[0].to_json()


def test_nothing_is_left_behind(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = exported("bert", "int8").folder
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    result = bench(BenchRequest(folder, **SMALL))
    assert result.reference == "the exported graph with its weights as floats"
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list(tmp_path.glob("maskpack*")) == []


@pytest.mark.slow
def test_a_float32_graph_may_be_the_reference(exported, tmp_path):
    from maskpack.exporters.bench.reference import masked_graph

    one = exported("roberta", "int8")
    (tmp_path / "own.onnx").write_bytes(masked_graph(one.artifact, "sst2"))
    request = BenchRequest(one.folder, against=str(tmp_path / "own.onnx"), **SMALL)
    result = bench(request)
    assert result.reference == "the graph own.onnx"
    assert result.variants[0].footprint.bytes == (tmp_path / "own.onnx").stat().st_size
    assert result.variants[3].error.relative < 0.3


@pytest.mark.slow
def test_a_fine_tuned_folder_may_be_the_reference(exported, tmp_path, artifacts):
    from maskpack.exporters.hf import write_hf

    one = exported("bert", "fp32")
    write_hf(one.artifact, "sst2", tmp_path / "plain")
    result = bench(BenchRequest(one.folder, against=str(tmp_path / "plain"), **SMALL))
    assert result.reference == "the model plain"
    assert result.variants[3].error.relative < 1e-5  # the same model: only the form differs


def refused(kind, message, **options):
    with pytest.raises(kind, match=message) as error:
        bench(BenchRequest(**{**SMALL, **options}))
    return error.value.hint


def test_a_task_must_be_named_where_there_are_several(shared):
    assert "other, sst2" in refused(ConfigError, "several tasks are at", folder=shared)
    assert "other" in refused(ConfigError, "no task `x` is at", folder=shared, task="x")
    assert refused(ExportError, "no exported task at", folder=shared.parent / "no")


def test_a_dense_model_that_is_not_there_is_an_error(exported, tmp_path, artifacts):
    folder = exported("bert", "int8").folder
    no_graph, no_model = str(tmp_path / "no.onnx"), str(tmp_path / "no")
    assert refused(ExportError, "no graph at", folder=folder, against=no_graph)
    with pytest.raises(Exception, match="cannot load a model"):
        bench(BenchRequest(folder, against=no_model, **SMALL))
    refused(ArtifactError, "is not an artifact", folder=folder, artifact=tmp_path)
    with pytest.raises(ConfigError, match="expected one dense model"):
        BenchRequest(folder, against="x", artifact=tmp_path)


def test_a_dense_model_with_other_inputs_or_outputs_is_an_error(exported, tmp_path):
    folder = exported("bert", "int8").folder
    other = str(exported("roberta", "fp32").graph)
    hint = refused(ExportError, "reads other inputs than dense fp32", folder=folder, against=other)
    assert "`against`" in hint
    graph = exported("bert", "fp32").proto()
    (bias,) = (t for t in graph.graph.initializer if t.name.endswith("classifier.bias"))
    (weight,) = (t for t in graph.graph.initializer if t.name.endswith("classifier.weight"))
    for tensor in (bias, weight):
        array = onnx.numpy_helper.to_array(tensor)
        wide = np.concatenate([array, array[:1]])
        tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    del graph.graph.value_info[:]
    onnx.save(graph, tmp_path / "three.onnx")
    wide = str(tmp_path / "three.onnx")
    assert refused(ExportError, "has 2 outputs, dense fp32 has 3", folder=folder, against=wide)


def test_more_tokens_than_positions_are_an_error_that_says_so(exported):
    folder = exported("bert", "int8").folder
    hint = refused(ExportError, "fails on an input of 1 x 100", folder=folder, lengths=(100,))
    assert "`lengths`" in hint


def test_weights_that_are_not_the_graphs_are_an_error(shared, artifacts, tmp_path):
    folder = shutil.copytree(shared, tmp_path / "all")
    with (folder / "backbone.bin").open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.seek(file.tell() // 2)
        file.write(b"\x55\xaa")
    options = {"folder": folder, "task": "sst2", "artifact": artifacts["bert"]}
    assert refused(ExportError, "is not what `sst2.onnx` was made for", **options)


def test_texts_that_cannot_be_read_are_an_error_at_once(exported, tmp_path):
    folder = exported("bert", "int8").folder
    assert refused(DataError, "cannot read", folder=folder, texts=tmp_path / "no") is None
    (tmp_path / "empty").write_text("\n\n")
    refused(DataError, "holds no text", folder=folder, texts=tmp_path / "empty")


@pytest.mark.parametrize(
    "options",
    [{"batches": ()}, {"lengths": (0,)}, {"threads": (1, 1)}, {"runs": 0}, {"seconds": 0.0}],
)
def test_a_grid_of_nothing_is_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        BenchRequest(Path("x"), **options)


def test_cells_are_ordered_by_work():
    request = BenchRequest(Path("x"), batches=(8, 1), lengths=(128, 16))
    assert request.shapes == [(1, 16), (1, 128), (8, 16), (8, 128)]


def test_a_process_that_dies_is_an_error(tmp_path):
    with pytest.raises(ExportError, match=r"ended with code 1: KeyError: 'no such job'"):
        benching._child(tmp_path, "no such job")


def test_a_cell_is_made_of_both_clocks():
    spent = Spent([2.0, 4.0, 3.0], [1.0, 1.0, 2.0])
    reference = Spent([4.0, 12.0, 9.0], [4.0, 4.0, 4.0])
    cell = Cell.of(spent, reference, threads=1, batch=2, length=3)
    assert (cell.p50, cell.best, cell.speedup, cell.cpu, cell.cpu_speedup) == (3, 2, 3, 1, 4)
    assert cell.p90 == pytest.approx(3.8)


def test_the_ratio_of_all_tasks_is_the_median_of_one_ratio_a_round():
    one, every = Spent([2.0, 4.0, 3.0], [1.0] * 3), Spent([8.0, 6.0, 9.0], [1.0] * 3)
    found = AllTasks.of(one, every, tasks=4, batch=1, length=16)
    assert (found.one, found.all, found.ratio, found.runs) == (3, 8, 3, 3)


def test_weights_beside_a_graph_are_found(shared, exported):
    assert weight_files(shared / "sst2.onnx") == [shared / "backbone.bin"]
    assert weight_files(exported("bert", "int8").graph) == []


def test_a_child_sees_no_torch():
    code = (
        "import sys, maskpack.exporters.bench.child\n"
        "print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_linux_tells_of_a_processor(tmp_path):
    text = "model name : Z\nflags : avx2 amx_int8 sse\n\nmodel name : Z\nflags : avx2\n"
    told = tmp_path / "cpuinfo"
    for words, found in (
        (text, ("Z", ("avx2", "amx_int8"))),
        ("Features : asimddp fp\n", ("", ("asimddp",))),
    ):
        told.write_text(words)
        assert read_cpuinfo(told) == found
    assert read_cpuinfo(tmp_path / "absent") == ("", ())
    assert this_machine(0.5).load[0] == 0.5


def test_memory_that_is_not_told_is_none():
    assert read_memory("") is None
    assert read_memory("VmRSS: 10 kB\n") is None
    assert read_memory("VmRSS: 2048 kB\nRssAnon: 1024 kB\nRssFile: 1024 kB\n").mapped == 1


@linux
def test_memory_grows_with_what_is_held_and_its_peak_is_forgotten():
    before = memory_now()
    block = np.ones(8 << 20)  # 64 MiB
    assert 60 < memory_now().since(before).anon < 80
    held = memory_now().rss
    assert peak_memory() >= held - 1
    del block
    forget_peak()
    assert peak_memory() < held - 50


def test_the_same_class_is_counted_row_by_row():
    left = np.array([[1, 2], [2, 1], [0, 5]], "f4")
    classes, numbers = DECODERS["classification"], DECODERS["regression"]
    assert classes.agreement(left, left[[0, 0, 2]]) == pytest.approx(2 / 3)
    left, right = np.array([[1.0], [2.0]], "f4"), np.array([[1.0], [2.1]], "f4")
    assert numbers.agreement(left, right) == 0.5
