"""Commands that show, move and compare tasks know whole units: the golden artifact with units, through each of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "v1-units"


def call(main, *args, code=0):
    """What a call printed; it must end with this code."""
    outcome = main(*args)
    assert outcome.code == code, outcome.err
    return outcome


def rows_of(text, title):
    """Cells of the rows of the table below a title."""
    lines = text.partition(title)[2].splitlines()
    start = next(n for n, line in enumerate(lines) if "─" in line)
    rows = []
    for line in lines[start + 1 :]:
        if not line.strip():
            return rows
        rows.append(re.split(r"\s{2,}", line.strip()))
    return rows


@pytest.fixture
def artifact(tmp_path):
    """A copy of the golden artifact, which commands may change."""
    return shutil.copytree(GOLDEN, tmp_path / "artifact")


def test_inspect_shows_heads_and_neurons_by_layer_and_their_bytes(main):
    found = call(main, "inspect", GOLDEN).out
    rows = rows_of(found, "only: units that stay, 70 B")
    assert rows == [["0", "3 of 4", "32 of 40"], ["1", "0 of 4", "289 of 500"]]
    assert rows_of(found, "both: units that stay")[0] == ["0", "3 of 4", "40 of 40"]
    tasks = {row[0]: row for row in rows_of(found, "tasks")}
    zeros, bpp, mask = tasks["only"][3:6]
    assert (zeros, bpp, mask) == ("42.05%", "0.000", "0 B")
    assert float(tasks["both"][4]) > 0.5


def test_inspect_tells_programs_the_same(main):
    tasks = call(main, "inspect", GOLDEN, "--json").json["tasks"]
    only, both = tasks["only"], tasks["both"]
    assert (only["unit_bytes"], only["mask_bytes"], only["entropy_bytes"]) == (70, 0, 0)
    assert only["units"][0] == {"kind": "heads", "layer": 0, "count": 4, "kept": 3}
    assert [one["kept"] for one in only["units"]] == [3, 0, 32, 289]
    assert both["mask_bytes"] > 0
    assert 0 < both["entropy_bytes"] < both["mask_bytes"]
    plain = call(main, "inspect", GOLDEN.with_name("v1"), "--json").json["tasks"]["mood"]
    assert (plain["units"], plain["unit_bytes"]) == (None, 0)
    assert "units that stay" not in call(main, "inspect", GOLDEN.with_name("v1")).out


def test_overlap_counts_units_too(main):
    found = call(main, "overlap", GOLDEN).out
    assert rows_of(found, "overlap of units") == [
        ["both, only", "216", "224", "216", "93", "0.964"]
    ]
    (pair,) = call(main, "overlap", GOLDEN, "--json").json
    units = pair["units"]
    assert (units["first_zeros"], units["second_zeros"], units["both"]) == (216, 224, 216)
    assert units["jaccard"] == pytest.approx(216 / 224)
    assert "units" not in call(main, "overlap", GOLDEN.with_name("v1")).out
    (pair,) = call(main, "overlap", GOLDEN.with_name("v1"), "--json").json
    assert pair["units"] is None


def test_pack_unpack_rename_and_diff_keep_units(main, artifact, tmp_path):
    packed = tmp_path / "only.patch"
    call(main, "pack", artifact, "-t", "only", "-o", packed)
    assert packed.read_bytes() == (GOLDEN / "only.patch").read_bytes()
    call(main, "remove", artifact, "-t", "only")
    call(main, "unpack", packed, artifact)
    assert "byte for byte" in call(main, "diff", artifact, GOLDEN).out
    call(main, "remove", artifact, "-t", "only")
    call(main, "rename", artifact, "-t", "both", "--name", "only")
    found = call(main, "diff", artifact, GOLDEN, code=1).out
    ((name, patch, _, bits, units, _),) = rows_of(found, "tasks of both")
    assert (name, patch, units) == ("only", "different", "8")
    assert int(bits.replace(",", "")) > 8
    tree = call(main, "diff", artifact, GOLDEN, "--json", code=1).json
    assert tree["tasks"][0]["units"] == 8
    call(main, "merge", artifact, merged_from(main, tmp_path))
    assert "is sound" in call(main, "check", artifact).out
    assert call(main, "inspect", artifact, "--json").json["tasks"]["both"]["unit_bytes"] == 70


def merged_from(main, tmp_path):
    """The golden artifact with the task `both` alone."""
    other = shutil.copytree(GOLDEN, tmp_path / "other")
    call(main, "remove", other, "-t", "only")
    return other


def test_check_names_units_that_do_not_fit(main, artifact):
    path = artifact / "maskpack.json"
    path.write_text(path.read_text().replace('"units"', '"smell"'))
    found = call(main, "check", artifact, code=1).out
    assert "task `both` requires the feature `smell`" in found
    assert "task `only` requires the feature `smell`" in found


def test_the_report_shows_units(main, tmp_path):
    page = tmp_path / "page.html"
    tree = call(main, "report", GOLDEN, "--no-evaluate", "-o", page, "--json").json
    view = {task["name"]: task for task in tree["tasks"]}
    assert view["only"]["units"][0] == {"kind": "heads", "layer": 0, "count": 4, "kept": 3}
    parts = {part["name"]: part["bytes"] for part in view["only"]["parts"]}
    assert (parts["units"], parts["mask"]) == (70, 0)
    assert sum(parts.values()) == view["only"]["patch_bytes"]
    assert view["only"]["beside_units"] == {
        "weights": view["only"]["count"]["weights"] - 62160,
        "zeros": 0,
    }
    text = page.read_text()
    assert text.count("Heads and neurons that stay") == 2
    assert 'title="289 of 500">289</td>' in text
    assert 'title="0 of 4">0</td>' in text
    assert "attention heads and neurons that a task removes whole" in text
    call(main, "report", GOLDEN.with_name("v1"), "--no-evaluate", "-o", page)
    assert "that stay" not in page.read_text()
