"""The constant part of a graph, computed value by value, is what ONNX Runtime folds; messages are those of protobuf."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from maskpack.exporters.session import make_session
from maskpack.formats import ExportError
from maskpack.runtime import materialize
from maskpack.runtime.constants import ConstantPart, external_tensor, stored_tensor, type_of
from maskpack.runtime.messages import bytes_field, number, number_field, read_fields, read_number

FLOAT = TensorProto.FLOAT


def model_of(nodes, tensors, inputs, outputs):
    def value(name):
        return helper.make_tensor_value_info(name, FLOAT, None)

    graph = helper.make_graph(
        nodes, "g", [value(name) for name in inputs], [value(name) for name in outputs], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def part_of(model, path):
    path.write_bytes(model.SerializeToString())
    return ConstantPart(path, path.with_name("backbone.bin"))


def folded(part):
    """The graph with its computed constants inside."""
    made = [part.tensors[name].raw for name in part.kept]
    for name in part.wanted:
        array = part.computed(name)
        made.append(stored_tensor(name, array.shape, type_of(array), array.tobytes()))
    return b"".join(part.without(made))


@pytest.fixture
def graph():
    """`y = x * w + scalar`, with `w` and `scalar` constant, and what is not: an input with a default, a branch, an output."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.normal(size=(3, 4)).astype("f4"), "a"),
        helper.make_tensor("typed", FLOAT, [1, 4], [1.0, 2.0, 3.0, 4.0]),
        numpy_helper.from_array(np.array(2.0, "f4"), "two"),
        numpy_helper.from_array(np.array([7.0], "f4"), "default"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.zeros(0, "f4"), "empty"),
    ]
    inner = helper.make_node("Add", ["scalar", "unused"], ["inner"])
    branch = helper.make_graph(
        [inner], "then", [], [helper.make_tensor_value_info("inner", FLOAT, None)]
    )
    nodes = [
        helper.make_node("Mul", ["a", "typed"], ["w"]),
        helper.make_node("Sqrt", ["two"], ["scalar"]),
        helper.make_node("Mul", ["two", "two"], ["unused"]),
        helper.make_node("Mul", ["two", "scalar"], ["given_back"]),
        helper.make_node("Mul", ["default", "two"], ["changeable"]),
        helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch),
        helper.make_node("Mul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "scalar"], ["sum"]),
        helper.make_node("Add", ["chosen", "changeable"], ["more"]),
        helper.make_node("Concat", ["empty", "empty"], ["nothing"], axis=0),
        helper.make_node("ReduceSum", ["nothing"], ["zero"], keepdims=0),
        helper.make_node("Add", ["more", "zero"], ["all"]),
        helper.make_node("Add", ["sum", "all"], ["y"]),
    ]
    return model_of(nodes, tensors, ["x", "default"], ["y", "given_back"])


def test_what_follows_from_constants_is_left_out_and_nothing_else(graph, tmp_path):
    part = part_of(graph, tmp_path / "g.onnx")
    assert set(part.wanted) == {"w", "scalar", "unused", "zero"}, "also what a branch takes"
    made = onnx.load_from_string(folded(part))
    kinds = [node.op_type for node in made.graph.node]
    assert kinds == ["Mul", "Mul", "If", "Mul", "Add", "Add", "Add", "Add"]
    stored = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    assert stored["scalar"] == ()
    assert stored["w"] == (3, 4)
    assert not {"a", "typed"} & set(stored)


@pytest.mark.parametrize("default", [None, 3.0])
def test_the_folded_graph_gives_the_same(graph, tmp_path, default):
    part = part_of(graph, tmp_path / "g.onnx")
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 4)).astype("f4")}
    if default is not None:
        feeds["default"] = np.array([default], "f4")
    before, after = (
        onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, feeds)
        for data in (graph.SerializeToString(), folded(part))
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["bert", "grouped", "albert", "distilbert"])
@pytest.mark.parametrize("compute", ["int8", "fp32"])
def test_an_installed_task_gives_the_logits_it_gave_bit_for_bit(
    shared, tmp_path, tokens, kind, compute
):
    source, _ = shared(kind, compute)
    graph = materialize(source, tmp_path / "x", task="sst2")
    before, after = make_session(source / "sst2.onnx"), make_session(graph)
    names = [value.name for value in before.get_inputs()]
    for rows, width in ((1, 1), (3, 11), (2, 16)):
        feeds = tokens(names, rows, width, padded=True)
        np.testing.assert_array_equal(after.run(None, feeds)[0], before.run(None, feeds)[0])


def test_a_value_is_computed_from_what_it_needs_alone(shared):
    folder, _ = shared("grouped", "int8")
    part = ConstantPart(folder / "sst2.onnx", folder / "backbone.bin")
    sizes = {name: len(part._part(name)) for name in part.wanted}
    assert len(sizes) > 10
    assert max(sizes.values()) < 0.5 * sum(sizes.values())
    whole = (folder / "backbone.bin").stat().st_size + (folder / "sst2.onnx").stat().st_size
    assert max(sizes.values()) < 0.5 * whole


def test_weights_that_end_too_early_are_named(tmp_path):
    tensor = TensorProto(name="a", data_type=FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "backbone.bin"), ("offset", "4"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    nodes = [
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    part = part_of(model_of(nodes, [tensor], ["x"], ["y"]), tmp_path / "g.onnx")
    (tmp_path / "backbone.bin").write_bytes(np.arange(3, dtype="f4").tobytes())
    assert part.computed("b").tolist() == [-1.0, -2.0]
    (tmp_path / "backbone.bin").write_bytes(bytes(11))
    with pytest.raises(ExportError, match=r"ends before the tensor `a` does"):
        part.computed("b")


@pytest.mark.parametrize("data", [b"\x3a\xff", b"\x0b", b"\xff" * 12, b"\x3a\x02\x0a\x05"])
def test_what_is_no_graph_is_refused(tmp_path, data):
    (tmp_path / "g.onnx").write_bytes(data)
    with pytest.raises(ExportError, match="cannot load"):
        ConstantPart(tmp_path / "g.onnx", tmp_path / "backbone.bin")


def test_an_operator_that_is_not_there_is_told(tmp_path):
    nodes = [helper.make_node("NoSuch", ["a"], ["b"]), helper.make_node("Add", ["x", "b"], ["y"])]
    tensor = numpy_helper.from_array(np.ones(2, "f4"), "a")
    part = part_of(model_of(nodes, [tensor], ["x"], ["y"]), tmp_path / "g.onnx")
    with pytest.raises(ExportError, match="cannot fold `b`"):
        part.computed("b")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63 - 1])
def test_numbers_come_back(value):
    data = number(value)
    assert read_number(memoryview(data), 0) == (value, len(data))
    (field,) = read_fields(memoryview(number_field(7, value)))
    assert (field.number, field.value) == (7, value)


@pytest.mark.parametrize("kind", ["f4", "f2", "f8", "i1", "u1", "i4", "i8", "?", "u2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_stored_tensors_are_those_of_onnx(kind, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(kind)
    data = stored_tensor("name", array.shape, type_of(array), array.tobytes())
    graph = onnx.GraphProto.FromString(data)
    found = numpy_helper.to_array(graph.initializer[0])
    assert (graph.initializer[0].name, found.dtype, found.shape) == ("name", array.dtype, shape)
    np.testing.assert_array_equal(found, array)


def test_a_tensor_in_a_file_is_that_of_onnx():
    data = external_tensor("name", (2, 3), FLOAT, "backbone.bin", 4096, 24)
    (tensor,) = onnx.GraphProto.FromString(data).initializer
    pairs = {entry.key: entry.value for entry in tensor.external_data}
    assert pairs == {"location": "backbone.bin", "offset": "4096", "length": "24"}
    assert tensor.data_location == TensorProto.EXTERNAL
    assert list(tensor.dims) == [2, 3]


def test_fields_of_any_kind_are_copied():
    data = bytes_field(3, b"abc") + number_field(1, 5) + b"\x21" + bytes(8) + b"\x2d" + bytes(4)
    fields = list(read_fields(memoryview(data)))
    assert [field.number for field in fields] == [3, 1, 4, 5]
    assert b"".join(field.raw for field in fields) == data
