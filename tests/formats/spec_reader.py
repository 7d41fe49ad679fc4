"""A second reader of artifacts, written from SPEC.md alone; it shares no code with the package.

If it and `maskpack.formats` disagree, one of them is wrong or the page is.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load

of_tables = {"embedding-3", "embedding-rows"}


class RefusedError(Exception):
    """The second reader's only error."""


def need(condition, what):
    if not condition:
        raise RefusedError(what)


def no_key_twice(pairs):
    need(len(dict(pairs)) == len(pairs), "a key twice")
    return dict(pairs)


def read_file(folder, name, digest):
    """Section 6: the digest first. Tensors and metadata of one file."""
    data = (folder / name).read_bytes()
    need(hashlib.sha256(data).hexdigest() == digest, f"digest of {name}")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"]["maskpack"])


def read_fields(row, width, bits):
    """Section 3: unsigned fields of one row of bytes, bit by bit."""
    need(len(row) == -(-width * bits // 8), "bytes of a row")
    stream = [row[n // 8] >> (n % 8) & 1 for n in range(len(row) * 8)]
    need(not any(stream[width * bits :]), "padding")
    return [sum(stream[k * bits + n] << n for n in range(bits)) for k in range(width)]


def read_codes(packed, width, bits, zero_free):
    half, full = 2 ** (bits - 1), 2**bits
    rows = [read_fields(row.tolist(), width, bits) for row in packed]
    if zero_free:
        return [[2 * field - (full - 1) for field in row] for row in rows]
    signed = [[field - full if field >= half else field for field in row] for row in rows]
    need(all(code != -half for row in signed for code in row), "code out of range")
    return signed


def read_weights(codes, scales, group):
    """Section 4: one multiplication in float32 a weight."""
    return np.array(
        [
            [np.float32(code) * np.float32(scales[r, c // group]) for c, code in enumerate(row)]
            for r, row in enumerate(codes)
        ],
        dtype=np.float32,
    )


class Linear(NamedTuple):
    """An integer matrix as section 4 stores it."""

    codes: list
    scales: np.ndarray
    group: int

    @property
    def shape(self):
        return len(self.codes), len(self.codes[0])

    @property
    def weights(self):
        return read_weights(self.codes, self.scales, self.group)


LOW = 2**64 - 1


def philox(counter, key):
    """DRAWN.md section 2: one block of four words."""
    c0, c1, c2, c3 = counter, 0, 0, 0
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * 0xD2E7470EE14C6C93, c2 * 0xCA5A826395121157
        c0, c1, c2, c3 = (b >> 64) ^ c1 ^ k0, b & LOW, (a >> 64) ^ c3 ^ k1, a & LOW
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & LOW, (k1 + 0xBB67AE8584CAA73B) & LOW
    return c0, c1, c2, c3


def draw(seed, name, count, bits):
    """DRAWN.md section 2: codes of a parameter, in a row."""
    key = (seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    width = bits if bits <= 3 else 16
    size = -(-count * width // 8)
    words = [word for n in range(-(-size // 32)) for word in philox(n + 1, key)]
    row = b"".join(word.to_bytes(8, "little") for word in words)
    stream = [row[n // 8] >> (n % 8) & 1 for n in range(count * width)]
    fields = [sum(stream[k * width + n] << n for n in range(width)) for k in range(count)]
    if bits <= 3:
        return [2 * field - (2**bits - 1) for field in fields]
    limit = 2 ** (bits - 1) - 1
    return [(-1 if h & 1 else 1) * (1 + ((h >> 1) * limit >> 15)) for h in fields]


def write_fields(codes, bits):
    """Section 3: a row of codes as bytes."""
    low = 2**bits - 1
    fields = [(code + low) // 2 if bits <= 3 else code & low for code in codes]
    whole = sum(field << (bits * k) for k, field in enumerate(fields))
    return whole.to_bytes(-(-len(codes) * bits // 8), "little")


def half_exactly(number):
    """A number of a header that float16 holds."""
    need(type(number) in (int, float) and float(np.float16(number)) == number, "a float16")
    return np.float16(number)


def read_drawn(meta, arrays):
    """DRAWN.md: drawn codes and scales go into `arrays` as if they were stored, unpacked; also F16 parameters."""
    scales = {n: spec["scale"] for n, spec in meta["tensors"].items() if "scale" in spec}
    if "drawn" not in meta:
        need(not scales and "dense" not in meta, "drawn without a seed")
        return {}
    about, bytes_of = meta["drawn"], {}
    need(set(about) == {"law", "seed", "sha256"} and about["law"] == "uniform", "law")
    need(type(about["seed"]) is int and 0 <= about["seed"] < 2**53, "seed")
    codes = {}
    for name, scale in scales.items():
        spec = meta["tensors"][name]
        (rows, width), bits = spec["shape"], spec["bits"]
        need(spec["group"] == width and spec.get("zero_free", False) is (bits <= 3), "one scale")
        need(not {f"{name}.codes", f"{name}.scales"} & set(arrays), "drawn and stored")
        flat = draw(about["seed"], name, rows * width, bits)
        codes[name] = [flat[r * width : (r + 1) * width] for r in range(rows)]
        arrays[f"{name}.scales"] = np.full((rows, 1), half_exactly(scale))
        bytes_of[name] = b"".join(write_fields(row, bits) for row in codes[name])
    for name, spec in meta["dense"].items():
        shape = spec["shape"]
        need(name not in arrays and shape and min(shape) >= 1, "a shape, or stored too")
        if set(spec) == {"shape", "value"}:
            arrays[name] = np.full(shape, half_exactly(spec["value"]))
            continue
        need(set(spec) == {"shape", "scale"}, "fields of a float16 parameter")
        scale = np.float32(half_exactly(spec["scale"]))
        drawn = draw(about["seed"], name, int(np.prod(shape)), 8)
        values = np.array([np.float16(np.float32(c) * scale) for c in drawn], dtype="<f2")
        arrays[name], bytes_of[name] = values.reshape(shape), values.tobytes()
    digest = hashlib.sha256(b"".join(bytes_of[name] for name in sorted(bytes_of)))
    need(digest.hexdigest() == about["sha256"], "digest of what is drawn")
    return codes


def read_backbone(folder, manifest):
    arrays, meta = read_file(folder, "backbone.safetensors", manifest["backbone"]["sha256"])
    need(meta["kind"] == "backbone", "kind")
    need(("drawn" in meta) == ("drawn" in manifest.get("requires", [])), "the feature `drawn`")
    weights, features = {"linear": {}, "embedding": {}}, set()
    drawn = read_drawn(meta, arrays)
    for name, spec in meta["tensors"].items():
        (rows, width), bits, group = spec["shape"], spec["bits"], spec["group"]
        scales, zero_free = arrays.pop(f"{name}.scales"), spec.get("zero_free", False)
        kinds = {(8, False), (4, False), (2, False), (2, True), (1, True)}
        kinds |= {(3, True)} if spec["role"] == "embedding" else set()
        need(type(zero_free) is bool and (bits, zero_free) in kinds, "kind of codes")
        need(1 <= group <= width, "layout")
        wide = list(range(rows))
        if "rare" in spec:
            need(spec["rare"] == 2 and spec["role"] == "embedding", "rare")
            need(bits > 2 and group == width, "wide rows")
            marks = arrays.pop(f"{name}.wide")
            need(marks.dtype == np.uint8 and len(marks) == 1, "marks of rows")
            bits_of_rows = read_fields(marks[0].tolist(), rows, 1)
            wide = [row for row in range(rows) if bits_of_rows[row]]
            need(0 < len(wide) < rows, "rows of one width")
            features.add("embedding-rows")
        features |= {"embedding-3"} if bits == 3 else set()
        need(scales.dtype in (np.float16, np.float32), "dtype of scales")
        need(scales.shape == (rows, -(-width // group)), "shape of scales")
        need(np.isfinite(scales).all() and (scales >= 0).all(), "scales")
        if name in drawn:
            weights[spec["role"]][name] = Linear(drawn[name], scales, group)
            continue
        packed = arrays.pop(f"{name}.codes")
        need(packed.dtype == np.uint8 and len(packed) == len(wide), "codes")
        codes = read_codes(packed, width, bits, zero_free)
        if "rare" in spec:
            packed = arrays.pop(f"{name}.rare")
            need(packed.dtype == np.uint8 and len(packed) == rows - len(wide), "rare rows")
            kinds_of_rows = iter(codes), iter(read_codes(packed, width, 2, True))
            codes = [next(kinds_of_rows[row not in set(wide)]) for row in range(rows)]
        weights[spec["role"]][name] = Linear(codes, scales, group)
    need(weights["linear"], "no linear")
    need(features == of_tables & set(manifest.get("requires", [])), "features of tables")
    need(all(a.dtype == np.float16 and np.isfinite(a).all() for a in arrays.values()), "dense")
    return weights["linear"], weights["embedding"], arrays


def read_units(entries, arrays, linears):
    """Section 5.1: what the units alone keep of each linear that they lie in, and the linears that lose a unit."""
    alone, losing, groups, taken = {}, set(), set(), set()
    for n, entry in enumerate(entries):
        need(set(entry) == {"kind", "count", "layers", "parts"}, "fields of units")
        kind, count, packed = entry["kind"], entry["count"], arrays.pop(f"units.{n}")
        need(kind in ("heads", "neurons") and type(count) is int and count >= 1, "units")
        need(packed.dtype == np.uint8 and len(packed) == len(entry["layers"]), "bits of units")
        for layer, row in zip(entry["layers"], packed.tolist(), strict=True):
            need(type(layer) is int and layer >= 0 and (kind, layer) not in groups, "layer")
            groups.add((kind, layer))
            bits = read_fields(row, count, 1)
            need(entry["parts"], "parts")
            for param, axis, first, width in entry["parts"]:
                name = param.replace("{}", str(layer))
                need(name in linears and axis in (0, 1) and first >= 0 and width >= 1, "part")
                need(first + count * width <= linears[name].shape[axis], "beyond a linear")
                mask = alone.setdefault(name, np.ones(linears[name].shape, dtype=bool))
                for line in range(first, first + count * width):
                    need((name, axis, line) not in taken, "a row or column twice")
                    taken.add((name, axis, line))
                    if not bits[(line - first) // width]:
                        mask[(line, slice(None)) if axis == 0 else (slice(None), line)] = False
                        losing.add(name)
    return alone, losing


def read_masks(meta, arrays, linears, alone, losing):
    """Sections 5 and 5.1: the whole mask of each linear that has one."""
    masks, few = {}, "units" in meta
    for name, (rows, width) in meta["masks"].items():
        need(name in linears and (rows, width) == linears[name].shape, "mask")
        if few and f"{name}.mask" not in arrays:
            masks[name] = np.ones((rows, width), dtype=bool)
            continue
        packed = arrays.pop(f"{name}.mask")
        need(packed.dtype == np.uint8 and len(packed) == rows, "rows of a mask")
        masks[name] = np.array([read_fields(row.tolist(), width, 1) for row in packed], dtype=bool)
    unmasked = meta.get("unmasked", [])
    need(all(name in alone and name not in {*losing, *masks} for name in unmasked), "unmasked")
    for name in set(alone) - set(unmasked):
        masks.setdefault(name, alone[name])
        need(not (masks[name] & ~alone[name]).any(), "a weight of a removed unit")
    return masks


def read_patch(folder, manifest, task, linears, dense):
    entry = manifest["tasks"][task]
    arrays, meta = read_file(folder, entry["file"], entry["sha256"])
    need(meta["kind"] == "patch" and meta["task"] == task, "another task")
    need(meta["backbone_sha256"] == manifest["backbone"]["sha256"], "another backbone")
    need(("units" in meta) == ("units" in entry.get("requires", [])), "the feature `units`")
    alone, losing = read_units(meta.get("units", []), arrays, linears)
    masks = read_masks(meta, arrays, linears, alone, losing)
    parts = {"head": {}, "dense": {}, "gains": {}}
    for key, value in arrays.items():
        part, _, name = key.partition(".")
        need(part in parts and name, "stray tensor")
        need(value.dtype == np.float16 and np.isfinite(value).all(), part)
        parts[part][name] = value
    for name, value in parts["dense"].items():
        need(name in dense and value.shape == dense[name].shape, "dense of the backbone")
    for name, value in parts["gains"].items():
        need(name in linears and value.shape == linears[name].shape[:1], "gains of a linear")
        need((value > 0).all(), "a gain above 0")
    zeros = sum(int((~mask).sum()) for mask in masks.values())
    need(
        (entry["zeros"], entry["weights"]) == (zeros, sum(m.size for m in masks.values())), "zeros"
    )
    return masks, parts["head"], parts["dense"], parts["gains"]


def weights_of_task(linear, keep, gains):
    """Section 5: scales with gains, then weights, then the mask."""
    scales = linear.scales.astype(np.float32)
    if gains is not None:
        scales = np.array(
            [[s * np.float32(gains[r]) for s in row] for r, row in enumerate(scales)], np.float32
        )
        need(np.isfinite(scales).all(), "a scale after its gain")
    weights = read_weights(linear.codes, scales, linear.group)
    return weights if keep is None else np.where(keep, weights, np.float32(0))


def read_divisors(folder):
    """Divisors of outlier channels by parameter; None where the artifact has none."""
    manifest = json.loads((folder / "maskpack.json").read_bytes().decode("utf-8"))
    if "divisors" not in manifest:
        return None
    need(manifest["divisors"]["file"] == "divisors.safetensors", "file of the divisors")
    arrays, meta = read_file(folder, "divisors.safetensors", manifest["divisors"]["sha256"])
    own = {"kind": "divisors", "backbone_sha256": manifest["backbone"]["sha256"]}
    need(meta == own, "divisors of another backbone")
    linears, _, _ = read_backbone(folder, manifest)
    for name, value in arrays.items():
        need(name in linears and value.dtype == np.float32, "divisors of a linear")
        need(value.shape == linears[name].shape[1:], "as many as columns")
        need(np.isfinite(value).all() and (value >= 1).all(), "1 or more")
    return arrays


def read_artifact(folder):
    """Everything in an artifact, by SPEC.md alone."""
    text = (folder / "maskpack.json").read_bytes().decode("utf-8")
    manifest = json.loads(text, object_pairs_hook=no_key_twice)
    version = manifest["format_version"]
    need(manifest["format"] == "maskpack" and type(version) is int and version == 1, "version")
    for name, digest in manifest["files"].items():
        need(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name), "name")
        need(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name)
    for task, entry in manifest["tasks"].items():
        match = re.fullmatch(
            r"tasks/([a-z0-9][a-z0-9._-]{0,63}?)(\.r[1-9][0-9]*)?\.safetensors", entry["file"]
        )
        need(match and match[1] == task, "file of a task")
    linears, embeddings, dense = read_backbone(folder, manifest)
    patches = {
        task: read_patch(folder, manifest, task, linears, dense) for task in manifest["tasks"]
    }
    return linears, embeddings, dense, patches
