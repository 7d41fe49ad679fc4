"""`fit` and `quantize` refuse a model that cannot be exported before they learn anything."""

from __future__ import annotations

import json
import shutil

import pytest

from maskpack.exporters.graph import miniature


@pytest.fixture
def odd(tiny_model, tmp_path, monkeypatch):
    """A model with an unusual setting, which cannot be exported."""
    folder = shutil.copytree(tiny_model, tmp_path / "odd")
    tree = json.loads((folder / "config.json").read_text()) | {"hidden_act": "relu"}
    (folder / "config.json").write_text(json.dumps(tree))
    monkeypatch.setattr(miniature, "find_problem", lambda _: "torch cannot trace `bert`")
    return folder


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_fit_refuses_before_it_learns(main, work, odd, sentiment, short, more):
    done = main("fit", odd, "--task", "sst2", "--data", sentiment, "-o", "a", *short, *more)
    assert done.code == 1
    assert (
        f"error: `{odd}` cannot be exported: torch cannot trace `bert`; its unusual settings: "
        "`hidden_act` relu" in done.err
    )
    assert "--skip-export-check" in done.err
    assert not list(work.iterdir())


def test_quantize_refuses_too(main, work, odd):
    done = main("quantize", odd, "-o", "a", "--bits", "8")
    assert done.code == 1
    assert "cannot be exported" in done.err
    assert not list(work.iterdir())


def test_it_is_learned_where_somebody_says_so(main, work, odd, sentiment, short):
    words = ["--task", "sst2", "--data", sentiment, "-o", "a", *short, "--skip-export-check"]
    assert main("fit", odd, *words).code == 0
    assert (work / "a" / "maskpack.json").is_file()


def test_a_sweep_says_it_and_goes_on(main, work, odd, sentiment):
    """A sweep compares methods, and not every figure is to be deployed."""
    tree = {
        "models": [str(odd)],
        "tasks": {"sst2": {"data": str(sentiment)}},
        "options": {"steps": 2, "batch_size": 16, "max_length": 16, "precision": "fp32"},
        "methods": {"mask": {"bits": [8, 4], "group": 16}},
    }
    (work / "plan.yaml").write_text(json.dumps(tree))
    done = main("sweep", "plan.yaml")
    assert done.code == 0, done.err
    assert done.err.count("cannot be exported: torch cannot trace `bert`") == 1
    assert done.err.startswith(f"warning: `{odd}` cannot")
    assert "cannot be exported" not in main("sweep", "plan.yaml", "--summary").err


def test_without_the_packages_that_export_nobody_asks(
    main, work, odd, sentiment, short, monkeypatch
):
    from maskpack.cli import exportable

    monkeypatch.setattr(exportable, "find_spec", lambda _: None)
    assert main("fit", odd, "--task", "sst2", "--data", sentiment, "-o", "a", *short).code == 0


def test_code_beside_a_model_is_refused_without_a_question(shell, tiny_model, tmp_path):
    """As a process of its own: a question would wait for an answer on stdin."""
    folder = shutil.copytree(tiny_model, tmp_path / "own")
    tree = json.loads((folder / "config.json").read_text())
    tree |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(tree))
    (folder / "own.py").write_text("raise SystemExit('this ran')")
    done = shell(
        "compress", "fit", folder, "--task", "tickets", "-o", "a", cwd=tmp_path, input="y\n"
    )
    assert done.code == 1
    assert "error: `own` is not an architecture this release supports" in done.err
    assert "[y/N]" not in done.out + done.err
    assert "this ran" not in done.out + done.err


def test_a_quantised_model_is_an_error_with_a_hint_and_no_bug(main, work, tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "q")
    tree = json.loads((folder / "config.json").read_text())
    tree |= {"quantization_config": {"quant_method": "bitsandbytes"}, "_name_or_path": "me/dense"}
    (folder / "config.json").write_text(json.dumps(tree))
    done = main("fit", folder, "--task", "tickets", "-o", "a")
    assert done.code == 1
    assert "are quantised already (bitsandbytes)" in done.err
    assert "hint: give the model that it was made from: `me/dense`" in done.err
