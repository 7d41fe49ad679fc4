"""Rows in a cache: the same values as in memory, for every kind of file; what is damaged is made again."""

from __future__ import annotations

import csv
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskpack.formats import ConfigError, DataError
from maskpack.formats.files import lock, open_for_lock
from maskpack.tasks.data import stored_rows
from maskpack.tasks.data.cache import AUTO, OFF, Cache, usual_folder
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.data.stored_rows import StoredRows
from maskpack.tasks.data_warnings import find_warnings
from maskpack.tasks.options import CacheOptions
from maskpack.tasks.task import Task

PAGE = 500
ROWS = 4 * PAGE + 100
TASK = Task("own", texts=("text",), label="label")
PAIRS = replace(TASK, texts=("text", "other"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """Pages of few rows, so that few rows are several pages."""
    monkeypatch.setattr(stored_rows, "PAGE", PAGE)


def rows_of(count: int = ROWS) -> list[dict[str, str]]:
    """Rows of four labels, with commas, quotes, line breaks, letters of two scripts and repeats."""
    rng = np.random.default_rng(5)
    words = np.array(
        ["good", "a, b", 'say "x"', "two\nlines", "\u4e2d\u6587", "Caf\u00e9", "  ", "9"]
    )
    return [
        {
            "text": f"{' '.join(rng.choice(words, 3))} {row % 1700}",
            "other": f"n {row}",
            "label": f"  l{min(int(rng.geometric(0.4)), 4)}",
        }
        for row in range(count)
    ]


def as_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)


def as_tsv(path: Path, rows: list[dict[str, str]]) -> None:
    lines = ["\t".join(cell.replace("\n", " ") for cell in row.values()) for row in rows]
    path.write_text("\r\n".join(["\t".join(rows[0]), *lines]), encoding="utf-8", newline="")


def as_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    text = "\n".join(map(json.dumps, rows))
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(text)


def as_json(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text(json.dumps(rows))


def as_parquet(path: Path, rows: list[dict[str, str]]) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.Table.from_pylist(rows), path)


FILES = {
    "a.csv": as_csv,
    "a.tsv": as_tsv,
    "a.jsonl.gz": as_jsonl,
    "a.json": as_json,
    "a.parquet": as_parquet,
}


@pytest.fixture(scope="module")
def many() -> list[dict[str, str]]:
    return rows_of()


@pytest.fixture
def cache(tmp_path) -> Cache:
    pytest.importorskip("pyarrow")
    return Cache(tmp_path / "cache", always=True)


@pytest.mark.parametrize(
    ("name", "task"),
    [*((name, TASK) for name in FILES), ("a.csv", PAIRS)],
    ids=lambda x: str(x)[:9],
)
def test_rows_from_a_cache_are_those_in_memory(tmp_path, cache, many, name, task):
    path = tmp_path / name
    FILES[name](path, many)
    plain = load_data(task, data=path)
    files = set()
    for _ in ("made", "taken"):
        kept = load_data(task, data=path, cache=cache)
        assert isinstance(kept.train.texts, StoredRows)
        assert isinstance(kept.dev.texts, StoredRows)
        assert (kept.labels, kept.held_out) == (plain.labels, plain.held_out)
        for one, other in ((kept.train, plain.train), (kept.dev, plain.dev)):
            assert tuple(one.texts) == other.texts
            assert one.labels.tolist() == other.labels.tolist()
            assert one.sha256() == other.sha256()
            assert one.texts[-1] == other.texts[-1]
        assert find_warnings(kept) == find_warnings(plain)
        some, few = kept.limit_train(500), plain.limit_train(500)
        assert some.train.sha256() == few.train.sha256()
        prefixed = kept.dev.prefixed(("a: ", "b: ")[: len(task.texts)])
        assert tuple(prefixed.texts) == plain.dev.prefixed(("a: ", "b: ")[: len(task.texts)]).texts
        files |= {(file, file.stat().st_mtime_ns) for file in cache.folder.glob("*/*")}
    assert len(files) == 2  # two files, written once


@pytest.mark.parametrize("unlabelled", ["skip", "teach"])
def test_rows_without_a_label_are_found_there_too(tmp_path, cache, many, unlabelled, caplog):
    rows = [dict(row) for row in many]
    for number in (3, PAGE + 5, ROWS - 1):
        rows[number]["label"] = ""
    as_csv(tmp_path / "a.csv", rows)
    task = replace(TASK, unlabelled=unlabelled)
    said = []
    for where in (None, cache):
        with caplog.at_level(logging.INFO):
            data = load_data(task, data=tmp_path / "a.csv", cache=where)
        said.append([line for line in caplog.messages if "have no label" in line])
        caplog.clear()
        assert tuple(data.train.unlabelled) == tuple(
            (rows[n]["text"],) for n in (3, PAGE + 5, ROWS - 1)
        )
        assert data.rows_without_label["train"] == 3
    assert said[0] == said[1] != []
    assert f"data rows 4, {PAGE + 6}, {ROWS}" in said[0][0]


def test_a_regression_and_several_labels_are_read_alike(tmp_path, cache):
    rows = [
        {"text": f"t {n}", "label": f"{n / 7:.3f}", "tags": f"{n % 3}|{n % 5}"}
        for n in range(PAGE + 50)
    ]
    as_csv(tmp_path / "a.csv", rows)
    tags = replace(TASK, kind="multi-label", label="tags", separator="|", metrics=("micro_f1",))
    for task in (replace(TASK, kind="regression", metrics=("spearman",)), tags):
        plain, kept = (load_data(task, data=tmp_path / "a.csv", cache=one) for one in (None, cache))
        assert kept.labels == plain.labels
        assert np.array_equal(kept.train.labels, plain.train.labels)
        assert kept.train.labels.dtype == plain.train.labels.dtype
        assert kept.dev.sha256() == plain.dev.sha256()
        assert find_warnings(kept) == find_warnings(plain)


BROKEN = {
    "fields": ('"x";1;2;3;4', f"row {ROWS + 2} of"),
    "label": ("x;y;  ", f"data row {ROWS + 1} of"),
    "quote": ('"x', f"row {ROWS + 2} of"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_error_in_a_late_page_names_its_row_and_leaves_no_table(tmp_path, cache, many, case):
    as_csv(tmp_path / "a.csv", many)
    line, told = BROKEN[case]
    with (tmp_path / "a.csv").open("ab") as file:
        file.write(line.encode())
    errors = []
    for where in (None, cache):
        with pytest.raises(DataError) as caught:
            load_data(TASK, data=tmp_path / "a.csv", cache=where)
        errors.append((str(caught.value), str(caught.value.hint)))
    assert errors[0] == errors[1]
    assert told in errors[0][0]
    if case != "label":  # a label is checked in the rows that were read
        assert list(cache.folder.iterdir()) == []


def table_of(cache: Cache) -> Path:
    (home,) = cache.folder.iterdir()
    return home


def cut_short(home: Path) -> None:
    data = home / "data.arrow"
    data.write_bytes(data.read_bytes()[:-1000])


def flip(home: Path) -> None:
    data = bytearray((home / "data.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (home / "data.arrow").write_bytes(bytes(data))


def of_others(home: Path) -> None:
    about = json.loads((home / "about.json").read_text())
    about["of"]["file"] = "0" * 64
    (home / "about.json").write_text(json.dumps(about))


DAMAGE = {
    "cut short": (cut_short, "is damaged: "),
    "flipped": (flip, "is damaged: its digest is another one"),
    "of other data": (of_others, "belongs to other data"),
    "no text": (lambda home: (home / "about.json").write_bytes(b"\xff{"), "is damaged: "),
    "no mapping": (lambda home: (home / "about.json").write_text("[]"), "is damaged: "),
    "killed": (lambda home: (home / "about.json").unlink(), ""),
    "data gone": (lambda home: (home / "data.arrow").unlink(), ""),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_table_is_made_again_with_one_line(tmp_path, cache, many, caplog, case):
    as_csv(tmp_path / "a.csv", many[:500])
    wanted = load_data(TASK, data=tmp_path / "a.csv").train.sha256()
    assert load_data(TASK, data=tmp_path / "a.csv", cache=cache).train.sha256() == wanted
    home, (damage, told) = table_of(cache), DAMAGE[case]
    before = (home / "data.arrow").read_bytes()
    damage(home)
    assert load_data(TASK, data=tmp_path / "a.csv", cache=cache).train.sha256() == wanted
    lines = [line for line in caplog.messages if line.startswith("the cache")]
    assert lines == [] if not told else len(lines) == 1 and told in lines[0]
    assert (home / "data.arrow").read_bytes() == before
    assert sorted(path.name for path in home.iterdir()) == ["about.json", "data.arrow"]


def test_other_rows_and_other_columns_have_their_own_table(tmp_path, cache, many):
    as_csv(tmp_path / "a.csv", many[:500])
    first = load_data(TASK, data=tmp_path / "a.csv", cache=cache).train.sha256()
    load_data(PAIRS, data=tmp_path / "a.csv", cache=cache)
    as_csv(tmp_path / "a.csv", many[1:501])
    other = load_data(TASK, data=tmp_path / "a.csv", cache=cache)
    assert other.train.sha256() == load_data(TASK, data=tmp_path / "a.csv").train.sha256() != first
    assert len(list(cache.folder.iterdir())) == 3


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path, cache, many, full_disk):
    as_csv(tmp_path / "a.csv", many)
    with full_disk(), pytest.raises(DataError, match="cannot write the cache `.*`: ") as caught:
        load_data(TASK, data=tmp_path / "a.csv", cache=cache)
    assert "`cache`" in str(caught.value.hint)
    assert list(cache.folder.iterdir()) == []


def test_a_disk_with_too_little_room_is_found_before(tmp_path, cache, many, monkeypatch):
    as_csv(tmp_path / "a.csv", many)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DataError, match="takes some 0 MB in `.*`, 0 MB are free there"):
        load_data(TASK, data=tmp_path / "a.csv", cache=cache)
    assert list(cache.folder.iterdir()) == []


def test_a_cache_that_is_a_file_is_one_error(tmp_path, cache, many):
    as_csv(tmp_path / "a.csv", many[:100])
    cache.folder.write_text("")
    with pytest.raises(DataError, match="cannot write the cache"):
        load_data(TASK, data=tmp_path / "a.csv", cache=cache)


CHILD = """
    import sys
    from pathlib import Path
    from maskpack.tasks.data.cache import Cache
    from maskpack.tasks.data.splits import load_data
    from maskpack.tasks.task import Task
    task = Task("own", texts=("text",), label="label")
    data = load_data(task, data=Path(sys.argv[1]), cache=Cache(Path(sys.argv[2]), always=True))
    print(data.train.sha256())
"""


DIES = """
    import os, signal
    from maskpack.tasks.data import cache
    cache.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # all is written and not in its place
"""


def start(path: Path, folder: Path, first: str = "") -> subprocess.Popen[str]:
    script = textwrap.dedent(first) + textwrap.dedent(CHILD)
    code = [sys.executable, "-c", script, str(path), str(folder)]
    return subprocess.Popen(code, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_make_the_same_table_both_get_it(tmp_path, cache, many):
    as_csv(tmp_path / "a.csv", many)
    children = [start(tmp_path / "a.csv", cache.folder) for _ in range(2)]
    said = {child.communicate(timeout=120)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert said == {load_data(TASK, data=tmp_path / "a.csv").train.sha256()}
    assert sorted(path.name for path in table_of(cache).iterdir()) == ["about.json", "data.arrow"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_process_killed_while_writing_leaves_no_table(tmp_path, cache, many):
    as_csv(tmp_path / "a.csv", many)
    child = start(tmp_path / "a.csv", cache.folder, DIES)
    child.communicate(timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert list(cache.folder.glob("*/*.unfinished"))
    assert list(cache.folder.glob("*/about.json")) == []
    kept = load_data(TASK, data=tmp_path / "a.csv", cache=cache)
    assert kept.train.sha256() == load_data(TASK, data=tmp_path / "a.csv").train.sha256()
    assert sorted(path.name for path in table_of(cache).iterdir()) == ["about.json", "data.arrow"]


@pytest.mark.skipif(sys.platform == "win32", reason="a folder that is held cannot be removed there")
def test_a_folder_that_another_process_removed_is_made_again(tmp_path, cache, many):
    as_csv(tmp_path / "a.csv", many[:500])
    load_data(TASK, data=tmp_path / "a.csv", cache=cache)
    home = table_of(cache)
    held = open_for_lock(home)
    assert lock(held, wait=False)
    child = start(tmp_path / "a.csv", cache.folder)
    time.sleep(1.5)
    assert child.poll() is None  # it waits
    for path in home.iterdir():
        path.unlink()
    home.rmdir()
    os.close(held)
    assert child.communicate(timeout=300)[0].strip()
    assert child.returncode == 0
    assert (home / "about.json").is_file()


def test_datasets_opens_the_tables(tmp_path, cache, many):
    datasets = pytest.importorskip("datasets")
    as_csv(tmp_path / "a.csv", many[:500])
    load_data(TASK, data=tmp_path / "a.csv", cache=cache)
    opened = datasets.Dataset.from_file(str(table_of(cache) / "data.arrow"))
    assert opened["cell0"][:2] == [row["text"] for row in many[:2]]


def test_options_name_the_cache(monkeypatch, tmp_path):
    assert Cache.of_option(OFF) is None
    assert Cache.of_option(str(tmp_path)) == Cache(tmp_path, always=True)
    monkeypatch.setenv("MASKPACK_CACHE", str(tmp_path / "x"))
    assert Cache.of_option(AUTO) == Cache(tmp_path / "x")
    monkeypatch.delenv("MASKPACK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "y"))
    monkeypatch.setattr("sys.platform", "linux")
    assert usual_folder() == tmp_path / "y" / "maskpack"
    with pytest.raises(ConfigError, match="`cache` is empty"):
        CacheOptions(cache="")


def test_without_an_option_large_files_alone_are_kept(tmp_path, many, caplog, monkeypatch):
    pytest.importorskip("pyarrow")
    auto = Cache(tmp_path / "cache")
    as_csv(tmp_path / "a.csv", many[:500])
    assert not auto.takes(tmp_path / "a.csv")
    with (tmp_path / "b.csv").open("wb") as file:
        file.truncate(33 << 20)
    with (tmp_path / "b.parquet").open("wb") as file:
        file.truncate(12 << 20)
    assert auto.takes(tmp_path / "b.csv")
    assert auto.takes(tmp_path / "b.parquet")
    assert not auto.takes(tmp_path / "none.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with caplog.at_level(logging.INFO):
        assert not auto.takes(tmp_path / "b.csv")
    assert '`pip install "maskpack[data]"` keeps them on disk' in caplog.text
