"""Every `compress ...` of the documents is one that the tool takes; the tutorial's run, in order."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from maskpack.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
GROUP = typer.main.get_command(app)
OTHERS = {  # options on the pages that are those of other programs
    "--include_ops_by_config",
}
QUICK = shlex.split(
    "--steps 4 --batch-size 16 --max-length 16 --precision fp32 --teacher none --group 16"
)


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def sentences(page: str) -> str:
    """A page without its fenced blocks."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def words_of(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell as words, without comments, pipes and places of files.

    >>> list(words_of("ls | compress predict x < y.txt && compress demo  # a remark"))
    [['ls'], ['compress', 'predict', 'x'], ['compress', 'demo']]
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    command: list[str] = []
    redirected = False
    for word in lexer:
        if set(word) <= set("|&;"):
            yield command
            command, redirected = [], False
        elif set(word) <= set("<>"):
            redirected = True
        elif not redirected:
            command.append(word)
    yield command


def commands(page: str) -> list[list[str]]:
    """Every call of the tool in the blocks of shell of a page."""
    lines = [
        line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        words[1:]
        for line in lines
        if re.search(r"(^|[|&;] *)compress\b", line)
        for words in words_of(line)
        if words[:1] == ["compress"]
    ]


CASES = [(page, " ".join(words), words) for page in PAGES for words in commands(page)]


def test_the_helpers_do_what_they_say():
    found = doctest.testmod(sys.modules[__name__])
    assert (found.failed, found.attempted) == (0, 2)


def test_the_pages_hold_commands():
    assert {"README.md", "docs/tutorial.md", "docs/deploy.md"} <= {page for page, _, _ in CASES}
    assert len(CASES) > 40


@pytest.mark.parametrize(("page", "line", "words"), CASES, ids=[f"{c[0]}: {c[1]}" for c in CASES])
def test_a_command_of_the_documents_parses(page, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with GROUP.make_context("compress", list(words)) as context:
        name, command, rest = GROUP.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        command.make_context(name, rest, parent=context).close()


@pytest.mark.parametrize(
    "words",
    [["fitt", "demo"], ["fit", "demo", "--nope"], ["package", "x", "-o", "y", "--target", "z"]],
)
def test_what_the_tool_does_not_take_is_noticed(words, tmp_path):
    with pytest.raises(Exception, match=r"No such (command|option)|is not one of"):
        test_a_command_of_the_documents_parses("", "", words, tmp_path, pytest.MonkeyPatch())


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_in_sentences_exist(page):
    if page == "docs/cli.md":  # made from the tool itself
        return
    spans = re.findall(r"`([^`\n]+)`", sentences(page))
    every = [*GROUP.params, *(p for c in GROUP.commands.values() for p in c.params)]
    known = {option for p in every for option in [*p.opts, *p.secondary_opts]} | {"--help"}
    for span in spans:
        named = re.match(r"compress ([a-z]+(?:-[a-z]+)*)", span)
        assert named is None or named[1] in GROUP.commands, span
        if re.match(r"(compress |-)", span):
            for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
                assert option in known | OTHERS, f"{page}: {span}"


@pytest.fixture
def tutorial(tmp_path, monkeypatch):
    """`run(line)`: a line of the tutorial on the tiny model, in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def run(line: str, model: str) -> str:
        (words,) = words_of(line)
        source = re.search(r"< (\S+)", line)
        words = [model if word == "demo" else word for word in words[1:]]
        quick = QUICK if words[0] == "fit" else []
        text = (tmp_path / source[1]).read_text(encoding="utf-8") if source else None
        done = runner.invoke(app, [*words, *quick], input=text)
        assert done.exit_code == 0, f"{line}\n{done.output}\n{done.exception!r}"
        return done.output

    return run


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tutorial, tiny_model, tmp_path):
    """On a tiny model and for four steps: answers mean nothing, but each page's file is there."""
    text = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = []
    for kind, block in re.findall(
        r"^```(sh|python)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL
    ):
        if block.startswith("pip "):
            continue
        if kind == "python":
            exec(compile(block, "docs/tutorial.md", "exec"), {})
        elif block.startswith("compress "):
            for line in block.splitlines():
                tutorial(line, str(tiny_model))
                ran.append(shlex.split(line)[1])
        else:
            subprocess.run(["bash", "-ec", block], check=True, env=environment, cwd=tmp_path)
    wanted = "fit eval report inspect export verify predict package pack unpack check"
    assert set(wanted.split()) <= set(ran)
    assert (tmp_path / "all" / "backbone.bin").is_file()
    assert "support" in (tmp_path / "report.html").read_text(encoding="utf-8")


def anchor_of(title: str) -> str:
    """The name under which GitHub links a heading.

    >>> anchor_of("Bytes of a task (`benchmarks/coding.py`)")
    'bytes-of-a-task-benchmarkscodingpy'
    """
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_files_in_sentences_exist(page):
    """Those that are named with the folder of this project in which they are."""
    made = {"tasks/x.r1.safetensors"}
    for span in set(re.findall(r"`([\w.-]+/[\w./-]*)`", sentences(page))) - made:
        folder = ROOT / span.split("/")[0]
        assert not folder.is_dir() or (ROOT / span).exists(), f"{page}: {span}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for place, _, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(#?)([^)\s]*)\)", text):
        target = (ROOT / page).parent / place if place else ROOT / page
        assert target.exists(), f"{page}: {place}"
        if anchor:
            titles = re.findall(
                r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE
            )
            assert anchor in map(anchor_of, titles), f"{page}: {place}#{anchor}"
