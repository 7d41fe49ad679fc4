"""Entities in a benchmark, on a page of errors, in the card and as a plain model."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from maskpack.cli.app import app
from maskpack.exporters.bench.run import bench
from maskpack.exporters.options import BenchRequest
from maskpack.formats import open_artifact
from maskpack.tasks.evaluation.evaluate import analyze_errors
from maskpack.tasks.evaluation.marked import Verdict


def test_errors_are_texts_with_entities_that_are_right_missed_or_wrong(tagger):
    artifact, data = tagger
    found = analyze_errors(open_artifact(artifact), "names", data=data)
    assert found.confusion is None
    assert 0 < len(found.texts) <= 12
    parts = [part for text in found.texts for part in text]
    right = [part for part in parts if part.verdict is Verdict.RIGHT]
    assert {(part.text, part.true) for part in right} >= {("bad", "blame")}
    assert all(part.true == part.given for part in right)
    rows = (data / "dev.conll").read_text().split("\n\n")
    texts = {" ".join(line.split("\t")[0] for line in row.split("\n")) for row in rows}
    assert {"".join(part.text for part in text) for text in found.texts} <= texts


def test_a_page_shows_them(tagger, tmp_path):
    artifact, data = tagger
    arguments = ["report", str(artifact), "--data", f"names={data}", "-o", str(tmp_path / "r.html")]
    done = CliRunner().invoke(app, [*arguments, "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "r.html").read_text()
    assert '<mark class="right">bad <small>blame</small></mark>' in page
    assert "<th>entities</th>" in page
    tree = json.loads(done.stdout)["evaluation"]["names"]
    assert tree["texts"][0][0].keys() == {"text", "true", "given", "verdict"}


@pytest.mark.parametrize("texts", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_benchmark_compares_outputs_at_words(tagger, tagged_exports, tmp_path, texts):
    lines = None
    if texts:
        lines = tmp_path / "texts.txt"
        lines.write_text("the good food was bad\nfilm\n")
    request = BenchRequest(
        tagged_exports("shared"), "names", artifact=tagger[0], texts=lines, threads=(1,), runs=2,
        lengths=(9,), batches=(2,), seconds=1.0,
    )  # fmt: skip
    result = bench(request)
    (own,) = [one for one in result.variants if one.exported]
    assert own.error.same == 1.0
    assert own.error.max_diff < 1e-4
    assert result.rows == (2 if texts else 32)
