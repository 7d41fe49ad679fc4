"""A package: complete, checked, reproducible but for `.ort` files, and its example runs without maskpack."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import onnx
import pytest
from export_kit import exact_options, of_older_release, shared_request
from unit_kit import units_removed

from maskpack.exporters.export import export_shared
from maskpack.exporters.options import PackageRequest, Target
from maskpack.exporters.package import write as packaging
from maskpack.exporters.package.write import check_difference, check_files, write_package
from maskpack.exporters.session import make_session, token_feeds
from maskpack.formats import ArtifactError, ConfigError, ExportError, VerifyError
from maskpack.runtime import Session

TEXTS = ["the good film", "bad", "we were very happy and the food was great " * 3]
TARGETS = tuple(Target)
LAYOUTS = ("folded", "shared")


@pytest.fixture(scope="module")
def sources(exported, shared):
    """Layout -> exported folder. Read only."""
    return {"folded": exported("bert", "int8").folder, "shared": shared("bert", "int8")[0]}


@pytest.fixture(scope="module")
def packed(tmp_path_factory, sources):
    """`packed(target, layout)`: the package and what was said of it, made on first use."""
    root, made = tmp_path_factory.mktemp("packages"), {}

    def make(target, layout):
        if (target, layout) not in made:
            out = root / f"{layout}-{target}"
            made[target, layout] = write_package(PackageRequest(sources[layout], out, target))
        return made[target, layout]

    return make


def listing(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


COMMON = {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "README.md", "SHA256SUMS"}
EXAMPLE = {
    Target.ORT: {"predict.py", "maskpack_windows.py"},
    Target.WEB: {
        *(f"{name}.mjs" for name in ("predict", "graphs", "fills", "words", "windows")),
        *("index.html", "package.json"),
    },
    Target.MOBILE: {"predict.py", "maskpack_windows.py", "required_operators.config"},
}
OWN = {
    "folded": {"model.onnx", "task.json", "config.json", "maskpack_report.json"},
    "shared": {
        *("backbone.bin", "sst2.onnx", "sst2.json", "other.onnx", "other.json"),
        *("sst2.maskpack_report.json", "other.maskpack_report.json"),
    },
}
OWN_MOBILE = {
    "folded": {"model.ort", "task.json", "maskpack_report.json"},
    "shared": {
        *("sst2.ort", "sst2.json", "other.ort", "other.json"),
        *("sst2.maskpack_report.json", "other.maskpack_report.json"),
    },
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_package_holds_what_its_target_needs_and_says_so(packed, target, layout):
    found = packed(target, layout)
    own = (OWN_MOBILE if target is Target.MOBILE else OWN)[layout]
    names = listing(found.out)
    assert COMMON | EXAMPLE[target] | own <= names
    assert names - COMMON - EXAMPLE[target] - own <= {"special_tokens_map.json"}
    assert set(found.files) == names
    assert found.files["README.md"] == (found.out / "README.md").stat().st_size
    assert set(found.differences) == ({"sst2"} if layout == "folded" else {"sst2", "other"})
    assert max(found.differences.values()) <= 1e-5
    for name in EXAMPLE[target] | {"README.md"}:
        assert not re.findall("@[A-Z_]+@", (found.out / name).read_text()), "a placeholder is left"


@pytest.mark.parametrize("target", TARGETS)
def test_the_checksums_are_those_that_the_usual_tool_takes(packed, target):
    out = packed(target, "shared").out
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(listing(out)) - 1


RUN = """
import json, runpy, sys
sys.modules["maskpack"] = None  # the example must not need it
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_python_example_answers_as_the_source_does(packed, sources, tmp_path, target, layout):
    moved = shutil.copytree(packed(target, layout).out, tmp_path / "moved")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(moved / "predict.py"), *TEXTS],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    session = Session(sources[layout])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["task"], line["text"]) for line in lines] == [
        (task, text) for task in session.tasks for text in TEXTS
    ]
    for line in lines:
        (want,) = session.predict([line["text"]], task=line["task"], batch_size=1)
        assert line["label"] == want.label
        assert line["scores"] == pytest.approx(want.scores, abs=1e-5)


@pytest.mark.parametrize("target", [Target.ORT, Target.MOBILE])
def test_tasks_with_removed_units_answer_in_a_package_as_before(artifacts, tmp_path, target):
    source = tmp_path / "source"
    with units_removed():
        export_shared(shared_request(artifacts["bert"], source))
    made = write_package(PackageRequest(source, tmp_path / "made", target))
    assert set(made.differences) == {"sst2", "other"}
    assert max(made.differences.values()) <= 1e-5
    own = made.out / ("sst2.ort" if target is Target.MOBILE else "sst2.onnx")
    graph, whole = make_session(own, threads=1), make_session(source / "sst2.onnx", threads=1)
    feeds = token_feeds(whole, batch=1, length=9, vocabulary=50)
    left, right = (each.run(None, feeds)[0] for each in (graph, whole))
    np.testing.assert_allclose(left, right, atol=1e-5)


def test_the_example_takes_pairs(sources, tmp_path):
    import runpy

    source = of_older_release(sources["folded"], tmp_path / "old")
    package = write_package(PackageRequest(source, tmp_path / "p", Target.ORT)).out
    example = runpy.run_path(str(package / "predict.py"))
    (want,) = Session(source).predict([("good", "bad film")], batch_size=1)
    assert example["Task"]("sst2").answer("good", "bad film")["scores"] == pytest.approx(
        want.scores
    )


def test_a_package_is_an_exported_folder_still(packed, sources):
    for layout in LAYOUTS:
        before, after = Session(sources[layout]), Session(packed(Target.ORT, layout).out)
        assert after.tasks == before.tasks
        for task in after.tasks:
            assert after.predict(TEXTS, task=task) == before.predict(TEXTS, task=task)


def test_optimum_loads_a_package(packed, sources):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimum = pytest.importorskip("optimum.onnxruntime", exc_type=ImportError)
        from transformers import AutoTokenizer

        folder = packed(Target.ORT, "folded").out
        model = optimum.ORTModelForSequenceClassification.from_pretrained(
            folder, session_options=exact_options()
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        logits = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits.softmax(-1)[0].tolist()
    (want,) = Session(sources["folded"]).predict(TEXTS[:1])
    assert dict(zip(model.config.id2label.values(), logits, strict=True)) == pytest.approx(
        want.scores, abs=1e-5
    )


def test_a_mobile_package_names_operators_and_no_path_of_this_machine(packed):
    out = packed(Target.MOBILE, "shared").out
    lines = (out / "required_operators.config").read_text().splitlines()
    assert lines[0] == "# operators of other.ort, sst2.ort"
    assert any("DynamicQuantizeMatMul" in line for line in lines)
    assert "weights_file" not in json.loads((out / "sst2.json").read_text())


def write(folder, out, target=Target.ORT, tasks=()):
    return write_package(PackageRequest(folder, out, target, tasks))


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(listing(folder))}


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_tasks_make_the_same_bytes(packed, sources, tmp_path, target):
    again = contents(write(sources["shared"], tmp_path / "again", target).out)
    first = contents(packed(target, "shared").out)
    assert again.keys() == first.keys()
    shuffled = {name for name in first if name.endswith(".ort")}  # by ONNX Runtime's converter
    assert bool(shuffled) == (target is Target.MOBILE)
    shuffled |= {"SHA256SUMS"} if shuffled else set()
    assert {name for name in first if again[name] != first[name]} <= shuffled


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_an_archive_holds_the_folder_and_nothing_of_the_day(packed, sources, tmp_path, ending):
    first = write(sources["folded"], tmp_path / f"one{ending}")
    second = write(sources["folded"], tmp_path / "deep" / f"other{ending}")
    data = first.out.read_bytes()
    assert data == second.out.read_bytes()
    assert first.sha256 == hashlib.sha256(data).hexdigest()
    folder = packed(Target.ORT, "folded").out
    if ending == ".zip":
        zipfile.ZipFile(first.out).extractall(tmp_path / "x")
    else:
        with tarfile.open(first.out) as archive:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on
            archive.extractall(tmp_path / "x", **safe)
    assert contents(tmp_path / "x" / "sst2-ort") == contents(folder)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["deep", f"one{ending}", "x"]


def test_some_tasks_leave_the_others_out(sources, tmp_path):
    found = write(sources["shared"], tmp_path / "x", tasks=("other",))
    assert {"other.onnx", "other.json", "backbone.bin"} <= listing(found.out)
    assert not {"sst2.onnx", "sst2.json"} & listing(found.out)
    assert Session(found.out).tasks == ("other",)
    with pytest.raises(ConfigError, match="no task `third`"):
        write(sources["shared"], tmp_path / "y", tasks=("third",))
    with pytest.raises(ConfigError, match="named twice"):
        write(sources["shared"], tmp_path / "y", tasks=("other", "other"))


def test_folders_in_a_folder_keep_their_places(exported, tmp_path):
    for name, one in (("a", exported("bert", "int8")), ("b", exported("bert", "int8", "other"))):
        shutil.copytree(one.folder, tmp_path / "all" / name)
    found = write(tmp_path / "all", tmp_path / "x")
    assert {"a/model.onnx", "b/model.onnx", "a/tokenizer.json", "predict.py"} <= listing(found.out)
    assert set(Session(found.out).tasks) == {"other", "sst2"}
    done = subprocess.run(
        [sys.executable, str(found.out / "predict.py"), "good"], capture_output=True, text=True
    )
    assert [json.loads(line)["task"] for line in done.stdout.splitlines()] == ["other", "sst2"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def foreign(folder):
    """A report that is about another graph."""
    tree = json.loads((folder / "maskpack_report.json").read_text())
    tree["graph"]["bytes"] += 1
    (folder / "maskpack_report.json").write_text(json.dumps(tree))


def refused(folder):
    tree = json.loads((folder / "maskpack_report.json").read_text())
    tree["findings"] = ["logits are off"]
    (folder / "maskpack_report.json").write_text(json.dumps(tree))


def noise(folder):
    (folder / "other.maskpack_report.json").unlink()
    (folder / "other.onnx").write_bytes(b"noise")


def masks_as_inputs(folder):
    """A graph that takes one of its constants from outside, as a graph for several tasks does."""
    (folder / "maskpack_report.json").unlink()
    model = onnx.load(str(folder / "model.onnx"))
    scale = next(t for t in model.graph.initializer if t.name.endswith("classifier.bias"))
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(scale.name, scale.data_type, scale.dims)
    )
    onnx.save(model, str(folder / "model.onnx"))


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("folded", foreign, "is about a graph of `sst2` with"),
        ("folded", refused, "refuses `sst2`: logits are off"),
        (
            "folded",
            masks_as_inputs,
            "as an input, packages for ort are of graphs that take tokens alone",
        ),
        ("folded", lambda f: (f / "tokenizer.json").write_text("{}"), "cannot load"),
        ("folded", lambda f: (f / "tokenizer.json").unlink(), "cannot"),
        ("shared", lambda f: (f / "backbone.bin").unlink(), "no exported task|cannot read"),
        ("shared", lambda f: flip(f / "backbone.bin"), "was made for"),
        ("shared", lambda f: (f / "other.onnx").write_bytes(b"noise"), "is about a graph of"),
        ("shared", noise, "cannot load"),
    ],
)
def test_what_is_damaged_is_refused_and_leaves_nothing(sources, tmp_path, layout, change, message):
    folder = shutil.copytree(sources[layout], tmp_path / "source")
    change(folder)
    for out in ("x", "x.zip"):
        with pytest.raises(ExportError, match=message):
            write(folder, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_place_that_is_taken_is_refused(sources, tmp_path):
    (tmp_path / "x.zip").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="already exists"):
        write(sources["folded"], tmp_path / "x.zip")
    assert (tmp_path / "x.zip").read_bytes() == b"mine"


def test_a_task_whose_card_would_be_another_file_is_refused(sources, tmp_path):
    folder = shutil.copytree(sources["shared"], tmp_path / "source")
    for ending in (".onnx", ".json", ".maskpack_report.json"):
        (folder / f"other{ending}").rename(folder / f"package{ending}")
    with pytest.raises(ExportError, match=r"would be called `package\.json`"):
        write(folder, tmp_path / "x", Target.WEB)


def test_a_graph_that_answers_otherwise_is_refused(sources, tmp_path, monkeypatch):
    """The packaged graph is another task's: what a converter that went wrong would leave."""
    other = packaging.convert(sources["shared"] / "other.onnx")
    monkeypatch.setattr(packaging, "convert", lambda graph: other)
    with pytest.raises(VerifyError, match="the packaged graph of `sst2` is off by"):
        write(sources["shared"], tmp_path / "x", Target.MOBILE, ("sst2",))
    assert list(tmp_path.iterdir()) == []


def test_a_logit_that_is_no_number_is_no_agreement():
    one = [np.array([[0.5, 1.0]], np.float32)]
    assert check_difference(one, one, "t") == 0.0
    for wrong in (0.5001, np.nan, np.inf):
        with pytest.raises(VerifyError, match="is off by"):
            check_difference(one, [np.array([[wrong, 1.0]], np.float32)], "t")


def test_a_file_that_changed_or_came_later_is_noticed(packed, tmp_path):
    folder = shutil.copytree(packed(Target.ORT, "folded").out, tmp_path / "x")
    check_files(folder)
    (folder / "late").write_text("x")
    with pytest.raises(VerifyError, match="`late` is not what"):
        check_files(folder)
    (folder / "late").unlink()
    flip(folder / "model.onnx")
    with pytest.raises(VerifyError, match=r"`model\.onnx` is not what"):
        check_files(folder)


def test_packaging_imports_no_torch(sources, tmp_path):
    code = (
        "import sys; from maskpack.cli import app\n"
        "try: app.app()\nexcept SystemExit: pass\n"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    args = ["package", sources["folded"], "-o", tmp_path / "x", "--target", "web", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True
    )
    told, loaded = done.stdout.splitlines()
    assert loaded == "set()", done.stderr
    assert done.stderr == ""
    tree = json.loads(told)
    assert tree["target"] == "web"
    assert tree["tasks"]["sst2"] <= 1e-5
    assert set(tree["files"]) == listing(tmp_path / "x")
    assert tree["sha256"] is None


def test_two_folders_that_macos_and_windows_take_for_one_are_not_packaged(exported, tmp_path):
    for name, task in (("Mood", ()), ("mood", ("other",))):
        shutil.copytree(exported("bert", "int8", *task).folder, tmp_path / "all" / name)
    with pytest.raises(
        ExportError, match=r"could not be unpacked: `Mood/.*` and `mood/.*` are one"
    ):
        write_package(PackageRequest(tmp_path / "all", tmp_path / "out.zip", Target.ORT))
    assert [path.name for path in tmp_path.iterdir()] == ["all"]
