"""Integer arithmetic: activations are quantised on the fly, one scale a tensor; weights have one a channel.

    x [-> Mul] -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(x_scale * w_scale) -> Add(b)

ONNX Runtime fuses this form into its fast kernel from version 1.17 on; a zero point for the weights would
slow it down.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import RewriteContext
from maskpack.exporters.graph.weights import channel_weights
from maskpack.formats import QuantTensor


def emit_int8(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, context: RewriteContext
) -> ir.Value:
    """Integer arithmetic: activations are quantised on the fly, once for all that read them."""
    divisor = context.divisors.get(f"{editor.name}.weight")
    weights = channel_weights(tensor, divisor)
    key = (inputs, b"" if divisor is None else divisor.tobytes())
    if key not in context.quantized:
        even = inputs
        if divisor is not None:
            factor = editor.constant(np.float32(1) / divisor, "factor")
            (even,) = editor.op("Mul", inputs, factor, label="even")
        context.quantized[key] = editor.op("DynamicQuantizeLinear", even, label="input", outputs=3)
    codes, scale, zero = context.quantized[key]
    unpack = context.unpack(tensor, weights.rescaling)
    matrix = context.masks.matrix(editor, weights.codes, weights.codes.shape, unpack)
    (product,) = editor.op("MatMulInteger", codes, matrix, zero, label="product")
    wide = editor.cast(product, ir.DataType.FLOAT, label="wide")
    (scales,) = editor.op("Mul", scale, editor.constant(weights.scales, "scales"), label="scale")
    (result,) = editor.op("Mul", wide, scales, label="linear")
    return result
