"""Forms of a look-up in a table of narrow codes: time and bytes of a graph that holds nothing else.

    python benchmarks/embedding_lookups.py docs/results/embedding-lookups.json

A table of 30,522 rows of 384, one scale a row, ids of 1 x 16 and 1 x 128 tokens, one thread; runs of all forms in alternation, so that
their ratios are of one machine in one state. `exported` is what graphs hold (`row_look_up`), `table` reads the codes of each byte from a table of 256 rows, `blocks` is ONNX Runtime's own
`GatherBlockQuantized`, which has no 3 bits.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from maskpack.exporters.graph.editor import GraphEditor
from maskpack.exporters.graph.look_ups import row_look_up
from maskpack.formats import QuantTensor
from maskpack.formats.bits import code_limit
from maskpack.formats.mixed_rows import MixedRows

ROWS, WIDTH, RUNS = 30_522, 384, 201
LENGTHS = (16, 128)

Form = tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]


def table_of(width: int, rows: int = ROWS) -> QuantTensor:
    """A table of random codes; zero-free below 4 bits."""
    rng, free = np.random.default_rng(0), width < 4
    limit = code_limit(width, zero_free=free)
    codes = rng.choice(np.arange(-limit, limit + 1, 2 if free else 1), (rows, WIDTH))
    scales = rng.uniform(0.5, 2, (rows, 1)).astype(np.float16)
    return QuantTensor(codes.astype(np.int8), scales, width, WIDTH, free)


def two_widths() -> QuantTensor:
    """A fifth of the rows, here and there, has 4 bits and the others 2."""
    wide = np.zeros(ROWS, dtype=np.bool_)
    wide[np.random.default_rng(0).permutation(ROWS)[: ROWS // 5]] = True
    return MixedRows(table_of(4, ROWS // 5), table_of(2, ROWS - ROWS // 5), wide)


def exported(tensor: QuantTensor) -> bytes:
    """What a graph holds of a table."""
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["b", "s"]))
    end = ir.node("Identity", [ids])
    own = ir.Graph([ids], [], nodes=[end], opset_imports={"": 18}, name="lookup")
    rows = row_look_up(tensor, alone=True)(GraphEditor(own, end, "words"), ids)
    rows.type, rows.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["b", "s", WIDTH])
    own.outputs.append(rows)
    own.remove(end)
    model = ir.serde.serialize_model(ir.Model(own, ir_version=8))
    return bytes(model.SerializeToString())


def scaled(scales: NDArray[np.float32], value: str) -> Form:
    """Times the scale of each row."""
    nodes = [
        helper.make_node("Gather", ["scales", "ids"], ["scale"]),
        helper.make_node("Mul", [value, "scale"], ["y"]),
    ]
    return nodes, {"scales": scales}


def fields(codes: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Codes as packed fields `(rows, width * bits / 8)`, neighbours in a byte."""
    each = 8 // bits
    parts = (codes + (1 << (bits - 1))).astype(np.uint8).reshape(len(codes), -1, each)
    shifted = parts << (np.arange(each, dtype=np.uint8) * bits)
    return np.asarray(np.bitwise_or.reduce(shifted, axis=-1), dtype=np.uint8)


def by_table(codes: NDArray[np.int8], bits: int) -> Form:
    """Each byte is the row of a table of 256."""
    each = 8 // bits
    every = (np.arange(256)[:, None] >> (np.arange(each) * bits)) & ((1 << bits) - 1)
    table = (every - (1 << (bits - 1))).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["packed", "ids"], ["row"]),
        helper.make_node("Cast", ["row"], ["index"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "index"], ["parts"]),
        helper.make_node("Reshape", ["parts", "shape"], ["wide"]),
    ]
    shape = np.array([0, 0, WIDTH], dtype=np.int64)
    return nodes, {"packed": fields(codes, bits), "table": table, "shape": shape}


def by_blocks(codes: NDArray[np.int8], scales: NDArray[np.float32], bits: int) -> Form:
    """ONNX Runtime's operator; the scale of a row once for each block of 128."""
    node = helper.make_node(
        "GatherBlockQuantized",
        ["packed", "ids", "scales"],
        ["y"],
        domain="com.microsoft",
        gather_axis=0,
        quantize_axis=1,
        block_size=128,
        bits=bits,
    )
    wide = np.repeat(scales, WIDTH // 128, axis=1)
    return [node], {"packed": fields(codes, bits), "scales": wide}


def graph(form: Form) -> bytes:
    """A model of a form."""
    nodes, values = form
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(value, name) for name, value in values.items()]
    own = helper.make_graph(nodes, "lookup", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(own, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def made(name: str, make: Callable[[], bytes]) -> tuple[bytes, Any] | None:
    """Graph and session of a form, or None where ONNX Runtime has no such kernel."""
    model = make()
    try:
        return model, session(model)
    except Exception as error:  # noqa: BLE001 - a kernel that this release does not have
        print(f"{name}: {str(error)[:160]}", file=sys.stderr)
        return None


def forms() -> Mapping[str, Callable[[], bytes]]:
    """Name -> a graph of a form."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.5, 2, (ROWS, 1)).astype(np.float32)

    def of_table(bits: int) -> bytes:
        own, tail = by_table(random_codes(rng, bits), bits), scaled(scales, "wide")
        return graph(([*own[0], *tail[0]], {**own[1], **tail[1]}))

    def of_blocks(bits: int) -> bytes:
        return graph(by_blocks(random_codes(rng, bits), scales, bits))

    found: dict[str, Callable[[], bytes]] = {
        f"{width} bits, exported": partial(exported, table_of(width)) for width in (8, 4, 3, 2)
    }
    found["4 and 2 bits, exported"] = partial(exported, two_widths())
    for bits in (4, 2):
        found[f"{bits} bits, table"] = partial(of_table, bits)
        found[f"{bits} bits, blocks"] = partial(of_blocks, bits)
    return found


def random_codes(rng: np.random.Generator, bits: int) -> NDArray[np.int8]:
    """A table of codes."""
    half = 1 << (bits - 1)
    return rng.integers(-half + 1, half, (ROWS, WIDTH)).astype(np.int8)


def main() -> None:
    ready = {name: pair for name, make in forms().items() if (pair := made(name, make))}
    rng = np.random.default_rng(1)
    results: dict[str, dict[str, Any]] = {
        name: {"graph_bytes": len(model)} for name, (model, _) in ready.items()
    }
    for length in LENGTHS:
        feeds = {"ids": rng.integers(0, ROWS, (1, length))}
        times: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(RUNS):
            for name, (_, one) in ready.items():
                start = time.perf_counter()
                one.run(None, feeds)
                times[name].append(time.perf_counter() - start)
        for name, taken in times.items():
            results[name][f"us_1x{length}"] = round(1e6 * float(np.median(taken)), 1)
    found = {"onnxruntime": onnxruntime.__version__, "forms": results}
    print(json.dumps(found, indent=1))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
