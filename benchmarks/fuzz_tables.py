"""Texts and tables as users have them, for `fuzz_inputs.py`: well written in every format, then damaged or not.

A table that is not damaged keeps what was written, so that a reader that changes a text is found out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PIECES = (
    *("good", "bad", "the film", "was", "word3", "Great", "AWFUL", "don't", "3.50%", "$1,000"),
    *(
        "\U0001f600",
        "\U0001f469\u200d\U0001f467",
        "e\u0301",
        "\u00e9",
        "\u0130",
        "\u00df",
        "\ufb01",
    ),
    *(
        "\u0639\u0631\u0628\u0649",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u200f",
        "\u4e2d\u6587",
        "\u0939\u093f",
    ),
    *("\u200b", "\u200d", "\ufeff", "\u00ad", "\u2028", "\u0085", "\u000b", "\u001c", "\u0007"),
    *("\u00a0", "\u3000", "\u2003", "\ufffd", "\ue000", "\U0010ffff", "\u0300" * 30, "\x7f"),
    *('"', "'", ",", ";", "\t", "\n", "\r", "\r\n", "\\", "\\n", "[CLS]", "[SEP]", "<s>", "</s>"),
    *(
        "[MASK]",
        "<pad>",
        "[UNK]",
        "##ing",
        "\u2581",
        "\u0120",
        "x" * 120,
        "{}",
        "[1]",
        "NaN",
        "null",
    ),
)
BLANK = ("", " ", "\t", "\u00a0", "\u200b", "  \n ")
LABELS: dict[str, tuple[object, ...]] = {
    "words": ("good", "bad"),
    "numbers": (0, 1),
    "more": ("billing", "account", "bug", "delivery"),
    "one class": ("good",),
    "alike": ("good", "Good", " good", "good "),
    "unicode": ("caf\u00e9", "cafe\u0301", "stra\u00dfe", "\u200bgood"),
    "mixed": (1, "1", True, "a", 1.0, None),
    "floats": (0.5, 1.25, -3.0, 4, 1e-7),
    "no numbers": (1.0, float("nan"), float("inf"), 2.0),
    "large": (1e308, 10**40, -1e30, 3.5),
    "empty": ("", " ", "good", "bad"),
    "lists": (["a"], ["a", "b"], [], ["b", "c"]),
    "listed": ("a,b", "b", "a|c", "[]", '["a", 1]', "['b']"),
    "odd": ("\x00", "\ud800", {"a": 1}, b"x", "nan", "None"),
    "long": ("x" * 5000, "y" * 5000),
}
FREQUENT = ("words", "words", "words", "numbers", "more", "floats", "lists")
NAMES = (
    *(("text", "label"), ("sentence", "label"), ("body", "queue"), ("Text ", "LABEL")),
    *(("a, b", 'c"d'), ("\u00fcber", "kla\u00df"), ("x\ny", "z"), ("text", "text"), ("", "label")),
    *(("a" * 300, "label"), ("0", "1"), ("label", "text")),
)
EXTRA = ("id", "idx", "Unnamed: 0", "", "other", "text", "label_text", "label")


def random_text(rng: random.Random, *, plain: bool = False) -> str:
    """A text of a few pieces; empty, blank or very long now and then."""
    kind = rng.random()
    if plain or kind < 0.4:
        return " ".join(rng.choice(PIECES[:9]) for _ in range(rng.randrange(1, 12)))
    if kind < 0.5:
        return rng.choice(BLANK)
    if kind < 0.51:
        return rng.choice(PIECES) * rng.choice((100, 300, 300, 2000))
    glue = rng.choice(("", " ", "  "))
    return glue.join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))


@dataclass
class Table:
    """A table before it is written.

    Attributes:
        texts: columns of one text or two.
        label: column of the label.
        header: all names, in their order in the file.
        rows: cells by place.
        ending: of its file.
        tame: whether it is written so that it can be read.
        damaged: whether its bytes were changed after writing.
        notes: what its labels are, and how it was damaged.
    """

    texts: tuple[str, ...]
    label: str
    header: list[str]
    rows: list[list[object]]
    ending: str
    tame: bool = False
    damaged: bool = False
    notes: list[str] = field(default_factory=list)

    def wanted(self) -> list[tuple[str, ...]]:
        """The texts of every row, as they were meant."""
        places = [self.header.index(name) for name in self.texts]
        return [tuple(str(row[place]) for place in places) for row in self.rows]


def random_table(rng: random.Random, *, tame: bool = False) -> Table:
    """A table with random names, labels and texts; a tame one can be learned from."""
    first, label = NAMES[0] if tame or rng.random() < 0.5 else rng.choice(NAMES)
    texts = (first, "text_pair") if rng.random() < 0.2 else (first,)
    header = [*texts, label]
    for _ in range(0 if tame else rng.choice((0, 0, 0, 0, 1, 3))):
        header.insert(rng.randrange(len(header) + 1), rng.choice(EXTRA))
    usual = tame or rng.random() < 0.65
    kind = (
        rng.choice(("words", "words", "numbers", "floats"))
        if tame
        else rng.choice(FREQUENT)
        if usual
        else rng.choice(list(LABELS))
    )
    count = rng.choice((6, 12, 24)) if usual else rng.choice((0, 1, 2, 3, 5, 12, 40))
    plain, rows = rng.random() < (0.5 if tame else 0.2), []
    for number in range(count):
        values = [random_text(rng, plain=plain) for _ in header]
        choices = LABELS[kind]
        row: list[object] = list(values)
        row[header.index(label)] = choices[number % len(choices)] if tame else rng.choice(choices)
        rows.append(row)
    ending = rng.choice((".csv", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"))
    return Table(texts, label, header, rows, ending, tame, notes=[kind])


def write_table(table: Table, rng: random.Random) -> bytes:
    """Its bytes in its format; unless they are tame, a third of the tables are damaged."""
    data = WRITERS[table.ending](table, rng)
    if not table.tame and rng.random() < 0.35:
        for _ in range(rng.choice((1, 1, 2))):
            way = rng.choice(list(DAMAGES))
            data = DAMAGES[way](data, rng)
            table.notes.append(way)
        table.damaged = True
    if rng.random() < 0.1:
        data = gzip.compress(data, mtime=0)
        table.ending += ".gz"
        if not table.tame and rng.random() < 0.2:
            data, table.damaged = cut(data, rng), True
    return data


def _csv(table: Table, rng: random.Random) -> bytes:
    out, delimiter = io.StringIO(), rng.choice(",,,;\t")
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    if end == "\r":  # a file of carriage returns alone has no line feed in it
        _clear(table, "\n")
    rows = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)
    if rng.random() < 0.1:
        out.write(f"sep={delimiter}{end}")
    rows.writerows([table.header, *([_cell(one) for one in row] for row in table.rows)])
    return _encoded(out.getvalue(), table, rng)


def _tsv(table: Table, rng: random.Random) -> bytes:
    _clear(table, "\t\n\r")
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    lines = ["\t".join(map(_cell, row)) for row in [table.header, *table.rows]]
    return _encoded(end.join(lines) + rng.choice((end, "")), table, rng)


def _json(table: Table, rng: random.Random) -> bytes:
    _unique(table)
    items = [dict(zip(table.header, map(_value, row), strict=True)) for row in table.rows]
    ascii_only = rng.random() < 0.5
    if table.ending == ".json" and rng.random() < 0.6:
        text = json.dumps(items, indent=rng.choice((None, 1)), ensure_ascii=ascii_only)
    else:
        text = "\n".join(json.dumps(item, ensure_ascii=ascii_only) for item in items)
    return _encoded(text, table, rng)


def _parquet(table: Table, rng: random.Random) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    _unique(table)
    columns = [list(column) for column in zip(*table.rows, strict=True)] or [
        [] for _ in table.header
    ]
    arrays = []
    for column in columns:
        try:
            arrays.append(pa.array(column))
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            arrays.append(
                pa.array([_cell(one).encode(errors="replace").decode() for one in column])
            )
        if rng.random() < 0.1 and pa.types.is_string(arrays[-1].type):
            arrays[-1] = arrays[-1].dictionary_encode()
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays(arrays, names=table.header), out)
    return out.getvalue()


WRITERS: dict[str, Callable[[Table, random.Random], bytes]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".txt": _tsv,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _parquet,
}


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def _value(value: object) -> object:
    return value.decode() if isinstance(value, bytes) else value


def _clear(table: Table, letters: str) -> None:
    """Write blanks for letters that the format cannot hold, and say so in the table itself."""
    gone = str.maketrans(dict.fromkeys(letters, " "))
    table.texts = tuple(name.translate(gone) for name in table.texts)
    table.label = table.label.translate(gone)
    table.header = [name.translate(gone) for name in table.header]
    table.rows = [[_cell(one).translate(gone) for one in row] for row in table.rows]


def _unique(table: Table) -> None:
    """Drop columns of a name that is there already: an object has each once."""
    kept = [place for place, name in enumerate(table.header) if table.header.index(name) == place]
    table.header = [table.header[place] for place in kept]
    table.rows = [[row[place] for place in kept] for row in table.rows]


def _encoded(text: str, table: Table, rng: random.Random) -> bytes:
    """UTF-8 mostly; another encoding or a half letter counts as damage."""
    if table.tame or rng.random() < 0.9:
        encoding = "utf-8-sig" if rng.random() < 0.2 else "utf-8"
    else:
        encoding = rng.choice(("utf-16", "utf-16-le", "latin1", "cp1252", "utf-32", "cp037"))
        table.damaged = True
    data = text.encode(encoding, "surrogatepass" if encoding[:3] == "utf" else "replace")
    table.damaged |= any("\ud800" <= letter <= "\udfff" for letter in text)
    table.damaged |= text.startswith("\ufeff")
    return data


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flip(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data or b"\n")
    for _ in range(rng.choice((1, 1, 4, 32))):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _insert(*parts: bytes) -> Callable[[bytes, random.Random], bytes]:
    def insert(data: bytes, rng: random.Random) -> bytes:
        place = rng.randrange(len(data) + 1)
        return data[:place] + rng.choice(parts) + data[place:]

    return insert


def _repeat(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = rng.randrange(len(lines))
    return b"\n".join([*lines[:place], lines[place], *lines[place:]])


def _headless(data: bytes, rng: random.Random) -> bytes:
    del rng
    return data.partition(b"\n")[2]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": cut,
    "flipped": _flip,
    "a NUL": _insert(b"\0", b"\0\0\0", b"\0\n"),
    "quotes": _insert(b'"', b'""', b"'", b'"\n"', b'\\"'),
    "ragged": _insert(b",", b",,,,", b"\t", b";", b"\t\t\t", b"\n,\n"),
    "no UTF-8": _insert(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xff\xfe"),
    "lines": _insert(b"\r", b"\n\n", b"\r\n\r\n", b"\x0b", b"\xe2\x80\xa8", b"\xc2\x85", b"\n \n"),
    "JSON": _insert(b"[" * 20000, b"NaN", b"Infinity", b"9" * 6000, b"{", b"]", b'{"a":' * 3000),
    "a mark": _insert(b"\xef\xbb\xbf", b"sep=;\n", b"# comment\n", b"<html>"),
    "huge": _insert(b"x" * 200_000, b'"' + b"y" * 150_000 + b'"'),
    "a line twice": _repeat,
    "no header": _headless,
    "nothing left": lambda _, rng: rng.choice(
        (b"", b"\n", b" ", b"\xef\xbb\xbf", b"[]", b"{}", b"null")
    ),
}


def put(table: Table, rng: random.Random, folder: Path, stem: str) -> Path:
    """The path of its file, written."""
    data = write_table(table, rng)
    path = folder / f"{stem}{table.ending}"
    path.write_bytes(data)
    return path
