"""`compress report`: the page says what the other commands say, and holds everything it shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from html_page import Page

from maskpack.cli import render
from maskpack.compressor import FitConfig, FitRequest, fit_task
from maskpack.tasks import find_task

RESULTS = Path(__file__).parents[2] / "docs" / "results"


@pytest.fixture
def report(main, work):
    """`report(*args)`: the page that a call writes, and what it printed."""

    def call(*args):
        done = main("report", *args, "-o", "page.html")
        assert done.code == 0, done.err
        text = (work / "page.html").read_text(encoding="utf-8")
        return Page(text), text, done

    return call


@pytest.fixture(scope="module")
def many(tmp_path_factory, tiny_model, sentiment):
    """An artifact of one bit with an exception, a classification and a regression."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "marks.tsv").write_text(
        "text\tmark\n"
        + "".join(f"the film was {'good' if n % 2 else 'bad'}\t{n % 7}.5\n" for n in range(60))
    )
    options = {
        "group": 16,
        "batch_size": 16,
        "max_length": 16,
        "precision": "fp32",
        "refine": 2,
        "teacher": "none",
    }
    config = FitConfig(bits=1, bits_override={"*.layer.0.*": 4}, steps=8, **options)
    out = folder / "artifact"
    fit_task(FitRequest(str(tiny_model), find_task("sst2"), out, config, data=sentiment))
    from maskpack.tasks.task import Kind

    marks = find_task("marks", text_field="text", label_field="mark", kind=Kind.REGRESSION)
    fit_task(
        FitRequest(str(tiny_model), marks, out, config, data=folder / "marks.tsv", name="marks")
    )
    return out


def test_the_numbers_are_those_of_inspect(report, main, tiny_artifact, sentiment):
    page, _, done = report(tiny_artifact, "--data", sentiment, "--json")
    told, known = done.json, main("inspect", tiny_artifact, "--json").json
    (task,), entry = told["tasks"], known["tasks"]["sst2"]
    parts = {part["name"]: part["bytes"] for part in task["parts"]}
    assert (parts["mask"], parts["head"]) == (entry["mask_bytes"], entry["head_bytes"])
    assert sum(parts.values()) == task["patch_bytes"] == entry["patch_bytes"]
    assert told["backbone_bytes"] == known["backbone_bytes"]
    assert sum(part["bytes"] for part in told["parts"]) == known["backbone_bytes"]
    assert told["maskable"] == known["masked_weights"]
    assert task["scores"] == entry["scores"]
    cells = [cell for row in task["heat"]["cells"] for cell in row if cell]
    assert sorted(cell["zeros"] for cell in cells) == sorted(entry["layer_zeros"].values())
    assert sum(cell["weights"] for cell in cells) == entry["weights"]
    for text in (
        render.size(known["backbone_bytes"]),
        render.size(entry["patch_bytes"]),
        f"{entry['zeros']:,} of {entry['weights']:,} weights",
        f"{entry['scores']['accuracy']:.4f}",
        known["backbone_sha256"],
    ):
        assert text in page.text, text


def test_the_packed_size_is_that_of_the_file(report, main, tiny_artifact, work):
    (task,) = report(tiny_artifact, "--no-evaluate", "--json")[2].json["tasks"]
    assert main("pack", tiny_artifact, "--task", "sst2", "-o", "x.patch").code == 0
    assert task["packed_bytes"] == (work / "x.patch").stat().st_size


def test_mistakes_are_counted_on_the_evaluation_rows(report, main, tiny_artifact, sentiment):
    page, _, done = report(tiny_artifact, "--data", sentiment, "--json")
    analyzed = done.json["evaluation"]["sst2"]
    counts = analyzed["confusion"]["counts"]
    scores = main("eval", tiny_artifact, "-t", "sst2", "--data", sentiment, "--json").json["scores"]
    assert sum(map(sum, counts)) == 32
    assert (counts[0][0] + counts[1][1]) / 32 == scores["accuracy"]
    assert "true class, and given as:" in page.text
    assert f"accuracy {scores['accuracy']:.4f} (always the same answer: 0.5000)" in page.text


def test_curves_are_drawn_of_what_the_manifest_keeps(report, tiny_artifact):
    page, text, done = report(tiny_artifact, "--no-evaluate", "--json")
    (task,) = done.json["tasks"]
    assert len(task["curves"]["steps"]) == 40
    assert "accuracy on evaluation rows" in page.text
    assert text.count('class="curve"') == 3


def test_without_curves_and_data_the_page_says_so(report, tiny_artifact, work):
    shutil.copytree(tiny_artifact, work / "old")
    path = work / "old" / "maskpack.json"
    tree = json.loads(path.read_text())
    del tree["tasks"]["sst2"]["training"]["history"]
    path.write_text(json.dumps(tree))
    page, text, _ = report("old")
    assert "learning curves were not kept" in page.text
    assert "the evaluation data of sst2 is not at hand" in re.sub(r" +", " ", page.text)
    assert "<code>--data PATH</code>" in text


@pytest.mark.parametrize("name", ["v1", "v1-low-bits"])
def test_an_artifact_of_another_writer_says_what_it_can(report, main, name):
    golden = Path(__file__).parents[1] / "golden" / name
    page, _, done = report(golden, "--json")
    assert "does not say from which columns" in page.text
    for task in done.json["tasks"]:
        evaluated = main("eval", golden, "-t", task["name"])
        assert evaluated.code == 1
        assert "hint: learn it again" in evaluated.err


def test_the_page_names_no_other_file_and_no_address(report, many, sentiment):
    page, text, _ = report(
        many, "--data", f"sst2={sentiment}", "--sweep", RESULTS / "quality.jsonl"
    )
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert "http" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert all(value.startswith("#") for _, name, value in page.values if name == "href")
    targets = {value for _, name, value in page.values if name == "id"}
    assert {value[1:] for _, name, value in page.values if name == "href"} <= targets


def test_names_are_escaped(report, tiny_artifact, work):
    shutil.copytree(tiny_artifact, work / "odd")
    path = work / "odd" / "maskpack.json"
    evil = "<script>alert('&')</script>"
    tree = json.loads(path.read_text())
    tree["source"]["model"] = evil
    entry = tree["tasks"]["sst2"]
    entry["labels"] = [evil, 'b"c']
    entry["training"]["calibration"] = evil
    entry["data"]["task"] = f"`{evil}`"
    path.write_text(json.dumps(tree))
    page, text, _ = report("odd", "--no-evaluate")
    assert "script" not in page.tags
    assert "<script" not in text
    assert page.text.count("<script>alert('&')</script>") >= 3


def test_several_tasks_of_every_kind(report, many, sentiment):
    page, text, done = report(many, "--data", f"sst2={sentiment}", "--json")
    assert [task["name"] for task in done.json["tasks"]] == ["marks", "sst2"]
    assert done.json["overrides"] == {"*.layer.0.*": 4}
    assert "1- to 4-bit" in page.text
    assert "4 bits instead *.layer.0.*" in page.text
    assert "2 dense float32 copies" in page.text
    assert done.json["evaluation"]["marks"].keys() == {"missing"}
    assert 'id="task-marks"' in text


def test_a_regression_is_drawn_as_pairs(report, many):
    data = many.parent / "marks.tsv"
    page, text, done = report(many, "--data", f"marks={data}", "--json")
    pairs = done.json["evaluation"]["marks"]["pairs"]
    assert len(pairs) == 6  # the tenth that was held out
    assert len(re.findall(r">true \d", text)) == 6
    assert "true value" in page.text


def test_an_artifact_without_tasks(report, main, tiny_model):
    assert main("quantize", tiny_model, "-o", "bare", "--bits", "8").code == 0
    page, _, _ = report("bare", "--sweep", RESULTS / "quality.jsonl")
    assert "There is no task in this artifact yet" in page.text
    assert "when learned" not in page.text


def test_a_line_that_was_cut_short_is_told(report, main, work):
    lines = (RESULTS / "quality.jsonl").read_text()
    (work / "torn.jsonl").write_text(lines[:-40])
    page, _, done = report("torn.jsonl")
    assert "warning: the last line of `torn.jsonl` was cut short and is left out" in done.err
    assert "8/9" in page.text


def test_the_figures_of_a_sweep_are_printed_with_those_of_an_artifact(report, main, tiny_artifact):
    sweep = RESULTS / "quality.jsonl"
    tree = report(tiny_artifact, "--no-evaluate", "--sweep", sweep, "--json")[2].json
    assert tree["sweeps"] == report(sweep, "--json")[2].json


def test_verdicts_are_shown(report, main, tiny_artifact, sentiment, work):
    exported = ["export", tiny_artifact, "--onnx", "-t", "sst2", "--compute", "fp32", "-o", "graph"]
    assert main(*exported, "--data", sentiment).code == 0
    page, _, _ = report(tiny_artifact, "--export", "graph", "--no-evaluate")
    assert "fp32, opset 18 within tolerance" in page.text
    assert "points lost same answer off by" in page.text  # a class, labels or a number
    path = work / "graph" / "maskpack_report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "findings": ["is <b>off</b>"]}))
    page, text, _ = report(tiny_artifact, "--export", "graph", "--no-evaluate")
    assert "refused" in page.text
    assert "<b>off" not in text


def test_a_sweep_has_its_table_and_plots(report):
    page, text, done = report(RESULTS / "quality.jsonl", "--json")
    (table,) = done.json
    assert table["reference"] == "dense"
    assert [row["runs"] for row in table["rows"]] == [9] * 7
    assert "0.8563 ± 0.0115" in page.text
    assert "majority class" in page.text
    for title in ("bits of a backbone weight", "zeros in the mask, %", "bytes a task adds, coded"):
        assert f"quality against {title}" in page.text
    assert text.count('class="chart"') == 12
    assert text.count('class="band"') == 12


def test_the_table_is_that_of_the_sweep_itself(main, work, tiny_model, sentiment):
    import yaml

    tree = {
        "models": [str(tiny_model)],
        "tasks": {"sst2": {"data": str(sentiment)}},
        "seeds": [0, 1],
        "options": {"steps": 2, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "methods": {"dense": {"method": "full"}, "mask": {"bits": [8, 4], "group": 16}},
        "reference": "dense",
    }
    (work / "plan.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    first = main("sweep", "plan.yaml", "--json", "-q").json
    assert main("report", "plan.jsonl", "--json").json == first
    assert (work / "report.html").is_file()


def test_a_page_of_files_alone_needs_no_torch(work, tiny_artifact, environment):
    for args in ([str(RESULTS / "quality.jsonl")], [str(tiny_artifact), "--no-evaluate"]):
        code = (
            "import sys\nfrom maskpack.cli.app import main\n"
            f"sys.argv = ['compress', 'report', *{args}]\n"
            "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
            "assert 'torch' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], env=environment, cwd=work, check=True)


def test_the_same_input_gives_the_same_page(report, many):
    assert report(many)[1] == report(many)[1]


def test_pictures_are_drawn_as_png_too(report, many, work):
    report(many, "--no-evaluate", "--png", "pictures", "--sweep", RESULTS / "quality.jsonl")
    names = {path.name for path in (work / "pictures").iterdir()}
    assert names == {
        *(f"{task}-{what}.png" for task in ("marks", "sst2") for what in ("curves", "zeros")),
        *(f"quality-{what}.png" for what in ("bits", "sparsity", "bytes")),
    }
    for path in (work / "pictures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("missing", ["resvg_py", "ttf_opensans"])
def test_png_without_its_packages_is_refused_before_anything(
    main, work, tiny_artifact, monkeypatch, missing
):
    monkeypatch.setitem(sys.modules, missing, None)
    done = main("report", tiny_artifact, "--png", "x", "--no-evaluate")
    assert (done.code, list(work.iterdir())) == (1, [])
    assert 'pip install "maskpack[plots]"' in done.err
    assert main("report", tiny_artifact, "--no-evaluate", "-q").code == 0  # the page needs none


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nope"], "`nope` is neither an artifact nor a file of results\nhint: give the folder"),
        (["ART", "-o", "no/page.html"], "no folder `no` to write `page.html` into\nhint: make"),
        (["ART", "-o", "maskpack.json"], "is no name of a page\nhint: give one like"),
        (["ART", "--sweep", "nope.jsonl"], "no file `nope.jsonl`\nhint: give the .jsonl"),
        (["ART", "--sweep", "plan.yaml"], "is the plan of a sweep\nhint: give its results"),
        (["ART", "--export", "."], "no verdict at `.`\nhint: give a folder of `compress export"),
        (["ART", "--export", "torn"], "cannot read `torn/maskpack_report.json`: not a report"),
        (["empty.jsonl"], "there is no result in it\nhint: run `compress sweep"),
        (["other.jsonl"], "line 1 is no result of a run: it has no `method`\nhint: give a file"),
        (["torn.jsonl"], "line 1 of `torn.jsonl` is no JSON"),
        (["odd.jsonl"], "line 1 is no result of a run: a figure is missing or no number"),
        (["QUALITY", "--reference", "x"], "no method `x`\nhint: methods: dense"),
        (["QUALITY", "--export", "x"], "`--export` is for the report of an artifact"),
        (["MANY", "--data", "x"], "`--data x` does not say of which task it is\nhint: give"),
        (["ART", "--data", "nope"], "nope"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    main, work, tiny_artifact, many, snapshot, args, message
):
    (work / "empty.jsonl").write_text("")
    (work / "plan.yaml").write_text("models: [demo]\n")
    (work / "other.jsonl").write_text('{"graph": "x"}\n')
    (work / "torn.jsonl").write_text("{nope\n")
    line = json.loads((RESULTS / "quality.jsonl").read_text().splitlines()[0])
    (work / "odd.jsonl").write_text(json.dumps({**line, "seconds": "many"}) + "\n")
    (work / "torn").mkdir()
    (work / "torn" / "maskpack_report.json").write_text("{nope")
    before = snapshot(work)
    places = {"ART": tiny_artifact, "MANY": many, "QUALITY": RESULTS / "quality.jsonl"}
    done = main("report", *(places.get(word, word) for word in args))
    assert done.code == 1
    assert "error: " in done.err
    assert message in done.err
    assert snapshot(work) == before


def test_a_verdict_on_another_artifacts_task_is_refused(main, work, tiny_artifact, many):
    folder = work / "graph"
    folder.mkdir()
    from maskpack.exporters.report import GraphFacts, Report

    facts = GraphFacts(9, 9, 18, 8, 9, 1, 1, 1)
    verdict = Report("cola", "fp32", 1e-4, 0.5, {}, facts, (), None, ())
    (folder / "maskpack_report.json").write_text(verdict.to_json())
    done = main("report", tiny_artifact, "--export", "graph")
    assert done.code == 1
    assert "has no task `cola`" in done.err
