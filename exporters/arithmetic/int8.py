"""Integer arithmetic: activations are quantised in every run, one scale a tensor; weights have one a channel.

    x [-> Mul] -> DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul(x_scale * w_scale) -> Add(b)

ONNX Runtime fuses this form into its fast kernel from version 1.17 on; a zero point for the weights would
slow it down.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from maskpack.exporters.arithmetic.base import ROUNDED, Arithmetic, Read, own_codes
from maskpack.exporters.graph.dequantize import Constants, DequantizeProducts, IntegerProduct
from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.passes import RewriteContext, only_user
from maskpack.formats import QuantTensor
from maskpack.formats.channels import channel_weights


def emit_int8(
    editor: GraphEditor, inputs: ir.Value, tensor: QuantTensor, context: RewriteContext
) -> ir.Value:
    """Integer arithmetic: activations are quantised in every run, once for all their readers."""
    divisor = context.divisors.get(f"{editor.name}.weight")
    weights, kept = channel_weights(tensor, divisor), context.masks.kept(editor.name)
    key = (inputs, b"" if divisor is None else divisor.tobytes())
    if key not in context.quantized:
        even = inputs
        if divisor is not None:
            whole = np.float32(1) / divisor
            factor = context.masks.taken(editor, whole, "factor", kept.columns, 0)
            (even,) = editor.op("Mul", inputs, factor, label="even")
        context.quantized[key] = editor.op("DynamicQuantizeLinear", even, label="input", outputs=3)
    codes, scale, zero = context.quantized[key]
    unpack = context.unpack(tensor, weights.rescaling)
    matrix = context.masks.matrix(editor, weights.codes, weights.codes.shape, unpack)
    (product,) = editor.op("MatMulInteger", codes, matrix, zero, label="product")
    wide = editor.cast(product, ir.DataType.FLOAT, label="wide")
    own = context.masks.taken(editor, weights.scales, "scales", kept.rows, 0)
    (scales,) = editor.op("Mul", scale, own, label="scale")
    (result,) = editor.op("Mul", wide, scales, label="linear")
    return result


def emit_tied(editor: GraphEditor, inputs: ir.Value, codes: ir.Value, scales: ir.Value) -> ir.Value:
    """The same with a table `(v, w)` that is looked up too: ONNX Runtime turns its codes round when a session is made."""
    whole, scale, zero = editor.op("DynamicQuantizeLinear", inputs, label="input", outputs=3)
    (turned,) = editor.op("Transpose", codes, label="turned")
    (product,) = editor.op("MatMulInteger", whole, turned, zero, label="product")
    wide = editor.cast(product, ir.DataType.FLOAT, label="wide")
    (rows,) = editor.op("Reshape", scales, editor.shape(-1), label="rows")
    (both,) = editor.op("Mul", scale, rows, label="both")
    (result,) = editor.op("Mul", wide, both, label="linear")
    return result


class DequantizeLinears(DequantizeProducts):
    """Replace every integer product by a float one."""

    def find(self, node: ir.Node) -> IntegerProduct | None:
        """The nodes of `emit_int8` around a product."""
        if node.op_type != "MatMulInteger":
            return None
        activations, codes = node.inputs[:2]
        quantizer = None if activations is None else activations.producer()
        scaled = only_user(only_user(node, "Cast"), "Mul")
        if quantizer is None or quantizer.op_type != "DynamicQuantizeLinear" or scaled is None:
            return None
        by, even = scaled.inputs[1], quantizer.inputs[0]
        scale = None if by is None else by.producer()
        if codes is None or codes.name not in self.constants or scale is None or even is None:
            return None
        scales = scale.inputs[1]
        if scale.inputs[0] is not quantizer.outputs[1] or scales is None:
            return None
        inputs, factor = _undivided(even, self.constants)
        constants = (codes, scales) if factor is None else (codes, scales, factor)
        return IntegerProduct(inputs, scales, constants, _float_weight, scaled.outputs[0])


def _float_weight(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    factor: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    weight = codes * scales
    return (weight if factor is None else factor[:, None] * weight).astype(np.float32)


def _undivided(even: ir.Value, constants: Constants) -> tuple[ir.Value, ir.Value | None]:
    """Activations before the division of outlier channels, and the factors, if there is one."""
    source = even.producer()
    if source is None or source.op_type != "Mul":
        return even, None
    inputs, factor = source.inputs
    # A product of the model itself has a single number, or two activations.
    single = factor is None or factor.shape is None or len(factor.shape) != 1
    if inputs is None or factor is None or single or not constants.is_stored(factor.name):
        return even, None
    return inputs, factor


_HALF = 0.5 + 1e-4  # of a step, and rounding of float32


def nearest_steps(
    read: Read, module: str, stored: NDArray[np.int8], tensor: QuantTensor
) -> NDArray[np.bool_]:
    """Where codes times their scale, and divisor, are the tensor's weights up to half a step; own codes exactly.

    Codes in their own width are the tensor's own, which the graph rescales.
    """
    scales, factor = read(f"{module}.scales"), read(f"{module}.factor")
    own = read(f"{module}.fields") is not None
    if own or scales is None or (tensor.scales.shape[1] == 1 and factor is None):
        return own_codes(read, module, stored, tensor)
    step = np.ones(stored.shape, dtype=np.float64) * scales
    if factor is not None:
        step *= factor[:, None]
    return np.asarray(np.abs(stored * step - tensor.dequantize().T) <= _HALF * step)


INT8 = Arithmetic(
    name="int8",
    emit=emit_int8,
    tolerance=ROUNDED,
    masks_as_inputs=True,
    operator="MatMulInteger",
    divides=True,
    fuses_attention=True,
    dequantize=DequantizeLinears,
    fits=nearest_steps,
    tied=emit_tied,
)
