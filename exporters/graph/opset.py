"""A graph in another version of the standard operators than the one that it is traced in."""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnxscript import version_converter

from maskpack.exporters.options import IR_VERSION, OPSET
from maskpack.formats import ExportError


def in_opset(model: ir.Model, opset: int) -> ir.Model:
    """The same graph in `opset`, with the oldest IR version that may hold it.

    Raises:
        ExportError: an operator of the graph has no form in that opset.
    """
    if opset == OPSET:
        return model
    try:
        if opset > OPSET:
            version_converter.convert_version(model, opset, fallback=False)
            converted = model
        else:
            proto = onnx.version_converter.convert_version(ir.serde.serialize_model(model), opset)
            converted = ir.serde.deserialize_model(proto)
    except Exception as error:  # the converters share no class of errors
        raise ExportError(
            f"the graph cannot be written in opset {opset}: {str(error).splitlines()[0]}",
            f"opset {OPSET} is the one that graphs are made in",
        ) from error
    found = converted.graph.opset_imports.get("")
    if found != opset:
        raise ExportError(f"the graph stays in opset {found}, {opset} was asked for")
    imports = [onnx.helper.make_opsetid(*each) for each in converted.graph.opset_imports.items()]
    oldest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    converted.ir_version = max(IR_VERSION, oldest)
    return converted
