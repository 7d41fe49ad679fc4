"""Forms of an int8 graph beside each other: which of them ONNX Runtime's kernels compute faster, and at what error.

python benchmarks/kernels.py ARTIFACT --task sst2 --texts texts.txt [--peer model_quantized.onnx] --out docs/results/kernels.json

Graphs of one task are made with and without divisors of moderate outliers, and with and without the attention operator. To
these come forms that were tried and left out: one product of query, key and value and a `Split` behind it; the attention
operator with a mask; `QAttention`, which multiplies by the integers itself. Each form takes turns with a peer alone, so that
no more than two graphs share the caches: a ratio is the median over rounds of the peer's time over the form's. Errors are
those of the logits against the float32 graph, text by text.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx_ir.passes import common

from maskpack.exporters import make_session
from maskpack.exporters.bench.result import load_average, this_machine
from maskpack.exporters.graph.attention import DOMAIN, Attention, find_attention
from maskpack.exporters.graph.builder import GraphBuilder, serialize
from maskpack.exporters.session import ort_predict, quantile, speedup, take_turns, token_feeds
from maskpack.formats import channels, open_artifact
from maskpack.tasks.batches import Encoded
from maskpack.tasks.context import ModelContext
from maskpack.tasks.data.splits import Split

SHAPES = ((1, 16), (1, 128), (8, 128))
EARLIER_WORTH = 2.0
"""Peak over median peak from which channels were divided in earlier releases."""


def attentions(model: ir.Model) -> list[Attention]:
    return [one for node in model.graph if (one := find_attention(node)) is not None]


def add(model: ir.Model, before: ir.Node, kind: str, inputs: Sequence[Any], **more: Any) -> ir.Node:
    """A node before another one; arrays among its inputs become constants."""
    values = []
    for each in inputs:
        if not isinstance(each, np.ndarray):
            values.append(each)
            continue
        name = f"added.{len(model.graph.initializers)}"
        values.append(ir.Value(name=name, const_value=ir.tensor(each, name=name)))
        model.graph.initializers.add(values[-1])
    node = ir.node(kind, values, **more)
    model.graph.insert_before(before, node)
    return node


def tidy(model: ir.Model) -> ir.Model:
    for step in (common.RemoveUnusedNodesPass(), common.TopologicalSortPass()):
        step(model)
    model.graph.opset_imports.setdefault(DOMAIN, 1)
    return model


def products(attention: Attention) -> list[dict[str, ir.Value]]:
    """Codes, scales and bias of the products that give query, key and value, and their common input."""
    found = []
    for value in attention.inputs:
        biased = value.producer()
        scaled = next(v for v in biased.inputs if v.producer() is not None)
        bias = next(v for v in biased.inputs if v is not scaled)
        wide, by = (v.producer() for v in scaled.producer().inputs)
        integers = wide.inputs[0].producer()
        found.append(
            {
                "input": integers.inputs[0],
                "zero": integers.inputs[2],
                "codes": integers.inputs[1],
                "input_scale": by.inputs[0],
                "scales": by.inputs[1],
                "bias": bias,
            }
        )
    return found


def joined(attention: Attention, name: str, axis: int) -> np.ndarray:
    parts = [each[name].const_value.numpy() for each in products(attention)]
    return np.concatenate(parts, axis)


def one_product(model: ir.Model) -> ir.Model:
    """One product of query, key and value, and a `Split`."""
    for each in attentions(model):
        first, before = products(each)[0], each.nodes[0]
        codes = joined(each, "codes", 1)
        made = add(model, before, "MatMulInteger", [first["input"], codes, first["zero"]])
        wide = add(model, before, "Cast", made.outputs, attributes={"to": 1})
        by = add(model, before, "Mul", [first["input_scale"], joined(each, "scales", 0)])
        scaled = add(model, before, "Mul", [wide.outputs[0], by.outputs[0]])
        biased = add(model, before, "Add", [scaled.outputs[0], joined(each, "bias", 0)])
        sizes = np.array([one["scales"].const_value.size for one in products(each)])
        inputs, attributes = [biased.outputs[0], sizes], {"axis": 2}
        split = add(model, before, "Split", inputs, attributes=attributes, num_outputs=3)
        for old, new in zip(each.inputs, split.outputs, strict=True):
            for reader in list(old.consumers()):
                place = list(reader.inputs).index(old)
                reader.replace_input_with(place, new)
    return tidy(model)


def operator(mask: bool) -> Callable[[ir.Model], ir.Model]:
    """ONNX Runtime's attention operator for all batches, with the mask of padding or without any."""

    def rewrite(model: ir.Model) -> ir.Model:
        for each in attentions(model):
            inputs: list[Any] = [*each.inputs]
            if mask:
                given = next(v for v in model.graph.inputs if v.name == "attention_mask")
                narrow = add(model, each.nodes[-1], "Cast", [given], attributes={"to": 6})
                inputs += [None, narrow.outputs[0]]
            attributes = {"num_heads": each.heads, "scale": each.scale}
            made = add(
                model,
                each.nodes[-1],
                "MultiHeadAttention",
                inputs,
                attributes=attributes,
                domain=DOMAIN,
            )
            each.output.replace_all_uses_with(made.outputs[0])
        return tidy(model)

    return rewrite


def integers_inside(mask: bool) -> Callable[[ir.Model], ir.Model]:
    """`QAttention`: products with the integers, heads and softmax in one operator."""

    def rewrite(model: ir.Model) -> ir.Model:
        for each in attentions(model):
            first, before = products(each)[0], each.nodes[-1]
            codes, scales = joined(each, "codes", 1), joined(each, "scales", 0)
            zeros = np.zeros(codes.shape[1], np.int8)
            given = next(v for v in model.graph.inputs if v.name == "attention_mask")
            index = add(model, before, "Cast", [given], attributes={"to": 6}).outputs[0]
            inputs = [first["input"], codes, joined(each, "bias", 0), first["input_scale"], scales]
            inputs += [index if mask else None, first["zero"], zeros]
            made = add(
                model,
                before,
                "QAttention",
                inputs,
                attributes={"num_heads": each.heads},
                domain=DOMAIN,
            )
            each.output.replace_all_uses_with(made.outputs[0])
        return tidy(model)

    return rewrite


TRIED: dict[str, Callable[[ir.Model], ir.Model]] = {
    "one product, Split": one_product,
    "operator, never a mask": operator(mask=False),
    "operator, always a mask": operator(mask=True),
    "QAttention, never a mask": integers_inside(mask=False),
    "QAttention, always a mask": integers_inside(mask=True),
}


def forms(folder: Path, task: str) -> dict[str, bytes]:
    """Name of a form -> its graph."""
    artifact = open_artifact(folder)
    context, entry = ModelContext.of_artifact(artifact), artifact.entry(task)

    def graph(
        compute: str, fused: bool, then: Callable[[ir.Model], ir.Model] | None = None
    ) -> bytes:
        model = GraphBuilder(artifact, context, compute, fused=fused).folded(entry)
        return serialize(model if then is None else then(model))

    found, usual = {"float32": graph("fp32", False)}, channels.WORTH_IT
    channels.WORTH_IT = EARLIER_WORTH
    found["as before"] = graph("int8", False)
    channels.WORTH_IT = usual
    found["fewer divisors"] = graph("int8", False)
    found["fewer divisors, fused attention"] = graph("int8", True)
    return found | {f"tried: {name}": graph("int8", False, each) for name, each in TRIED.items()}


def logits_of(graph: bytes, encoded: Encoded) -> np.ndarray:
    """Logits of each text alone."""
    predict = ort_predict(make_session(graph, threads=1))
    rows = (encoded.feeds(np.array([row])) for row in range(len(encoded)))
    return np.concatenate([predict(feeds) for feeds in rows])


def measure(graphs: dict[str, bytes], peer: str, runs: int) -> list[dict[str, Any]]:
    """Times of every form beside the peer's."""
    rows = []
    for name, graph in graphs.items():
        if name in (peer, "float32"):
            continue
        sessions = {
            peer: make_session(graphs[peer], threads=1),
            name: make_session(graph, threads=1),
        }
        for batch, length in SHAPES:
            feeds = {
                key: token_feeds(each, batch=batch, length=length) for key, each in sessions.items()
            }
            spent = take_turns(sessions, feeds, runs=runs)
            rows.append(
                {
                    "form": name,
                    "batch": batch,
                    "length": length,
                    "ratio": speedup(spent[peer].wall, spent[name].wall),
                    "ms": quantile(spent[name].wall, 0.5),
                    "peer_ms": quantile(spent[peer].wall, 0.5),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--task", required=True)
    parser.add_argument("--texts", type=Path, help="a text a line")
    parser.add_argument(
        "--peer", type=Path, help="another tool's graph; without it the earlier form"
    )
    parser.add_argument("--runs", type=int, default=31)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    before, graphs, peer = load_average(), forms(args.artifact, args.task), "as before"
    if args.peer:
        peer = args.peer.name
        graphs[peer] = args.peer.read_bytes()
    rows = measure(graphs, peer, args.runs)
    tree: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "peer": peer,
        "machine": vars(this_machine(before)),
        "rows": rows,
        "errors": [],
    }
    if args.texts:
        tree["errors"] = errors_of(args, graphs)
    for row in rows:
        print(
            f"{row['batch']} x {row['length']:<4} {row['ratio']:.3f} {row['ms']:8.2f} {row['form']}"
        )
    for row in tree["errors"]:
        print(f"{row['relative']:.4f} {row['changed']:4d} of {row['rows']} {row['form']}")
    if args.out:
        args.out.write_text(json.dumps(tree, indent=2, sort_keys=True, default=str) + "\n")


def errors_of(args: argparse.Namespace, graphs: dict[str, bytes]) -> list[dict[str, Any]]:
    """Errors of the forms that the product makes, and that it made before."""
    artifact, texts = open_artifact(args.artifact), args.texts.read_text("utf-8").splitlines()
    split = Split(tuple((text,) for text in texts), np.zeros(len(texts), dtype=np.int64))
    preprocessor = ModelContext.of_artifact(artifact).preprocessor()
    encoded = preprocessor.encode(split, max_length=artifact.entry(args.task).max_length)
    exact = logits_of(graphs["float32"], encoded)
    found = []
    for name, graph in graphs.items():
        if name == "float32" or name.startswith("tried") or name.endswith(".onnx"):
            continue
        own = logits_of(graph, encoded)
        relative = float(np.sqrt(np.mean((own - exact) ** 2) / np.mean(exact**2)))
        changed = int((own.argmax(1) != exact.argmax(1)).sum())
        found.append({"form": name, "relative": relative, "changed": changed, "rows": len(texts)})
    return found


if __name__ == "__main__":
    main()
