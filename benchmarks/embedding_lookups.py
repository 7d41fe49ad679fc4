"""Forms of a look-up in a table of narrow codes: time and bytes of a graph that holds nothing else.

    python benchmarks/embedding_lookups.py docs/results/embedding-lookups.json

A table of 30,522 rows of 384, one scale a row, ids of 1 x 16 and 1 x 128 tokens, one thread; runs of all forms in alternation, so that
their ratios are of one machine in one state. `bytes` is the form of 8 bits, `table` reads the codes of each byte from a table of 256 rows,
`shifts` cuts a byte with `BitwiseAnd` and `BitShift`, `blocks` is ONNX Runtime's own `GatherBlockQuantized`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH, RUNS = 30_522, 384, 201
LENGTHS = (16, 128)

Form = tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]


def scaled(scales: NDArray[np.float32], value: str) -> Form:
    """Times the scale of each row."""
    nodes = [
        helper.make_node("Gather", ["scales", "ids"], ["scale"]),
        helper.make_node("Mul", [value, "scale"], ["y"]),
    ]
    return nodes, {"scales": scales}


def as_bytes(codes: NDArray[np.int8]) -> Form:
    """A byte a code."""
    nodes = [
        helper.make_node("Gather", ["codes", "ids"], ["row"]),
        helper.make_node("Cast", ["row"], ["wide"], to=TensorProto.FLOAT),
    ]
    return nodes, {"codes": codes}


def fields(codes: NDArray[np.int8], bits: int, *, strided: bool) -> NDArray[np.uint8]:
    """Codes as packed fields `(rows, width * bits / 8)`: neighbours in a byte, or a quarter of a row apart."""
    each = 8 // bits
    unsigned = (codes + (1 << (bits - 1))).astype(np.uint8)
    shape = (len(codes), -1, each) if not strided else (len(codes), each, -1)
    parts = unsigned.reshape(shape)
    parts = parts if not strided else parts.transpose(0, 2, 1)
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
    return nodes, {"packed": fields(codes, bits, strided=False), "table": table, "shape": shape}


def by_shifts(codes: NDArray[np.int8], bits: int) -> Form:
    """Fields that lie a part of the row apart, cut out and put side by side."""
    each, nodes = 8 // bits, [helper.make_node("Gather", ["packed", "ids"], ["row"])]
    values: dict[str, NDArray[Any]] = {"packed": fields(codes, bits, strided=True)}
    values["mask"] = np.array((1 << bits) - 1, dtype=np.uint8)
    values["middle"] = np.array(1 << (bits - 1), dtype=np.float32)
    for part in range(each):
        source = "row"
        if part:
            values[f"by{part}"] = np.array(part * bits, dtype=np.uint8)
            nodes.append(
                helper.make_node("BitShift", ["row", f"by{part}"], [f"s{part}"], direction="RIGHT")
            )
            source = f"s{part}"
        if part < each - 1:
            nodes.append(helper.make_node("BitwiseAnd", [source, "mask"], [f"a{part}"]))
            source = f"a{part}"
        nodes.append(helper.make_node("Identity", [source], [f"p{part}"]))
    nodes += [
        helper.make_node("Concat", [f"p{part}" for part in range(each)], ["all"], axis=-1),
        helper.make_node("Cast", ["all"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "middle"], ["wide"]),
    ]
    return nodes, values


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
    return [node], {"packed": fields(codes, bits, strided=False), "scales": wide}


def graph(form: Form) -> bytes:
    """A model of a form."""
    nodes, values = form
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "sequence"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(value, name) for name, value in values.items()]
    own = helper.make_graph(nodes, "lookup", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(own, opset_imports=opsets, ir_version=8).SerializeToString()


def session(model: bytes) -> onnxruntime.InferenceSession:
    """A session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def made(name: str, make: Callable[[], Form]) -> tuple[bytes, Any] | None:
    """Graph and session of a form, or None where ONNX Runtime has no such kernel."""
    model = graph(make())
    try:
        return model, session(model)
    except Exception as error:  # noqa: BLE001 - a kernel that this release does not have
        print(f"{name}: {str(error)[:160]}", file=sys.stderr)
        return None


def forms() -> Mapping[str, Callable[[], Form]]:
    """Name -> a form."""
    rng = np.random.default_rng(0)
    scales = rng.uniform(0.5, 2, (ROWS, 1)).astype(np.float32)
    codes = {
        bits: rng.integers(-(1 << (bits - 1)) + 1, 1 << (bits - 1), (ROWS, WIDTH)).astype(np.int8)
        for bits in (8, 4, 2)
    }

    def whole(form: Form) -> Form:
        tail = scaled(scales, "wide")
        return [*form[0], *tail[0]], {**form[1], **tail[1]}

    found: dict[str, Callable[[], Form]] = {"8 bits, bytes": lambda: whole(as_bytes(codes[8]))}
    for bits in (4, 2):
        found[f"{bits} bits, table"] = lambda b=bits: whole(by_table(codes[b], b))
        found[f"{bits} bits, shifts"] = lambda b=bits: whole(by_shifts(codes[b], b))
        found[f"{bits} bits, blocks"] = lambda b=bits: by_blocks(codes[b], scales, b)
    return found


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
