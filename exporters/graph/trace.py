"""A torch classifier to an ONNX graph in float32, with its parameters under their own names.

`optimize=False` keeps the names and one `Transpose` per weight, which the rewrites look for; with
optimisation the weights would arrive renamed and folded.

Tracing is most of the time of an export and does not look at the values of parameters. So the last graphs
are kept without them: the tasks of one artifact, which differ in values alone, are traced once.
"""

from __future__ import annotations

import gc
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import InPlacePass, PassResult, common
from torch import Tensor, nn

from maskpack.exporters.options import IR_VERSION, OPSET
from maskpack.formats import ExportError
from maskpack.models.families import Family
from maskpack.models.inputs import ATTENTION, inputs_of
from maskpack.models.outline import names_of
from maskpack.models.pooling import gives_vectors
from maskpack.models.spans import OUTPUTS

PREFIX = "model."
"""What the tracer puts before every parameter name."""

_NOT_COMPUTED = {"id2label", "label2id", "problem_type", "_name_or_path"}
_KEPT = 16
_graphs: dict[str, bytes] = {}  # what `_kind_of` says -> a graph without values, the newest last


def input_names(family: Family, config: Mapping[str, Any]) -> list[str]:
    """Names of a graph's inputs, in order, from a configuration as a mapping."""
    return list(inputs_of(family).axes(family, config))


def output_names(model: Any) -> tuple[str, ...]:
    """Names of a graph's outputs: `logits`, or those of a class that has several."""
    return tuple(getattr(type(model), OUTPUTS, ("logits",)))


class _Logits(nn.Module):
    """The classifier as a function of its inputs by position, returning its outputs, and the states behind each layer if asked."""

    def __init__(self, model: Any, names: list[str], *, float_mask: bool, states: bool) -> None:
        super().__init__()
        self.model = model
        self.names, self.float_mask, self.states = names, float_mask, states
        # of a graph that is cut into trunk and top other programs read nothing
        self.outputs = (
            output_names(model)[:1]
            if gives_vectors(model.config) and states
            else output_names(model)
        )

    def forward(self, *inputs: Tensor) -> Any:
        feeds = dict(zip(self.names, inputs, strict=True))
        if self.float_mask:
            feeds[ATTENTION] = feeds[ATTENTION].to(torch.float32)
        found = self.model(**feeds, **({"output_hidden_states": True} if self.states else {}))
        own = tuple(getattr(found, name) for name in self.outputs)
        if not self.states:
            return own[0] if len(own) == 1 else own
        return (*own, *found.hidden_states[1:])


STATE = "state"
"""How names of outputs begin that hold hidden states."""


def state_name(layers: int) -> str:
    """Name of the output of a traced graph that holds the hidden states behind so many layers."""
    return f"{STATE}{layers}"


def trace(model: Any, family: Family, *, states: bool = False) -> ir.Model:
    """Trace a classifier with dynamic batch axis, and of texts a dynamic sequence axis.

    Args:
        model: in evaluation mode, float32, with `eager` attention (plain MatMul and Softmax).
        family: its architecture.
        states: whether the hidden states behind 1, 2, ... layers are outputs too, called as `state_name` says.

    Raises:
        ExportError: torch cannot express the model as a graph.
    """
    kind, values = f"{states} {_kind_of(model)}", model.state_dict(prefix=PREFIX)
    made = _graphs.pop(kind, b"") or _without(
        values, _with_first_names(model, _trace(model, family, states=states))
    )
    _graphs[kind] = made
    for oldest in list(_graphs)[:-_KEPT]:
        del _graphs[oldest]
    traced = ir.serde.deserialize_model(onnx.load_from_string(_graphs[kind]))
    for name in traced.graph.initializers.keys() & values.keys():
        traced.graph.initializers[name].const_value = ir.tensor(values[name].numpy(), name=name)
    return traced


def _with_first_names(model: Any, traced: ir.Model) -> ir.Model:
    """A traced graph whose constants have the first of a parameter's names: of a table that is a decoder too the tracer takes the last."""
    initializers = traced.graph.initializers
    for names in names_of(model).values():
        first, *others = (f"{PREFIX}{name}" for name in names)
        for other in others:
            value = initializers.pop(other, None)
            if value is not None and first in initializers:
                value.replace_all_uses_with(initializers[first])
            elif value is not None:
                value.name = first
                initializers[first] = value
    return traced


def _without(values: Mapping[str, Tensor], model: ir.Model) -> bytes:
    """A graph with the shapes of those values alone."""
    for name in model.graph.initializers.keys() & values.keys():
        value = model.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.ExternalTensor(
            "nowhere",
            None,
            None,
            value.const_value.dtype,
            shape=ir.Shape(values[name].shape),
            name=name,
        )
    return bytes(ir.serde.serialize_model(model).SerializeToString())


def _kind_of(model: Any) -> str:
    """What a graph depends on beside the values of parameters: modules, sizes and options."""
    options = model.config.to_dict().items()
    return f"{model!r} {sorted(one for one in options if one[0] not in _NOT_COMPUTED)}"


def _trace(model: Any, family: Family, *, states: bool) -> ir.Model:
    config, reading = model.config.to_dict(), inputs_of(family)
    axes = reading.axes(family, config)
    names = list(axes)
    example = tuple(torch.from_numpy(each) for each in reading.example(family, config))
    varying = tuple(
        {
            place: torch.export.Dim.DYNAMIC
            for place, axis in enumerate(each)
            if isinstance(axis, str)
        }
        for each in axes.values()
    )
    wrapper = _Logits(model, names, float_mask=family.float_mask, states=states).eval()
    layers = model.config.num_hidden_layers if states else 0
    try:
        with _quiet(), _uncollected():
            program = torch.onnx.export(
                wrapper,
                example,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=names,
                output_names=[*wrapper.outputs, *(state_name(n) for n in range(1, layers + 1))],
                dynamic_shapes={"inputs": varying},
            )
    except (RuntimeError, TypeError, ValueError, torch.onnx.OnnxExporterError) as error:
        raise ExportError(
            f"torch cannot trace `{model.config.model_type}`: {_cause(error)}"
        ) from error
    assert program is not None
    return _tidy(program.model, axes, wrapper.outputs)


def _tidy(
    model: ir.Model, inputs: Mapping[str, Sequence[str | int]], own: tuple[str, ...]
) -> ir.Model:
    """Name the axes, remove metadata with local paths, and set the IR version."""
    for value, axes in zip(model.graph.inputs, inputs.values(), strict=True):
        value.shape = ir.Shape(axes)
        value.metadata_props.clear()
    for value in model.graph.outputs[: len(own)]:
        _name_axes(value)
    assert [value.name for value in model.graph.inputs] == list(inputs)
    for step in (
        common.ClearMetadataAndDocStringPass(),
        common.IdentityEliminationPass(),
        _OneCopyOfFlags(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    ):
        model = step(model).model
    for value in model.graph.outputs[: len(own)]:
        _name_axes(value)  # a step may have put the value before an Identity in its place
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.graph.name = "maskpack"
    return ir.Model(
        model.graph,
        ir_version=IR_VERSION,
        producer_name="maskpack",
        functions=list(model.functions.values()),
    )


def _name_axes(value: ir.Value) -> None:
    """Name the axes of an output, and remove metadata."""
    assert value.shape is not None
    width = value.shape[-1]
    each_token = ("sequence",) if len(value.shape) == 3 else ()
    value.shape = ir.Shape(["batch", *each_token, width if isinstance(width, int) else "sequence"])
    value.metadata_props.clear()


class _OneCopyOfFlags(InPlacePass):
    """Merge equal boolean constants: GPT-2 has a triangle of a megabyte in every layer."""

    def call(self, model: ir.Model) -> PassResult:
        """Keep the first of each."""
        graph, first = model.graph, dict[tuple[Any, bytes], ir.Value]()
        flags = [v for v in graph.initializers.values() if v.dtype == ir.DataType.BOOL]
        for value in flags:
            assert value.const_value is not None
            assert value.name is not None
            key = (value.const_value.shape.numpy(), value.const_value.tobytes())
            if first.setdefault(key, value) is not value:
                value.replace_all_uses_with(first[key])
                del graph.initializers[value.name]
        return PassResult(model, modified=len(first) < len(flags))


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tracer's messages about its own internals; where it fails it prints whole programs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the garbage collector rest: the tracer makes objects by the hundred thousand, and looking for cycles among them takes a tenth of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _cause(error: BaseException) -> str:
    """First line of the error, without the tracer's own advice."""
    return (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
