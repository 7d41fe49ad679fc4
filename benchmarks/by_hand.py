"""What is written by hand, beside the library that could stand in its place: memory, time and bytes.

    python benchmarks/by_hand.py ARTIFACT GRAPH ... --out docs/results/by_hand.json

ARTIFACT holds an 8-bit backbone and masks of some shares of zeros; each GRAPH is exported of it, one that holds its
weights and one that names another file.
Memory is of a fresh process each, less what it held with ONNX Runtime and our modules imported; times take turns in one process
and are medians of ratios. `brotli` is measured where it is installed.
"""

from __future__ import annotations

import argparse
import bz2
import importlib.util
import json
import lzma
import mmap
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import zstandard
from safetensors import safe_open
from safetensors.numpy import load_file

from maskpack.formats import open_artifact
from maskpack.formats.coded import decode_masks, encode_gaps, encode_masks
from maskpack.formats.tensorfile import read_tensors

ROUNDS = 15

# --- reading a backbone


def by_views(path: Path) -> dict:
    """Ours: views of the mapped file."""
    with path.open("rb") as file:
        return read_tensors(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[0]


def by_safe_open(path: Path) -> dict:
    with safe_open(path, framework="numpy") as file:
        return file.get_tensors() if hasattr(file, "get_tensors") else by_name(file)


def by_name(file) -> dict:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping


READERS: dict[str, Callable] = {
    "ours": by_views,
    "safetensors.safe_open": by_safe_open,
    "safetensors.numpy.load_file": load_file,
}

# --- which files a graph names


def by_hand(graph: Path) -> set[str]:
    from maskpack.runtime.graph import external_files

    return external_files(graph)


def by_onnx(graph: Path) -> set[str]:
    import onnx

    model = onnx.load(graph, load_external_data=False)
    tensors = onnx.external_data_helper._get_all_tensors(model)  # noqa: SLF001 - no public walk
    return {
        one.value for tensor in tensors for one in tensor.external_data if one.key == "location"
    }


def by_protobuf(graph: Path) -> set[str]:
    """The messages of our reader described to google.protobuf, which ONNX Runtime brings along."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    from maskpack.runtime.graph import _WITHIN

    file = descriptor_pb2.FileDescriptorProto(name="by_hand.proto", package="hand", syntax="proto2")
    for kind, fields in {**_WITHIN, "entry": {1: "", 2: ""}}.items():
        message = file.message_type.add(name=kind)
        for number, inner in fields.items():
            kind_of = {"type": 11, "type_name": f".hand.{inner}"} if inner else {"type": 12}
            message.field.add(name=f"f{number}", number=number, label=3, **kind_of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    model = message_factory.GetMessageClass(pool.FindMessageTypeByName("hand.model"))()
    model.ParseFromString(graph.read_bytes())
    found, waiting = set(), [model]
    while waiting:
        message = waiting.pop()
        if message.DESCRIPTOR.name == "entry":
            if message.f1[-1:] == [b"location"]:
                found.add(message.f2[-1].decode())
            continue
        waiting += [inner for _, values in message.ListFields() for inner in values]
    return found


NAMERS = {"ours": by_hand, "onnx": by_onnx, "google.protobuf": by_protobuf}

# --- how both are measured


def in_turns(ways: dict[str, Callable], path: Path, first: str) -> dict[str, dict]:
    """Milliseconds, and how many times as long as `first`: medians over rounds, in turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            way(path)
            spent[name].append(1e3 * (time.perf_counter() - started))
    return {
        name: {
            "ms": statistics.median(times),
            "ratio": statistics.median(np.array(times) / spent[first]),
        }
        for name, times in spent.items()
    }


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import by_hand, onnxruntime, maskpack.runtime.graph  # what a runtime holds in any case
from maskpack.exporters.bench.memory import forget_peak, memory_now, peak_memory
table, name, path = getattr(by_hand, sys.argv[2]), sys.argv[3], Path(sys.argv[4])
forget_peak()
before = memory_now()
kept = table[name](path)
now = memory_now().since(before)
print(peak_memory() - before.rss, now.rss, now.anon)
"""


def memory(table: str, name: str, path: Path) -> dict[str, float]:
    """MiB that a way takes in a fresh process, its imports included if it makes them itself."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), table, name, str(path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(zip(("peak", "rss", "anon"), map(float, out.split()), strict=True))


def import_cost(module: str) -> dict[str, float]:
    """Milliseconds and MiB of an import in a fresh process that has numpy and ONNX Runtime already."""
    code = (
        "import time, numpy, onnxruntime\n"
        "from maskpack.exporters.bench.memory import memory_now\n"
        f"before = memory_now(); started = time.perf_counter(); import {module}\n"
        "print(1e3 * (time.perf_counter() - started), memory_now().since(before).anon)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(5)
    ]
    figures = np.median([[float(word) for word in run.stdout.split()] for run in runs], axis=0)
    return dict(zip(("ms", "anon"), map(float, figures), strict=True))


def compare(table: str, path: Path) -> dict[str, dict]:
    """Every way of a table: memory and time. All must find the same."""
    sys.stderr.write(f"{table} of {path.name}\n")
    ways = globals()[table]
    found = [way(path) for way in ways.values()]
    for other in found[1:]:
        assert set(other) == set(found[0])
    times = in_turns(ways, path, "ours")
    return {name: {**memory(table, name, path), **times[name]} for name in ways}


# --- coding masks


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    found = {
        "zlib -9": lambda data: zlib.compress(data, 9),
        "bz2 -9": lambda data: bz2.compress(data, 9),
        "lzma -9e": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
        "zstd -22": lambda data: zstandard.ZstdCompressor(level=22).compress(data),
    }
    if importlib.util.find_spec("brotli"):
        import brotli

        found["brotli -11"] = lambda data: brotli.compress(data, quality=11)
    return found


def varints(gaps: np.ndarray) -> bytes:
    """Gaps as seven bits a byte, lowest first."""
    out = [(gaps & 0x7F) | np.where(gaps > 0x7F, 0x80, 0)]
    rest, places = gaps >> 7, [np.arange(len(gaps))]
    while (more := np.flatnonzero(rest)).size:
        places.append(more)
        out.append((rest[more] & 0x7F) | np.where(rest[more] > 0x7F, 0x80, 0))
        full = np.zeros_like(rest)
        full[more] = rest[more] >> 7
        rest = full
    order = np.lexsort(
        (np.repeat(np.arange(len(out)), [len(p) for p in places]), np.concatenate(places))
    )
    return np.concatenate(out)[order].astype(np.uint8).tobytes()


def forms(removed: dict, linears: dict) -> dict[str, bytes]:
    """What a library is given: the bits as they lie, their gaps, or both in the order of the weights' sizes."""
    found: dict[str, list[bytes]] = {"bits": [], "gaps": [], "bits by size": [], "gaps by size": []}
    for name, gone in removed.items():
        live = linears[name].codes != 0
        bits = gone[live]
        order = np.argsort(np.abs(linears[name].dequantize())[live], kind="stable")
        for ending, row in (("", bits), (" by size", bits[order])):
            found[f"bits{ending}"].append(np.packbits(row, bitorder="little").tobytes())
            gaps = np.diff(np.flatnonzero(row), prepend=-1) - 1
            found[f"gaps{ending}"].append(varints(gaps))
    return {form: b"".join(parts) for form, parts in found.items()}


def smallest(removed: dict, linears: dict) -> float:
    """Share of the removed weights that are their matrix's smallest: 1 for a mask that is magnitude order alone.

    A mask that starts from magnitudes and learns for few steps stays near 1. Any coder that is given the weights'
    order then looks good, whatever it does on masks that were learned.
    """
    hits = total = 0
    for name, gone in removed.items():
        live = linears[name].codes != 0
        bits, sizes = gone[live], np.abs(linears[name].dequantize())[live]
        count = int(bits.sum())
        hits += int(bits[np.argsort(sizes, kind="stable")[:count]].sum())
        total += count
    return hits / max(1, total)


def coding(artifact, task: str) -> dict:
    """Bytes of a task's masks in every way, and seconds of processor time of ours."""
    sys.stderr.write(f"masks of {task}\n")
    patch, linears = artifact.patch(task), artifact.backbone.linears
    removed = {name: mask.removed(linears[name]) for name, mask in sorted(patch.masks.items())}
    started = time.process_time()
    coded = encode_masks(patch.masks, linears)
    written = time.process_time()
    decode_masks(coded, linears)
    read = time.process_time()
    given, sizes, spent = forms(removed, linears), {}, {}
    for form, data in given.items():
        for name, compress in compressors().items():
            begun = time.process_time()
            sizes[f"{name}, {form}"] = len(compress(data))
            spent[f"{name}, {form}"] = time.process_time() - begun
    best = min(sizes, key=sizes.__getitem__)
    rice = sum(
        encode_gaps(np.flatnonzero(gone[linears[name].codes != 0]))[0].nbytes
        for name, gone in removed.items()
    )
    return {
        "task": task,
        "zeros": patch.count.sparsity,
        "steps": artifact.entry(task).training["steps"],
        "target": artifact.entry(task).training["sparsity"],
        "smallest": smallest(removed, linears),
        "ours": coded.size,
        "write_s": written - started,
        "read_s": read - written,
        "rice": rice,
        "entropy": patch.count.entropy_bytes,
        "libraries": sizes,
        "best": best,
        "best_over_ours": sizes[best] / coded.size,
        "best_write_s": spent[best],
    }


def print_all(found: dict) -> None:
    for title, table in {"backbone": found["backbone"], **found["graphs"]}.items():
        print(
            f"| {title} | own memory | resident | peak | ms | times ours |\n|---|---|---|---|---|---|"
        )
        for name, row in table.items():
            cells = (f"{row[key]:.1f}" for key in ("anon", "rss", "peak", "ms", "ratio"))
            print(f"| {name} | {' | '.join(cells)} |")
    for name, row in found["imports"].items():
        print(f"import {name}: {row['ms']:.0f} ms, {row['anon']:.1f} MiB")
    print(
        "| zeros, steps | smallest | ours | Rice gaps | bits as they lie | any order or form | over ours |\n"
        + "|---" * 7
        + "|"
    )
    for row in found["masks"]:
        plain = {name: size for name, size in row["libraries"].items() if name.endswith(", bits")}
        least = min(plain, key=plain.__getitem__)
        print(
            f"| {row['zeros']:.2%}, {row['steps']} | {row['smallest']:.1%} | {row['ours'] / 1e3:.1f} | {row['rice'] / 1e3:.1f} "
            f"| {plain[least] / 1e3:.1f} ({least}) "
            f"| {row['libraries'][row['best']] / 1e3:.1f} ({row['best']}) | {row['best_over_ours']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("graphs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    artifact = open_artifact(arguments.artifact)
    tasks = sorted(artifact.manifest.tasks, key=lambda task: artifact.entry(task).zeros)
    found = {
        "backbone": compare("READERS", arguments.artifact / "backbone.safetensors"),
        "graphs": {path.name: compare("NAMERS", path) for path in arguments.graphs},
        "imports": {
            name: import_cost(name) for name in ("onnx", "google.protobuf.message_factory")
        },
        "masks": [coding(artifact, task) for task in tasks],
        "versions": {
            name: version(name)
            for name in ("numpy", "safetensors", "onnx", "onnxruntime", "protobuf", "zstandard")
        },
        "bytes": {
            "backbone": artifact.size("backbone.safetensors"),
            **{path.name: path.stat().st_size for path in arguments.graphs},
        },
    }
    print_all(found)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
