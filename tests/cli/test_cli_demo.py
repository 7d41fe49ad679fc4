"""`compress demo` says why it ends with 1."""

from __future__ import annotations

from types import SimpleNamespace

from maskpack.cli import demo

SECOND = list(demo.TASKS)[1]


def test_what_is_outside_its_tolerance_is_told(main, monkeypatch):
    def run(name, *_, **__):
        findings = ("accuracy drops by 4.00 points",) if name == SECOND else ()
        return SimpleNamespace(
            task=name, report=SimpleNamespace(ok=not findings, findings=findings)
        )

    monkeypatch.setattr(demo, "_run_task", run)
    monkeypatch.setattr(demo, "_as_json", lambda rows: {})
    found = main("demo", "--json")
    assert (found.code, found.json) == (1, {})
    wrong = f"`{SECOND}` is outside its tolerance: accuracy drops by 4.00 points"
    assert wrong in " ".join(found.err.split())
    assert found.err.count("outside its tolerance") == 1
    assert "another `--seed`" in " ".join(found.err.split())


def test_a_demo_within_all_tolerances_says_nothing(main, monkeypatch):
    row = SimpleNamespace(task="any", report=SimpleNamespace(ok=True, findings=()))
    monkeypatch.setattr(demo, "_run_task", lambda *_, **__: row)
    monkeypatch.setattr(demo, "_as_json", lambda rows: {})
    found = main("demo", "--json")
    assert (found.code, "error" in found.err) == (0, False)
