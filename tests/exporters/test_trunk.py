"""The trunk layout: one pass over the lower layers serves all tasks, and each answers as in the shared layout."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from export_kit import shared_request
from matrix import matrix
from typer.testing import CliRunner
from unit_kit import random_units, units_removed

from maskpack.cli.app import app
from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.exporters.bench.child import Together, open_tasks
from maskpack.exporters.bench.run import bench
from maskpack.exporters.export import export_shared
from maskpack.exporters.options import BenchRequest, PackageRequest, Target
from maskpack.exporters.package.write import write_package
from maskpack.exporters.session import make_session, token_feeds
from maskpack.formats import BitMask, ConfigError, DataError, ExportError
from maskpack.formats.algebra import rename_task
from maskpack.formats.codec import file_sha256
from maskpack.formats.reader import Artifact
from maskpack.formats.units import Units
from maskpack.runtime import Prediction, Session, answers, materialize
from maskpack.runtime.task import TaskConfig
from maskpack.runtime.trunk import OnTrunk
from maskpack.tasks import find_task

FAMILIES = (
    *("bert", "gpt2", "distilbert", "roberta", "electra"),
    *("llama", "modernbert", "xlnet", "deberta-v2"),
)
EXACT = 1e-4  # of a logit; what fp32 graphs promise
CASES = [  # all of two families, and for the others a few that meet every pair
    case
    for case in matrix(FAMILIES, ["fp32", "int8", "nbits"], [8, 4])
    if not case.marks or case.values[0] in {"bert", "gpt2"}
]
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory, trained):
    """`folders(layout, compute)`: the BERT's tasks exported, made on first use. Read only."""
    made = {}

    def make(layout, compute="fp32"):
        if (layout, compute) not in made:
            out = tmp_path_factory.mktemp("folders") / layout
            made[layout, compute] = export(
                trained("bert"), out, compute, layout=layout, verify=False
            )
        return made[layout, compute]

    return make


@pytest.mark.parametrize(("kind", "compute", "bits"), CASES)
def test_a_trunk_and_a_top_are_the_graph_of_the_shared_layout(
    trained, tmp_path, kind, compute, bits
):
    artifact = trained(kind, bits)
    reports = export_shared(shared_request(artifact, tmp_path / "trunk", compute, layout="trunk"))
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


@pytest.mark.parametrize("compute", ["fp32", "int8"])
@pytest.mark.parametrize("packed", [True, False])
def test_narrow_codes_stay_narrow_below_the_cut_too(trained, tmp_path, compute, packed):
    artifact = trained("bert", 4)
    for layout in ("trunk", "shared"):
        options = {"layout": layout, "packed": packed, "verify": False}
        export(artifact, tmp_path / layout, compute, **options)
    sizes = [(tmp_path / layout / "backbone.bin").stat().st_size for layout in ("trunk", "shared")]
    assert sizes[0] == sizes[1]
    for task in ("one", "two"):
        both = (logits(tmp_path / layout, task) for layout in ("trunk", "shared"))
        for left, right in zip(*both, strict=True):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("compute", ["fp32", "int8"])
@pytest.mark.parametrize(
    "kind", ["bert", "gpt2", pytest.param("deberta-v2", marks=pytest.mark.slow)]
)
def test_units_that_are_gone_above_the_trunk_make_the_top_small(trained, tmp_path, kind, compute):
    artifact = trained(kind)
    with units_removed(last_layer=True):
        reports = export_shared(
            shared_request(artifact, tmp_path / "trunk", compute, layout="trunk")
        )
        export(artifact, tmp_path / "shared", compute, layout="shared", verify=False)
    for task, report in reports.items():
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > report.graph.left_out > 0
        assert report.graph.wrong == 0
        for left, right in zip(
            *(logits(tmp_path / layout, task) for layout in ("trunk", "shared")), strict=True
        ):
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("compute", ["fp32", "int8"])
@pytest.mark.parametrize("empty", ["heads", "neurons"])
def test_a_top_without_all_units_of_one_kind_is_that_of_the_shared_layout(
    trained, tmp_path, monkeypatch, compute, empty
):
    """The last layer loses one sub-layer as a whole, and half of the other."""
    monkeypatch.setattr("unit_kit.random_units", partial(without_kind, kind=empty))
    artifact = trained("bert")
    with units_removed(last_layer=True):
        reports = export_shared(
            shared_request(artifact, tmp_path / "trunk", compute, layout="trunk")
        )
        export(artifact, tmp_path / "shared", compute, layout="shared", verify=False)
    for task, report in reports.items():
        assert report.ok, report.findings
        assert report.graph.removed == report.graph.mask_zeros > report.graph.left_out > 0
        assert report.graph.wrong == 0
        kinds = operators(tmp_path / "trunk" / f"{task}.onnx")
        assert ("Softmax" in kinds, "Erf" in kinds) == (empty != "heads", empty != "neurons")
        for left, right in zip(
            *(logits(tmp_path / layout, task) for layout in ("trunk", "shared")), strict=True
        ):
            np.testing.assert_array_equal(left, right)
    assert {"Softmax", "Erf"} <= operators(tmp_path / "trunk" / "trunk.onnx")


def without_kind(groups, *, kind, seed, **_):
    """`Units` of which one kind is gone, and half of the others."""
    halves = random_units(groups, seed=seed, empty=0)
    pairs = zip(groups, halves.kept, strict=True)
    return Units(halves.groups, tuple(kept & (group.kind != kind) for group, kept in pairs))


def operators(path):
    """Kinds of nodes, those in branches as well."""
    nodes = [*onnx.load(str(path), load_external_data=False).graph.node]
    nodes += [own for node in nodes for side in node.attribute for own in side.g.node]
    return {node.op_type for node in nodes}


def test_the_trunk_holds_the_lower_layers_and_a_top_the_others(folders):
    folder = folders("trunk")
    names = {
        path.stem: {tensor.name for tensor in onnx.load(str(path)).graph.initializer}
        for path in folder.glob("*.onnx")
    }
    assert set(names) == {"one", "trunk", "two"}
    assert any("word_embeddings" in name for name in names["trunk"])
    assert any("layer.0." in name for name in names["trunk"])
    assert not any("layer.1." in name or "classifier" in name for name in names["trunk"])
    for task in ("one", "two"):
        assert not any("embeddings" in name or "layer.0." in name for name in names[task])
        assert any("layer.1." in name for name in names[task])
        assert any("classifier" in name for name in names[task])


def change_task(monkeypatch, task, change):
    """Let the patch of a task be another one."""
    plain = Artifact.patch

    def patch(self, name):
        own = plain(self, name)
        return change(own, self) if name == task else own

    monkeypatch.setattr(Artifact, "patch", patch)


def with_bias_below(patch, artifact):
    name = "encoder.layer.0.output.dense.bias"
    return replace(patch, dense={name: artifact.backbone.dense[name] + np.float16(1)})


def with_norm_of_embeddings(patch, artifact):
    name = "embeddings.LayerNorm.bias"
    return replace(patch, dense={name: artifact.backbone.dense[name] + np.float16(1)})


def with_gains_below(patch, artifact):
    name = "encoder.layer.0.output.dense.weight"
    rows = artifact.backbone.linears[name].shape[0]
    return replace(patch, gains={name: np.full(rows, 1.5, dtype=np.float16)})


def with_mask_below(patch, artifact):
    name = "encoder.layer.0.output.dense.weight"
    keep = np.ones(artifact.backbone.linears[name].shape, dtype=bool)
    keep[0, int(np.argmax(artifact.backbone.linears[name].codes[0] != 0))] = False
    return replace(patch, masks={**patch.masks, name: BitMask.from_bool(keep)})


def same_values_below(patch, artifact):
    name = "embeddings.LayerNorm.bias"
    return replace(patch, dense={name: np.array(artifact.backbone.dense[name])})


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (with_bias_below, "layers 0, 1"),
        (with_gains_below, "layers 0, 1"),
        (with_mask_below, "layers 0, 1"),
        (with_norm_of_embeddings, "`embeddings.LayerNorm.bias`"),
    ],
)
def test_a_task_that_changes_the_lowest_layer_is_refused_by_name(
    trained, tmp_path, monkeypatch, change, place
):
    change_task(monkeypatch, "two", change)
    with pytest.raises(ExportError, match="`two` changes") as caught:
        export(trained("bert"), tmp_path / "out", verify=False)
    assert place in str(caught.value)
    assert "`one`" not in str(caught.value)
    assert "no layer is left" in str(caught.value)
    assert "`shared` layout" in caught.value.hint
    assert not (tmp_path / "out").exists()
    export(trained("bert"), tmp_path / "one", tasks=("one",), verify=False)


def test_a_value_that_a_task_stores_and_does_not_change_touches_nothing(
    trained, tmp_path, monkeypatch
):
    change_task(monkeypatch, "two", same_values_below)
    export(trained("bert"), tmp_path / "out", verify=False)


def test_a_trunk_may_be_shallower_and_not_deeper(family_models, trained, tmp_path, sentiment):
    with pytest.raises(ExportError, match=r"`one` changes layers? 1.*at most 1 fit"):
        export(trained("bert"), tmp_path / "x", trunk_layers=2, verify=False)
    with pytest.raises(ConfigError, match="the encoder has 2 layers"):
        export(trained("bert"), tmp_path / "x", trunk_layers=3, verify=False)
    with pytest.raises(ConfigError, match="the shared layout has no trunk"):
        shared_request(trained("bert"), tmp_path / "x", layout="shared", trunk_layers=1)
    artifact = tmp_path / "pooler"
    config = FitConfig(
        bits=8,
        steps=3,
        batch_size=16,
        max_length=16,
        precision="fp32",
        teacher="none",
        modules="pooler",
    )
    model, task = str(family_models("bert")), find_task("sst2")
    fit_task(FitRequest(model, task, artifact, config, data=sentiment, name="one"))
    held = {}
    for layers in (1, 2, None):
        out = export(artifact, tmp_path / str(layers), trunk_layers=layers)
        held[layers] = onnx.load(str(out / "one.onnx"), load_external_data=False).graph
    assert len(held[1].node) > len(held[2].node) == len(held[None].node)
    assert any("pooler" in tensor.name for tensor in held[2].initializer)
    assert not any("layer." in tensor.name for tensor in held[2].initializer)


def test_a_family_that_shares_its_layers_has_a_trunk_for_heads_alone(
    family_models, tmp_path, sentiment
):
    artifact, model = tmp_path / "artifact", str(family_models("albert"))
    usual = {"bits": 8, "steps": 3, "batch_size": 16, "max_length": 16, "precision": "fp32"}
    for name, options in (("head", {"modules": "pooler"}), ("mask", {"margin": 0.3})):
        config = FitConfig(**usual, teacher="none", **options)
        task = find_task("sst2")
        fit_task(FitRequest(model, task, artifact, config, data=sentiment, name=name))
    with pytest.raises(ExportError, match="`mask` changes"):
        export(artifact, tmp_path / "x", verify=False)
    export(artifact, tmp_path / "head", tasks=("head",))


@pytest.mark.parametrize("opset", [20, 21])
def test_trunk_and_tops_are_written_in_one_opset(trained, folders, tmp_path, opset):
    out = export(trained("bert"), tmp_path / "out", "int8", opset=opset)
    for path in out.glob("*.onnx"):
        imports = onnx.load(str(path), load_external_data=False).opset_import
        assert {each.version for each in imports if not each.domain} == {opset}
    for left, right in zip(
        logits(out, "one"), logits(folders("trunk", "int8"), "one"), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-5)


def test_half_precision_is_refused_as_in_other_layouts_of_several_tasks(trained, tmp_path):
    with pytest.raises(ConfigError, match="the trunk layout masks shared ones"):
        shared_request(trained("bert"), tmp_path / "x", "fp16", layout="trunk")


def test_a_task_is_not_called_as_the_trunk(trained, tmp_path):
    artifact = tmp_path / "artifact"
    shutil.copytree(trained("bert"), artifact)
    rename_task(artifact, "one", "trunk")
    with pytest.raises(ExportError, match="would replace the trunk"):
        export(artifact, tmp_path / "x", verify=False)
    shared = export(artifact, tmp_path / "shared", layout="shared", verify=False)
    assert set(Session(shared).tasks) == {"trunk", "two"}, "there it is a task like others"


@pytest.mark.parametrize("layout", ["trunk", "shared"])
@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_all_tasks_answer_as_each_alone(folders, layout, compute):
    session = Session(folders(layout, compute), keep=1)
    together = session.predict_all(TEXTS, batch_size=2)
    assert [list(answers) for answers in together] == [["one", "two"]] * 3
    for task in ("one", "two"):
        alone = session.predict(TEXTS, task=task, batch_size=2)
        assert [answers[task] for answers in together] == alone
    assert session.predict_all(TEXTS, tasks=["two"]) == [
        {"two": one} for one in session.predict(TEXTS, task="two")
    ]
    assert session.predict_all([]) == []


def test_the_trunk_runs_once_a_batch(folders, monkeypatch):
    runs = []
    plain = OnTrunk.states
    monkeypatch.setattr(
        OnTrunk, "states", lambda self, feeds: runs.append(self.trunk) or plain(self, feeds)
    )
    session = Session(folders("trunk"))
    session.predict_all(TEXTS, batch_size=2)
    assert len(runs) == 2, "two batches, two tasks"
    assert len({id(trunk) for trunk in runs}) == 1
    session.predict(TEXTS, task="one", batch_size=3)
    session.predict(TEXTS, task="two", batch_size=3)
    assert len(runs) == 4
    assert len({id(trunk) for trunk in runs}) == 1, "one session of it is held"


def test_tasks_that_read_texts_otherwise_need_a_pass_of_their_own(folders, tmp_path, caplog):
    folder = tmp_path / "folder"
    shutil.copytree(folders("trunk"), folder)
    config = json.loads((folder / "two.json").read_text())
    (folder / "two.json").write_text(json.dumps({**config, "max_length": 4}))
    session = Session(folder)
    with caplog.at_level(logging.INFO):
        found = session.predict_all(TEXTS)
        session.predict_all(TEXTS)
    assert caplog.text.count("2 ways") == 1, "said once a session"
    assert "`one`; `two`" in caplog.text
    assert [one["two"] for one in found] == session.predict(TEXTS, task="two")
    assert [one["two"] for one in found] != Session(folders("trunk")).predict(TEXTS, task="two")


def test_tasks_of_a_trunk_are_not_asked_alone_unless_one_fails(folders, monkeypatch):
    """Where the shared pass fails tasks are asked alone, which would hide that it never works."""
    monkeypatch.delattr("maskpack.runtime.answers._answers")
    found = Session(folders("trunk", "int8")).predict_all(TEXTS)
    assert [set(row) for row in found] == [{"one", "two"}] * 3


@pytest.mark.parametrize("layout", ["swap", "shared"])
def test_tasks_on_no_trunk_are_asked_one_by_one(folders, monkeypatch, layout):
    asked, plain = [], answers._together
    monkeypatch.setattr(
        answers, "_together", lambda loaded, rows: asked.append(len(loaded)) or plain(loaded, rows)
    )
    session = Session(folders(layout, "int8"))
    together = session.predict_all(TEXTS, batch_size=2)
    assert asked == [1] * 4, "two batches, two tasks"
    for task in ("one", "two"):
        assert [row[task] for row in together] == session.predict(TEXTS, task=task, batch_size=2)
    assert together[0]["one"] != together[0]["two"]


def test_a_command_says_once_that_tasks_need_passes_of_their_own(folders, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    shutil.copytree(folders("trunk"), folder)
    config = json.loads((folder / "two.json").read_text())
    (folder / "two.json").write_text(json.dumps({**config, "max_length": 4}))
    (tmp_path / "texts").write_text("\n".join(TEXTS))
    monkeypatch.setattr("maskpack.cli.lines.MOST", 1)
    found = CliRunner().invoke(
        app, ["predict", str(folder), "--all", "--texts", str(tmp_path / "texts")]
    )
    assert len(found.stdout.splitlines()) == 3
    assert found.stderr.count("2 ways") == 1


def test_what_is_wrong_with_a_text_stops_no_other(folders):
    session = Session(folders("trunk"))
    found = session.predict_all_each(["good", 3, ("a", "b")])
    assert [{type(one) for one in row.values()} for row in found] == [
        {Prediction},
        {DataError},
        {ConfigError},
    ]
    assert "`two` reads one text" in str(found[2]["two"])
    with pytest.raises(DataError, match="row 2"):
        session.predict_all(["good", 3])
    for tasks in ((), ("one", "one")):
        with pytest.raises(ConfigError, match="expected different ones"):
            session.predict_all(["good"], tasks=tasks)
    with pytest.raises(ConfigError, match="no task `three`"):
        session.predict_all(["good"], tasks=["three"])
    with pytest.raises(ConfigError, match="batch_size"):
        session.predict_all(["good"], batch_size=0)


def test_where_a_graph_fails_the_other_tasks_answer(folders, monkeypatch):
    session, plain = Session(folders("trunk")), OnTrunk.over
    broken = session._load("two").graph.top

    def over(self, states, names, feeds, options=None):
        if self.top is broken:
            raise RuntimeError("no room")
        return plain(self, states, names, feeds, options)

    monkeypatch.setattr(OnTrunk, "over", over)
    found = session.predict_all_each(TEXTS)
    assert all(isinstance(row["one"], Prediction) for row in found)
    assert all("no room" in str(row["two"]) for row in found)


def test_files_of_another_export_are_refused(folders, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(folders("trunk"), folder)
    other = folders("trunk", "int8")
    shutil.copy(other / "trunk.onnx", folder / "trunk.onnx")
    with pytest.raises(ExportError, match=r"trunk\.onnx` is not what `one` was made for"):
        Session(folder).predict(TEXTS, task="one")
    (folder / "trunk.onnx").unlink()
    with pytest.raises(ExportError, match="is not the configuration of"):
        Session(folder).predict(TEXTS, task="one")


def test_an_older_reader_refuses_a_top_by_the_name_of_the_feature(folders):
    tree = json.loads((folders("trunk") / "one.json").read_text())
    assert tree["format_version"] == 2
    assert tree["requires"] == ["trunk"]
    config = TaskConfig.from_json(json.dumps(tree))
    assert config.trunk == file_sha256(folders("trunk") / "trunk.onnx")
    with pytest.raises(ExportError, match="digest `x`"):
        TaskConfig.from_json(json.dumps({**tree, "trunk_sha256": "x"}))


def test_a_top_is_not_folded_alone(folders, tmp_path):
    with pytest.raises(ConfigError, match="stands on a trunk") as caught:
        materialize(folders("trunk"), tmp_path / "x", task="one")
    assert "`shared`" in caught.value.hint


@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
@pytest.mark.parametrize("compute", ["fp32", "int8"])
def test_a_package_answers_as_its_folder(folders, tmp_path, target, compute):
    folder, out = folders("trunk", compute), tmp_path / "package"
    package = write_package(PackageRequest(folder, out, target))
    assert set(package.differences) == {"one", "two"}
    trunk = "trunk.ort" if target is Target.MOBILE else "trunk.onnx"
    assert trunk in package.files
    done = subprocess.run(
        [sys.executable, "predict.py", *TEXTS], cwd=out, capture_output=True, text=True, check=True
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    session = Session(folder)
    for task in ("one", "two"):
        own = [line for line in told if line["task"] == task]
        for line, right in zip(own, session.predict(TEXTS, task=task, batch_size=1), strict=True):
            assert line["label"] == right.label
            assert line["score"] == pytest.approx(right.score, abs=1e-5)
    if target is Target.ORT:
        assert Session(out).predict(TEXTS, task="one") == session.predict(TEXTS, task="one")


@pytest.mark.parametrize("layout", ["trunk", "shared"])
def test_a_benchmark_times_all_tasks_beside_one(folders, trained, layout):
    request = BenchRequest(
        folder=folders(layout, "int8"),
        task="one",
        artifact=trained("bert"),
        batches=(1, 2),
        lengths=(8,),
        threads=(1,),
        runs=3,
    )
    result = bench(request)
    assert [(each.tasks, each.batch, each.length) for each in result.together] == [
        (2, 1, 8),
        (2, 2, 8),
    ]
    for each in result.together:
        assert 1 <= each.runs <= 3
        assert min(each.one, each.all, each.ratio) > 0
    own = next(variant for variant in result.variants if variant.exported)
    files = ["backbone.bin"] if layout == "shared" else ["backbone.bin", "trunk.onnx"]
    sizes = [(request.folder / name).stat().st_size for name in files]
    assert own.footprint.shared_bytes == sum(sizes)
    assert json.loads(result.to_json())["together"][0]["tasks"] == 2


def test_a_dense_graph_is_not_made_of_a_top_alone(folders):
    request = BenchRequest(folder=folders("trunk"), task="one", runs=3, threads=(1,))
    with pytest.raises(ConfigError, match="alone is no task"):
        bench(request)


def test_several_sessions_of_one_folder_run_its_trunk_once(folders, monkeypatch):
    every = open_tasks([folders("trunk") / f"{task}.onnx" for task in ("one", "two")], ())
    assert every[0].trunk is every[1].trunk
    feeds = token_feeds(every[0], batch=2, length=8, vocabulary=40)
    wanted = [one.run(["logits"], feeds)[0] for one in every]
    runs = []
    plain = OnTrunk.states
    monkeypatch.setattr(OnTrunk, "states", lambda self, fed: runs.append(1) or plain(self, fed))
    found = Together(every).run(["logits"], feeds)
    assert len(runs) == 1
    for left, (right,) in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(left, right)
