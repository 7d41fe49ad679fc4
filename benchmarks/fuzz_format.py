"""Damage artifacts, patches, manifests and packed patches, and see what reading them does.

python benchmarks/fuzz_format.py --cases 120000 --out docs/results/fuzz-format.json

Every case starts from a sound artifact and damages it in one of the ways below. Half of the cases that
touch a file under a digest bring the digest up to date, so that what lies behind it is tried too.
Counted are: *refused* with one of our errors; *survived*, read without complaint; *wrong*, read
without complaint although digests were left alone and the values differ from those written; *crashed*,
any other exception. The address space is limited, so that a size from a file that is believed before
it is checked ends as a crash.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from maskpack.formats import (
    BitMask,
    MaskpackError,
    Patch,
    QuantTensor,
    Scheme,
    Source,
    TaskEntry,
    add_task,
    check_artifact,
    create_artifact,
    open_artifact,
    pack_task,
)
from maskpack.formats.packed import decode_packed
from maskpack.formats.tensors import Backbone
from maskpack.formats.unit_bits import cut_units
from maskpack.formats.units import COLUMNS, UnitGroup, UnitPart, Units

HEADROOM = 256 << 20
FILES = (
    "maskpack.json",
    "backbone.safetensors",
    "tasks/a.safetensors",
    "a.patch",
    "b.patch",
    "c.patch",
)
HOSTILE = (
    *(-1, 0, 1, 2, 7, 2**31, 2**53, 2**63, 2**64, 10**30, 1e308, -1.5, float("nan"), float("inf")),
    *(None, True, [], {}, "", "../x", "/etc/passwd", "tasks/../../x", "\ud800", "x" * 4000, [[]]),
    *([2**40, 2**40], ["a"] * 50, {"a": {"b": []}}, "F64", "0" * 64, "mmmmm", [[2**62, 30]]),
)


def build(folder: Path) -> None:
    """A small artifact with every feature, and its packed tasks beside it."""
    rng = np.random.default_rng(0)

    def tensor(rows: int, width: int, bits: int, group: int, *, free: bool) -> QuantTensor:
        limit = 2**bits - 1 if free else 2 ** (bits - 1) - 1
        codes = rng.integers(-limit, limit + 1, size=(rows, width))
        codes = np.where(codes % 2 == 0, codes + 1, codes) if free else codes
        scales = rng.uniform(0.01, 1, size=(rows, -(-width // group))).astype(np.float16)
        return QuantTensor(codes.astype(np.int8), scales, bits, group, free)

    linears = {
        "a": tensor(160, 100, 8, 100, free=False),
        "b": tensor(9, 21, 4, 8, free=False),
        "c": tensor(5, 17, 2, 5, free=True),
    }
    dense = {"bias": rng.normal(size=9).astype(np.float16)}
    backbone = Backbone(linears, {"e": tensor(4, 3, 8, 3, free=False)}, dense)
    create_artifact(
        folder,
        backbone,
        source=Source("some/model", None, "bert", "12" * 32),
        scheme=Scheme(8, None, "minmax", 8, {"b": 4}),
        files={"config.json": b'{"model_type": "bert"}'},
    )
    small = np.abs(linears["a"].dequantize())
    keeps = {
        "a": {"a": small > np.quantile(small, 0.3), "b": rng.random((9, 21)) > 0.4},
        "b": {"b": rng.random((9, 21)) > 0.05, "c": rng.random((5, 17)) > 0.0},
        "c": {"a": two_of_four(linears["a"].codes, rng)},
    }
    for name, keep in keeps.items():
        masks = {n: BitMask.from_bool(bits | (linears[n].codes == 0)) for n, bits in keep.items()}
        head = {"out.weight": rng.normal(size=(2, 3)).astype(np.float16)}
        gains = {"b": rng.uniform(0.5, 2, 9).astype(np.float16)}
        patch = Patch(masks, head, {"bias": np.ones(9, np.float16)}, gains)
        if name == "a":
            kept = rng.random(100) > 0.5
            group = UnitGroup("neurons", 0, 100, (UnitPart("a", COLUMNS, 0, 1),))
            units = Units((group,), (kept,))
            patch = replace(patch, masks=cut_units(masks, units), units=units)
        add_task(folder, entry_of(name, patch), patch)
    for name in keeps:
        (folder / f"{name}.patch").write_bytes(pack_task(open_artifact(folder), name))


def two_of_four(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A mask that packs as groups: of four neighbours two stay; codes of 0 go first."""
    worth = np.where(codes == 0, -1.0, rng.random(codes.shape)).reshape(-1, 4)
    keep: np.ndarray = worth.argsort(axis=1).argsort(axis=1) >= 2
    return keep.reshape(codes.shape)


def entry_of(name: str, patch: Patch) -> TaskEntry:
    return TaskEntry(
        name=name,
        file=f"tasks/{name}.safetensors",
        sha256="0" * 64,
        kind="classification",
        labels=("no", "yes"),
        metric="accuracy",
        scores={"accuracy": 0.5},
        zeros=patch.count.zeros,
        weights=patch.count.weights,
        max_length=16,
        data={"task": name},
    )


def read_all(folder: Path, file: str) -> dict[str, bytes]:
    """Every weight and bit that the damage could have changed, by name."""
    artifact = open_artifact(folder)
    if file.endswith(".patch"):
        data = (folder / file).read_bytes()
        entry, patch = decode_packed(data, backbone=artifact.backbone, manifest=artifact.manifest)
        return {"entry": repr(entry).encode(), **values_of(patch, entry.name)}
    found = {
        name: tensor.dequantize().tobytes()
        for tensors in (artifact.backbone.linears, artifact.backbone.embeddings)
        for name, tensor in tensors.items()
    }
    found |= {name: value.tobytes() for name, value in artifact.backbone.dense.items()}
    for task in artifact.manifest.tasks:
        found |= values_of(artifact.patch(task), task)
    if findings := check_artifact(folder):
        raise MaskpackError(findings[0])
    return found


def values_of(patch: Patch, task: str) -> dict[str, bytes]:
    parts = {"head": patch.head, "dense": patch.dense, "gains": patch.gains}
    found = {f"{task} {name}": mask.packed.tobytes() for name, mask in patch.masks.items()}
    if patch.units is not None:
        found[f"{task} units"] = repr(sorted(patch.units.removed_units())).encode()
    for part, tensors in parts.items():
        found |= {f"{task} {part}.{name}": value.tobytes() for name, value in tensors.items()}
    return found


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8, 64))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_in_header(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[rng.randrange(min(len(data), 700))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def lengthen(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 8, 4096)))


def overwrite(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    noise = rng.choice((bytes(40), b"\xff" * 40, rng.randbytes(40)))
    return data[:start] + noise[: len(data) - start] + data[start + 40 :]


def repeat_part(data: bytes, rng: random.Random) -> bytes:
    """A key twice, sometimes; a shift of all that follows, always."""
    start = rng.randrange(len(data))
    end = start + rng.randrange(1, 60)
    return data[:end] + data[start:end] + data[end:]


def huge_header(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((2**63, 2**40, 10**8 + 1, len(data))).to_bytes(8, "little") + data[8:]


def edit_json(data: bytes, rng: random.Random) -> bytes:
    """Replace one value somewhere in the JSON of a manifest or of a header by a hostile one."""
    if data[:1] == b"{":
        tree = json.loads(data)
        change_somewhere(tree, rng)
        return json.dumps(tree).encode()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if rng.random() < 0.7:
        meta = json.loads(header["__metadata__"]["maskpack"])
        change_somewhere(meta, rng)
        header["__metadata__"]["maskpack"] = json.dumps(meta)
    else:
        change_somewhere(header, rng)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def change_somewhere(tree: object, rng: random.Random) -> None:
    places = []

    def walk(node: object) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(tree)
    node, key = rng.choice(places)
    action = rng.random()
    if action < 0.75:
        node[key] = rng.choice(HOSTILE)
    elif isinstance(node, dict) and action < 0.9:
        node[str(rng.choice(HOSTILE))[:50]] = node.pop(key)
    else:
        del node[key]


WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bit flips": flip_bits,
    "a flip in a header": flip_in_header,
    "cut short": cut,
    "something behind": lengthen,
    "overwritten": overwrite,
    "a part twice": repeat_part,
    "a huge header": huge_header,
    "a hostile value": edit_json,
    "another file": lambda data, _: data,  # see `damage`
}


def reseal(folder: Path, file: str) -> None:
    """Bring the digests that cover `file` up to date, as an attacker would."""
    manifest = folder / "maskpack.json"
    tree = json.loads(manifest.read_bytes())
    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    if file.startswith("tasks/"):
        tree["tasks"]["a"]["sha256"] = digest
    elif file == "backbone.safetensors":
        tree["backbone"]["sha256"] = digest
    manifest.write_text(json.dumps(tree))


def damage(sound: dict[str, bytes], folder: Path, rng: random.Random) -> tuple[str, str, str, bool]:
    """Damage one file of a sound folder.

    Returns:
        Which file, what it should read as (a packed patch is itself wherever it lies), how it was
        damaged, and whether digests were brought up to date.
    """
    file, way = rng.choice(FILES), rng.choice(list(WAYS))
    meant = file
    if way == "another file":
        other = rng.choice([other for other in FILES if other != file])
        changed = sound[other]
        meant = other if file.endswith(".patch") and other.endswith(".patch") else file
    else:
        changed = WAYS[way](sound[file], rng)
    (folder / file).write_bytes(changed)
    sealed = file in ("backbone.safetensors", "tasks/a.safetensors") and rng.random() < 0.5
    if sealed:
        reseal(folder, file)
    return file, meant, way, sealed


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))


def run(cases: int, seed: int) -> dict:
    rng, counts, crashes = random.Random(seed), Counter(), []
    by_way: dict[str, Counter] = {way: Counter() for way in WAYS}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        folder = Path(root) / "artifact"
        build(folder)
        sound = {file: (folder / file).read_bytes() for file in FILES}
        right = {file: read_all(folder, file) for file in FILES}
        limit_memory()
        for case in range(cases):
            file, meant, way, sealed = damage(sound, folder, rng)
            try:
                found = read_all(folder, file)
            except MaskpackError:
                outcome = "refused"
            except Exception:  # noqa: BLE001 - what is looked for
                outcome = "crashed"
                crashes.append(f"case {case}, {file}, {way}: {traceback.format_exc(limit=-3)}")
            else:
                outcome = "survived" if sealed or found.items() <= right[meant].items() else "wrong"
                if outcome == "wrong":
                    crashes.append(f"case {case}, {file}, {way}: read other values")
            counts[outcome] += 1
            by_way[way][outcome] += 1
            for name in (file, "maskpack.json"):
                (folder / name).write_bytes(sound[name])
        shutil.rmtree(folder)
    return {"cases": cases, "seed": seed, "outcomes": counts, "by way": by_way, "bad": crashes[:20]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=120_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    found = run(arguments.cases, arguments.seed)
    found["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["seconds"] = round(time.perf_counter() - started)
    print("| way | refused | survived | wrong | crashed |\n|---|---|---|---|---|")
    for way, row in [*found["by way"].items(), ("**all**", found["outcomes"])]:
        cells = (str(row.get(key, 0)) for key in ("refused", "survived", "wrong", "crashed"))
        print(f"| {way} | {' | '.join(cells)} |")
    for line in found["bad"]:
        print(line)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
