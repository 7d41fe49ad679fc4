"""A second reader of packed patches, written from SPEC.md section 9 alone, in plain whole numbers."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from safetensors.numpy import load
from spec_reader import need, read_fields, read_units

STEPS = (5, 7, 10, 13, 19, 27, 38, 54, 76, 108, 152, 215, 304, 431, 609)


class Stream:
    """9.2."""

    def __init__(self, words, lanes):
        words = words.tolist()
        self.states = [words[2 * k] + 65536 * words[2 * k + 1] for k in range(lanes)]
        self.words = words[: 2 * lanes - 1 : -1]

    def block(self, chances):
        bits = []
        for place, f in enumerate(chances):
            lane = place % len(self.states)
            whole, q = divmod(self.states[lane], 65536)
            bits.append(int(q < f))
            x = f * whole + q if q < f else (65536 - f) * whole + q - f
            self.states[lane] = x * 65536 + self.words.pop() if x < 65536 else x
        return bits

    def finish(self):
        need(not self.words, "words are left")
        need(all(state == 65536 for state in self.states), "states at the end")


class Tables:
    """9.4."""

    def __init__(self):
        self.removed = [[1] * 16 for _ in range(32)]
        self.kept = [[63] * 16 for _ in range(32)]

    def fade(self):
        self.removed = [[n // 4 + 1 for n in row] for row in self.removed]
        self.kept = [[n // 4 + 15 for n in row] for row in self.kept]

    def chances(self):
        seen = [
            [a + b for a, b in zip(*rows, strict=True)]
            for rows in zip(self.removed, self.kept, strict=True)
        ]
        size = [65536 * sum(r) // sum(s) for r, s in zip(self.removed, seen, strict=True)]
        columns = [list(zip(*table, strict=True)) for table in (self.removed, seen)]
        place = [65536 * sum(r) // sum(s) for r, s in zip(*columns, strict=True)]
        overall = max(1, 65536 * sum(map(sum, self.removed)) // sum(map(sum, seen)))

        def chance(a, b):
            alone = min(65535, max(1, size[a] * place[b] // overall))
            top = 65536 * self.removed[a][b] + 960 * alone
            return min(65535, max(1, top // (seen[a][b] + 960)))

        return [[chance(a, b) for b in range(16)] for a in range(32)]


def ratio(lost, length, total, seen):
    if not total or not length:
        return 64
    return 64 * (lost + 2) * seen // (length * total + 2 * seen)


def sizes_of(weights, codes):
    """9.3: the first class of every position."""
    words = np.abs(weights).astype("<f4").view("<u4")
    shifted = [[int(word) >> 21 for word in row] for row in words]
    live = sorted(
        u
        for row, own in zip(shifted, codes, strict=True)
        for u, code in zip(row, own, strict=True)
        if code
    )
    median = live[(len(live) + 1) // 2 - 1] if live else 0
    return [[min(31, max(0, u - median + 20)) for u in row] for row in shifted]


def read_modelled(codes, weights, tables, stream):
    """9.3: one matrix; removed positions as rows of 0 and 1."""
    height, width = len(codes), len(codes[0])
    sizes = sizes_of(weights, codes)
    gone = [[0] * width for _ in range(height)]
    strip, tables_seen = -(-width // 4), 0
    band = max(-(-8192 // strip), -(-height // 16))
    tables.fade()
    for top in range(0, height, band):
        for left in range(0, width, strip):
            rows, columns = (
                range(top, min(top + band, height)),
                range(left, min(left + strip, width)),
            )
            total = sum(map(sum, gone))
            own = {r: ratio(sum(gone[r][:left]), left, total, tables_seen) for r in rows}
            other = {
                c: ratio(sum(gone[r][c] for r in range(top)), top, total, tables_seen)
                for c in columns
            }
            pairs = [
                (r, c, sizes[r][c], sum(own[r] * other[c] // 64 >= step for step in STEPS))
                for r in rows
                for c in columns
                if codes[r][c]
            ]
            chances = tables.chances()
            bits = stream.block([chances[size][place] for _, _, size, place in pairs])
            for (r, c, size, place), bit in zip(pairs, bits, strict=True):
                gone[r][c] = bit
                (tables.removed if bit else tables.kept)[size][place] += 16
            tables_seen += len(rows) * len(columns)
    return gone


STATES = ((4, 4, 2), (4, 3, 2), (4, 3, 1), (4, 2, 1), (3, 3, 1), (3, 2, 1))


class GroupTables:
    """9.6: both tables by state, gap and lean."""

    def __init__(self):
        self.removed, self.kept = ({} for _ in range(2))

    def before_a_matrix(self):
        for table in (self.removed, self.kept):
            for key in [(s, g, n) for s in range(6) for g in range(16) for n in range(5)]:
                table[key] = table.get(key, 8) // 4 + 8

    def chance(self, key):
        state, gap, _ = key
        own, all_seen = 0, 0
        for lean in range(5):
            own += self.removed[state, gap, lean]
            all_seen += self.removed[state, gap, lean] + self.kept[state, gap, lean]
        alone, seen = 65536 * own // all_seen, self.removed[key] + self.kept[key]
        return min(65535, max(1, (65536 * self.removed[key] + 320 * alone) // (seen + 320)))


def read_grouped(codes, weights, tables, stream):
    """9.6: one matrix; removed positions as rows of 0 and 1."""
    height, width = len(codes), len(codes[0])
    need(width % 4 == 0, "groups of four")
    sizes = np.abs(weights).astype("<f4").view("<u4").tolist()
    gone, band = [[0] * width for _ in range(height)], max(-(-8192 // width), -(-height // 64))
    tables.before_a_matrix()
    for top in range(0, height, band):
        above = [sum(row[c] for row in gone[:top]) for c in range(width)]
        groups = []
        for r in range(top, min(top + band, height)):
            for c in range(0, width, 4):
                order = sorted((sizes[r][p], p) for p in range(c, c + 4) if codes[r][p])
                groups.append([r, order, 0, max(len(order) - 2, 0)])
        while True:
            asked = [g for g in groups if 0 < g[3] < len(g[1]) - g[2]]
            if not asked:
                break
            keys, places = [], []
            for _, order, first, to_go in asked:
                (a, own), (b, other) = order[first], order[first + to_go]
                state = STATES.index((len(order), len(order) - first, to_go))
                gap = 0 if a == b else 1 + min(14, (b - a) >> 20)
                lean = 8 * (above[own] + 2) // (above[other] + 2)
                keys.append((state, gap, sum(lean >= step for step in (5, 7, 10, 13))))
                places.append(own)
            bits = stream.block([tables.chance(key) for key in keys])
            for group, key, place, bit in zip(asked, keys, places, bits, strict=True):
                gone[group[0]][place] = bit
                (tables.removed if bit else tables.kept)[key] += 16
                group[2], group[3] = group[2] + 1, group[3] - bit
        for r, order, first, to_go in groups:
            for _, place in order[first:]:
                gone[r][place] = int(to_go > 0)
    return gone


def read_gaps(data, count, rice, codes):
    """9.1."""
    bits = read_fields(data.tolist(), 8 * len(data), 1)
    low, rest, last = bits[: count * rice], bits[count * rice :], -1
    live = [(r, c) for r, row in enumerate(codes) for c, code in enumerate(row) if code]
    gone = [[0] * len(codes[0]) for _ in codes]
    for number in range(count):
        high = rest.index(1)
        rest = rest[high + 1 :]
        part = low[number * rice : (number + 1) * rice]
        last += 1 + (high << rice) + sum(bit << n for n, bit in enumerate(part))
        gone[live[last][0]][live[last][1]] = 1
    need(len(rest) < 8 and not any(rest), "bytes too many")
    return gone


def read_packed(data, linears, backbone_sha256, files):
    """Metadata, mask rows by parameter, and the tensors that are no masks."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    text, tensors = header["__metadata__"]["maskpack"], load(data)
    meta = json.loads(text)
    need(meta["version"] == 1 + ("t" in meta["codings"]), "version")
    need(type(meta["version"]) is int, "version")
    need(meta["backbone_sha256"] == backbone_sha256, "another backbone")
    told = json.dumps(files, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    need(meta["files_sha256"] == hashlib.sha256(told.encode()).hexdigest(), "other files")
    need(("units" in meta) == ("units" in meta["entry"].get("requires", [])), "the feature `units`")
    units = {key: value for key, value in tensors.items() if key.startswith("units.")}
    alone, losing = read_units(meta.get("units", []), dict(units), linears)
    linears = {name: without_units(linear, alone.get(name)) for name, linear in linears.items()}
    stream = Stream(tensors.pop("masks.stream"), meta["lanes"]) if meta["lanes"] else None
    tables, groups, gaps, keep = Tables(), GroupTables(), iter(meta["gaps"]), {}
    for n, (name, letter) in enumerate(zip(sorted(linears), meta["codings"], strict=True)):
        linear = linears[name]
        width = len(linear.codes[0])
        if letter == "k":
            keep[name] = [[1] * width for _ in linear.codes]
        elif letter == "r":
            rows = tensors.pop(f"masks.{n}").reshape(len(linear.codes), -1)
            keep[name] = [read_fields(row.tolist(), width, 1) for row in rows]
        elif letter in "gmt":
            if letter == "g":
                gone = read_gaps(tensors.pop(f"masks.{n}"), *next(gaps), linear.codes)
            elif letter == "t":
                gone = read_grouped(linear.codes, linear.weights, groups, stream)
            else:
                gone = read_modelled(linear.codes, linear.weights, tables, stream)
            keep[name] = [[1 - bit for bit in row] for row in gone]
    if stream:
        stream.finish()
    need(losing <= keep.keys(), "a linear of removed units has a mask")
    for name in alone.keys() & keep.keys():
        keep[name] = (np.array(keep[name]) * alone[name]).tolist()
    stored = keep
    if "units" in meta:  # 5.1: what follows from the units is in no file
        every = {name: alone.get(name, True) for name in keep}
        stored = {
            name: rows for name, rows in keep.items() if (np.array(rows) != every[name]).any()
        }
    check_digest(text, meta["sha256"], stored, tensors)
    return meta, keep, {key: value for key, value in tensors.items() if key not in units}


def without_units(linear, alone):
    """9: codes of removed units are not live, as those of 0 are not."""
    if alone is None:
        return linear
    return linear._replace(codes=(np.array(linear.codes) * alone).tolist())


def check_digest(text, wanted, keep, tensors):
    """9.5."""
    before, after = text.split(wanted)
    found = hashlib.sha256((before + 64 * "0" + after).encode())
    kinds = {"float16": "F16", "uint8": "U8"}
    parts = {key: (value, kinds[str(value.dtype)]) for key, value in tensors.items()}
    for name, rows in keep.items():
        packed = np.packbits(np.array(rows, dtype=bool), axis=1, bitorder="little")
        parts[f"{name}.mask"] = (packed, "U8")
    for key in sorted(parts):
        value, dtype = parts[key]
        found.update(f"{key} {dtype} {'x'.join(map(str, value.shape))}\n".encode())
        found.update(value.tobytes())
    need(found.hexdigest() == wanted, "digest")
