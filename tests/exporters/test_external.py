"""Files that a graph asks for are known, and refused, before ONNX Runtime opens them."""

from __future__ import annotations

import json
import shutil

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from maskpack.exporters.session import make_session
from maskpack.formats import ExportError
from maskpack.runtime import Session
from maskpack.runtime.graph import external_files


def elsewhere(name, location):
    """A tensor whose bytes are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def graph_of(nodes=(), tensors=(), name="g"):
    return helper.make_graph(list(nodes), name, [], [], list(tensors))


def constant(location):
    return helper.make_node("Constant", [], ["c"], value=elsewhere("", location))


def test_every_place_of_a_tensor_is_looked_at(tmp_path):
    sparse = onnx.SparseTensorProto(
        values=elsewhere("v", "values"), indices=elsewhere("i", "indices")
    )
    inner = graph_of([constant("inner")], [elsewhere("w", "branch")])
    several = helper.make_node("Odd", [], ["o"])
    several.attribute.append(onnx.AttributeProto(name="all", tensors=[elsewhere("x", "listed")]))
    several.attribute.append(onnx.AttributeProto(name="g", graphs=[graph_of([constant("graphs")])]))
    branch = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=graph_of())
    graph = graph_of([constant("node"), branch, several], [elsewhere("a", "first/../second")])
    graph.sparse_initializer.append(sparse)
    graph.initializer.append(helper.make_tensor("own", TensorProto.FLOAT, [1], [1.0]))
    model = helper.make_model(graph, functions=[])
    model.functions.append(
        helper.make_function("d", "f", [], ["c"], [constant("function")], model.opset_import)
    )
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "g.onnx") == {
        *("values", "indices", "inner", "branch", "listed", "graphs", "node", "function"),
        "first/../second",
    }


@given(st.binary(max_size=200))
def test_noise_is_refused_or_names_nothing_but_text(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise.onnx"
    path.write_bytes(noise)
    try:
        found = external_files(path)
    except ValueError:
        return
    assert all(isinstance(name, str) for name in found)


def test_messages_nested_without_end_are_refused(tmp_path):
    graph = graph_of()
    for _ in range(24):  # three messages each
        graph = graph_of([helper.make_node("Loop", [], ["y"], body=graph)])
    (tmp_path / "deep.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        external_files(tmp_path / "deep.onnx")


@pytest.fixture
def folder(shared, tmp_path):
    return shutil.copytree(shared("bert", "int8")[0], tmp_path / "home" / "x")


def redirect(graph, location):
    """Make all external tensors of a graph point elsewhere."""
    model = onnx.load(str(graph), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    graph.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["../backbone.bin", "other.bin", "/etc/hostname"])
def test_a_graph_that_reads_other_files_than_its_card_names_is_refused(folder, location):
    shutil.copy(folder / "backbone.bin", folder.parent)
    shutil.copy(folder / "backbone.bin", folder / "other.bin")
    redirect(folder / "sst2.onnx", location)
    with pytest.raises(
        ExportError, match=f"has weights in `{location}`, its configuration names only"
    ):
        Session(folder).predict(["good"], task="sst2")


def test_a_graph_that_should_stand_alone_is_refused_if_it_does_not(folder, tmp_path):
    config = json.loads((folder / "sst2.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("weights")}
    (folder / "sst2.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="its configuration names no such file"):
        Session(folder).predict(["good"], task="sst2")


def test_missing_and_swapped_weights_are_named(folder):
    session = Session(folder)
    data = bytearray((folder / "backbone.bin").read_bytes())
    data[0] ^= 1
    (folder / "backbone.bin").write_bytes(data)
    with pytest.raises(ExportError, match=r"is not what `sst2\.onnx` was made for"):
        session.predict(["good"], task="sst2")
    (folder / "backbone.bin").unlink()
    with pytest.raises(ExportError, match=r"cannot read `.*backbone\.bin`: No such file"):
        session.predict(["good"], task="sst2")


def test_a_link_out_of_the_folder_is_refused_unless_the_graph_is_one_too(folder):
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    want = Session(folder).predict(["good"], task="sst2")
    shutil.move(folder / "backbone.bin", blobs)
    (folder / "backbone.bin").symlink_to("../blobs/backbone.bin")
    with pytest.raises(ExportError, match="is a link out of its folder") as caught:
        Session(folder).predict(["good"], task="sst2")
    assert "hard link" in caught.value.hint
    shutil.move(folder / "sst2.onnx", blobs / "any.onnx")
    (folder / "sst2.onnx").symlink_to("../blobs/any.onnx")
    assert Session(folder).predict(["good"], task="sst2") == want


@pytest.mark.parametrize("version", ["1.16.3", "1.9.0", "0.5"])
def test_a_runtime_that_is_too_old_is_named_with_the_one_to_have(folder, monkeypatch, version):
    session = Session(folder)
    monkeypatch.setattr(onnxruntime, "__version__", version)
    with pytest.raises(ExportError, match=rf"{version} is too old.* from 1\.17 on") as caught:
        session.predict(["good"], task="sst2")
    assert "pip install -U onnxruntime" in caught.value.hint
    with pytest.raises(ExportError, match=r"is too old"):
        make_session(folder / "sst2.onnx")


@pytest.mark.parametrize("version", ["1.17.0", "1.32.0.dev20261101", "2.0.0"])
def test_a_runtime_that_is_new_enough_is_taken(folder, monkeypatch, version):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    assert Session(folder).predict(["good"], task="sst2")
