"""Whether ONNX Runtime's products of int8 are exact on this processor, by default and with the entry that our sessions have, and their time.

    python benchmarks/int8_products.py docs/results/int8-products.json

One `MatMulInteger` of uint8 (128, 384) and int8 (384, 1536), both over their full range, one thread. On x86 without VNNI the default
adds two products in 16 bits, which overflow. Times are of runs in alternation.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from maskpack.runtime.graph import EXACT_PRODUCTS

ROWS, INNER, COLUMNS, ZERO = 128, 384, 1536, 128
RUNS = 41


def graph(weights: np.ndarray) -> bytes:
    """A graph of the product alone."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.UINT8, ["rows", INNER]),
        helper.make_tensor_value_info("zero", TensorProto.UINT8, []),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, ["rows", COLUMNS])]
    node = helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
    own = helper.make_graph(
        [node], "product", inputs, outputs, [numpy_helper.from_array(weights, "w")]
    )
    model = helper.make_model(own, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def session(model: bytes, value: str) -> onnxruntime.InferenceSession:
    """A session with one thread and this value of the entry."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry(EXACT_PRODUCTS[0], value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-127, 128, (INNER, COLUMNS)).astype(np.int8)
    x = rng.integers(0, 256, (ROWS, INNER)).astype(np.uint8)
    right = (x.astype(np.int32) - ZERO) @ weights.astype(np.int32)
    feeds = {"x": x, "zero": np.array(ZERO, dtype=np.uint8)}
    model = graph(weights)
    sessions = {value: session(model, value) for value in ("0", EXACT_PRODUCTS[1])}
    times: dict[str, list[float]] = {value: [] for value in sessions}
    for _ in range(RUNS):
        for value, one in sessions.items():
            start = time.perf_counter()
            one.run(None, feeds)
            times[value].append(time.perf_counter() - start)
    flags = next(
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
    )
    kinds = sorted(flag for flag in flags.split() if flag.startswith(("avx", "amx")))
    results = {
        value: {
            "largest_error": int(np.abs(one.run(None, feeds)[0] - right).max()),
            "median_ms": round(1e3 * float(np.median(times[value])), 3),
            "best_ms": round(1e3 * min(times[value]), 3),
        }
        for value, one in sessions.items()
    }
    ratio = float(np.median(np.array(times[EXACT_PRODUCTS[1]]) / np.array(times["0"])))
    found = {
        "onnxruntime": onnxruntime.__version__,
        "instructions": kinds,
        "ratio": round(ratio, 3),
        "values": results,
    }
    print(json.dumps(found, indent=1))
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
