"""What is written does not depend on the order that a process gives its sets, which differs from process to process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from ast import literal_eval

import pytest

# Of the first 150 these two differ most: whatever two or three of `NAMES` a set holds come in the reverse order.
SEEDS = ("8", "18")
NAMES = (
    ("mine", "more"),
    ("001", "01", "1"),
    ("mask", "head"),
    ("train", "dev"),
    ("text", "numbers"),
)
LABELS = ("1", "01", "001", "two", "Two")

ORDER = """
import json, sys
from pathlib import Path
from maskpack.tasks.data.splits import load_data
from maskpack.tasks.task import find_task
for name, kind in (("numbers", "classification"), ("words", "classification"), ("words", "multi-label")):
    task = find_task("mine", text_field="text", label_field=name, kind=kind)
    data = load_data(task, data=Path("rows.csv"))
    print(json.dumps([data.labels, data.train.sha256(), data.dev.sha256()]))
"""

COMMANDS = """
import os, sys
from maskpack.cli.app import main
short = "--steps 4 --batch-size 16 --max-length 16 --precision fp32 --bits 4 --group 16".split()
task = "--data rows.csv --text-field text --label-field numbers".split()
rows = "--data rows.csv".split()
for words in (
    ["fit", sys.argv[1], "--task", "mine", *task, *short, "-o", "artifact"],
    ["fit", sys.argv[1], "--task", "more", *task, "--multi-label", *short, "-o", "artifact", "--replace"],
    ["export", "artifact", "--onnx", "-t", "mine", "-o", "onnx", *rows],
    ["export", "artifact", "--onnx", "--layout", "swap", "-o", "swap", "--no-verify"],
    ["package", "onnx", "--target", "web", "-o", "web"],
    ["package", "onnx", "--target", "ort", "-o", "ort.zip"],
    ["pack", "artifact", "-t", "mine", "-o", "mine.patch"],
    ["report", "artifact", "--data", "mine=rows.csv", "--data", "more=rows.csv", "--export", "onnx", "-o", "page.html"],
    ["sweep", "plan.yaml"],
    ["sweep", "plan.yaml", "--summary", "--json"],
    ["report", "plan.jsonl", "-o", "sweep.html"],
):
    sys.argv = ["compress", *words]
    print(words, flush=True)
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, words
"""


def run(folder, environment, seed, *args):
    """What a process of that hash seed prints in a folder."""
    env = {**environment, "PYTHONHASHSEED": seed, "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *args], cwd=folder, env=env, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def write_rows(folder):
    folder.mkdir()
    cells = [f"good film {row},{LABELS[row % 3]},{LABELS[row % 5]}" for row in range(60)]
    (folder / "rows.csv").write_text("\n".join(["text,numbers,words", *cells, ""]))
    return folder


def test_a_set_comes_in_the_reverse_order_in_the_other_process(tmp_path, environment):
    code = f"print([list(set(names)) for names in {NAMES}])"
    one, other = (literal_eval(run(tmp_path, environment, seed, "-c", code)) for seed in SEEDS)
    assert other == [names[::-1] for names in one]


def test_labels_and_rows_are_the_same_in_every_process(tmp_path, environment):
    seeds = ("0", *SEEDS)
    found = {run(write_rows(tmp_path / seed), environment, seed, "-c", ORDER) for seed in seeds}
    assert len(found) == 1
    numbers, *_ = (json.loads(line) for line in found.pop().splitlines())
    assert numbers[0] == ["001", "01", "1"]


@pytest.mark.slow
def test_whatever_is_written_is_the_same_in_every_process(tmp_path, environment, tiny_model):
    pytest.importorskip("jinja2")
    written = []
    for seed in SEEDS:
        folder = write_rows(tmp_path / seed)
        model = os.path.relpath(tiny_model, folder)
        (folder / "plan.yaml").write_text(
            f"models: [{json.dumps(model)}]\n"
            "tasks: {mine: {data: rows.csv, text_field: text, label_field: numbers}}\n"
            "options: {max_length: 16, batch_size: 16, steps: 2, precision: fp32}\n"
            "methods: {mask: {bits: [8, 4]}, head: {method: head}}\nseeds: [0, 1]\n"
        )
        run(folder, environment, seed, "-c", COMMANDS, model)
        written.append(
            {
                str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(folder.rglob("*"))
                if path.is_file() and path.suffix != ".jsonl"  # results say how long a run took
            }
        )
    one, other = written
    assert len(one) > 30
    assert {name for name in one if one[name] != other.get(name)} == set()
    assert one.keys() == other.keys()
