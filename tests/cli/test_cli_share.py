"""`compress push` and `pull`, as processes, against a hub on the loopback interface."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace

import forked
import numpy as np
import pytest
import yaml
from hub_stub import Repo, serving

from maskpack.compressor import FitRequest, fit_task
from maskpack.formats import check_artifact, open_artifact, remove_task
from maskpack.formats.writer import add_task
from maskpack.tasks import find_task

REPO = "someone/two-tasks"
REMOVED = ("HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")


@pytest.fixture(scope="module")
def artifact(tiny_artifact, tmp_path_factory):
    """An artifact with two tasks, `other` and `sst2`. Read only."""
    folder = shutil.copytree(tiny_artifact, tmp_path_factory.mktemp("share") / "artifact")
    opened = open_artifact(folder)
    entry, patch = opened.entry("sst2"), opened.patch("sst2")
    patch = replace(patch, head={name: tensor * 2 for name, tensor in patch.head.items()})
    add_task(folder, entry.renamed("other"), patch)
    return folder


@pytest.fixture
def hub():
    with serving() as found:
        yield found


@pytest.fixture
def compress(hub, tmp_path):
    """`compress(*args, token=...)`: the command as a process that knows this hub alone."""

    def call(*args, token="hf_secret", **variables):
        env = {name: value for name, value in os.environ.items() if name not in REMOVED}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        env |= {"HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1", **variables}
        env |= {"HF_TOKEN": token} if token else {}
        return forked.compress(args, tmp_path, env)

    return call


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def published(hub, artifact):
    """The artifact in a repository, put there by hand."""
    hub.repos[REPO] = Repo({"main": {**contents(artifact), ".gitattributes": b"*.bin lfs\n"}})
    return hub.repos[REPO]


def left_over(tmp_path):
    """What lies beside the library's own folder."""
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "home")


# Push


def test_a_dry_run_lists_every_file_and_asks_nobody(compress, hub, artifact):
    found = compress("push", artifact, REPO, "--dry-run", "--json", token="")
    assert found.code == 0, found.err
    own = {name: len(data) for name, data in contents(artifact).items() if name != "README.md"}
    told = found.json["files"]
    assert {name: size for name, size in told.items() if name != "README.md"} == own
    assert told["README.md"] > 0
    assert (found.json["sent"], found.json["commit"]) == (False, None)
    assert hub.log == []
    assert "nothing was sent" in compress("push", artifact, REPO, "--dry-run").err


def test_divisors_travel_with_any_task_and_go_when_an_artifact_without_is_pushed(
    compress, hub, artifact, tmp_path
):
    name, file = "encoder.layer.0.output.dense.weight", "divisors.safetensors"
    folder = shutil.copytree(artifact, tmp_path / "divided")
    opened = open_artifact(folder)
    width = opened.backbone.linears[name].shape[1]
    divisors = {name: np.linspace(1, 2, width, dtype=np.float32)}
    entry, patch = opened.entry("sst2"), opened.patch("sst2")
    add_task(folder, entry, patch, replacing=True, divisors=divisors)
    assert compress("push", folder, REPO).code == 0
    pulled = compress("pull", REPO, "-o", "pulled", "--task", "other")
    assert pulled.code == 0, pulled.err
    found = open_artifact(tmp_path / "pulled")
    assert list(found.manifest.tasks) == ["other"]
    np.testing.assert_array_equal(found.divisors[name], divisors[name])
    assert file in hub.repos[REPO].branches["main"]
    assert compress("push", artifact, REPO).code == 0
    assert file not in hub.repos[REPO].branches["main"]


def test_what_is_pushed_comes_back_byte_for_byte(compress, hub, artifact, tmp_path):
    sent = compress("push", artifact, REPO, "-m", "two of them", "--json")
    assert sent.code == 0, sent.err
    repo = hub.repos[REPO]
    assert (repo.private, repo.messages) == (True, ["two of them"])
    got = compress("pull", REPO, "-o", "copy", "--json")
    assert got.code == 0, got.err
    assert got.json["tasks"] == ["other", "sst2"]
    assert got.json["commit"] == sent.json["commit"]
    copy, own = contents(tmp_path / "copy"), contents(artifact)
    assert copy == {**own, "README.md": repo.files["README.md"]}
    assert check_artifact(tmp_path / "copy") == []


def test_an_artifact_of_a_feature_of_its_own_comes_back_and_is_read(
    compress, hub, tiny_model, sentiment, quick, tmp_path
):
    """A table of 3 bits, which an artifact requires as a whole."""
    source, request = tmp_path / "narrow", find_task("sst2")
    config = quick(embedding_bits=3, steps=3)
    fit_task(FitRequest(str(tiny_model), request, source, config, data=sentiment))
    assert open_artifact(source).manifest.requires == ("embedding-3",)
    assert compress("push", source, REPO).code == 0
    for name, more in (("whole", ()), ("one", ("--task", "sst2"))):
        done = compress("pull", REPO, "-o", tmp_path / name, *more)
        assert done.code == 0, done.err
        assert check_artifact(tmp_path / name) == []
        found = open_artifact(tmp_path / name)
        assert found.manifest.requires == ("embedding-3",)
        assert found.backbone.features == ("embedding-3",)
    back, sent = contents(tmp_path / "whole"), contents(source)
    assert back.pop("README.md") != b""  # a card names the repository that it goes to
    assert {name: data for name, data in sent.items() if name != "README.md"} == back


def test_a_second_push_removes_the_patch_of_a_task_that_is_gone(compress, hub, artifact, tmp_path):
    assert compress("push", artifact, REPO, "--public").code == 0
    hub.repos[REPO].files["notes.txt"] = b"mine"
    less = shutil.copytree(artifact, tmp_path / "less")
    remove_task(less, "other")
    found = compress("push", less, REPO)
    assert found.code == 0, found.err
    repo = hub.repos[REPO]
    assert not repo.private, "an old repository stays as visible as it is"
    assert set(repo.files) == {*contents(less), "notes.txt"}


def test_a_branch_is_made_and_leaves_the_main_one_alone(compress, hub, artifact, tmp_path):
    found = compress("push", artifact, REPO, "--revision", "next")
    assert found.code == 0, found.err
    assert hub.repos[REPO].files == {}
    assert "maskpack.json" in hub.repos[REPO].branches["next"]
    assert compress("pull", REPO, "-o", "copy", "--revision", "next").code == 0
    assert check_artifact(tmp_path / "copy") == []


def test_an_artifact_that_is_not_sound_is_not_sent(compress, hub, artifact, tmp_path):
    bad = shutil.copytree(artifact, tmp_path / "bad")
    (bad / "vocab.txt").write_bytes(b"")
    found = compress("push", bad, REPO)
    assert found.code == 1
    assert "is not sound: " in found.err
    assert "vocab.txt" in found.err
    assert hub.log == []


def test_files_that_no_manifest_names_stay_at_home(compress, hub, artifact, tmp_path):
    messy = shutil.copytree(artifact, tmp_path / "messy")
    (messy / "secrets.env").write_text("x")
    assert compress("push", messy, REPO).code == 0
    assert "secrets.env" not in hub.repos[REPO].files


def test_a_card_that_the_hub_refuses_is_told_in_its_words(compress, hub, artifact):
    hub.complaint = '"license" must be one of [mit, ...]'
    found = compress("push", artifact, REPO, "--license", "nonesuch")
    assert found.code == 1
    (said,) = found.err.splitlines()
    assert said.startswith(f"error: the Hub answers 400 for `{REPO}`: ")
    assert '"license" must be one of' in said
    assert hub.repos[REPO].files == {}


def test_a_repository_that_nobody_could_pull_is_not_pushed_to(compress, hub, artifact):
    hub.repos[REPO] = Repo({"main": {"pytorch_model.bin": b"x", ".gitattributes": b""}})
    found = compress("push", artifact, REPO)
    assert found.code == 1
    told = f"error: `{REPO}` holds `pytorch_model.bin`, which is no part of an artifact"
    assert found.err.splitlines()[0] == told
    assert set(hub.repos[REPO].files) == {"pytorch_model.bin", ".gitattributes"}


def test_without_a_token_nothing_is_asked(compress, hub, artifact):
    found = compress("push", artifact, REPO, token="")
    assert found.code == 1
    assert found.err.splitlines()[0] == "error: there is no token for the Hub"
    assert "HF_TOKEN" in found.err
    assert hub.log == []


def test_a_token_that_may_not_write_is_one_line(compress, hub, artifact):
    found = compress("push", artifact, REPO, token="hf_other")
    assert found.code == 1
    assert found.err.startswith("error: ")
    assert len(found.err.splitlines()) == 2
    assert hub.repos == {}


def head(card):
    return yaml.safe_load(card.decode().split("---\n")[1])


def test_the_card_says_what_hubs_read(compress, hub, artifact):
    options = ["--license", "mit", "--language", "en", "--language", "no"]
    assert compress("push", artifact, REPO, *options).code == 0
    card = hub.repos[REPO].files["README.md"]
    found = head(card)
    assert (found["license"], found["language"]) == ("mit", ["en", "no"])
    assert found["library_name"] == "maskpack"
    (index,) = found["model-index"]
    assert index["name"] == "two-tasks"
    assert [result["task"]["name"] for result in index["results"]] == ["other", "sst2"]
    entry = open_artifact(artifact).entry("sst2")
    told = {metric["name"]: metric["value"] for metric in index["results"][1]["metrics"]}
    assert told == pytest.approx(dict(entry.scores), abs=1e-4)
    assert "datasets" not in found, "rows of our own are not GLUE's"
    assert f"compress pull {REPO} -o two-tasks" in card.decode()


def test_the_card_of_another_release_is_made_anew(compress, hub, artifact, tmp_path):
    old = shutil.copytree(artifact, tmp_path / "old")
    words = (old / "README.md").read_text().replace("## Use", "## Of old")
    (old / "README.md").write_text(words)
    assert compress("push", old, REPO).code == 0
    card = hub.repos[REPO].files["README.md"].decode()
    assert "## Use" in card
    assert "## Of old" not in card


def test_a_card_that_somebody_wrote_is_sent_as_it_is(compress, hub, artifact, tmp_path):
    mine = shutil.copytree(artifact, tmp_path / "mine")
    (mine / "README.md").write_text("my own words\n")
    assert compress("push", mine, REPO).code == 0
    assert hub.repos[REPO].files["README.md"] == b"my own words\n"


# Pull


def test_one_task_is_the_backbone_and_its_patch(compress, hub, published, tmp_path):
    found = compress("pull", REPO, "-o", "one", "--task", "sst2")
    assert found.code == 0, found.err
    assert "tasks/other.safetensors" not in hub.fetched()
    assert check_artifact(tmp_path / "one") == []
    opened = open_artifact(tmp_path / "one")
    assert list(opened.manifest.tasks) == ["sst2"]
    assert "other" not in (tmp_path / "one" / "README.md").read_text()
    del hub.log[:]
    assert compress("pull", REPO, "-o", "two", "--task", "other").code == 0
    assert hub.fetched() == ["tasks/other.safetensors"], "the rest is in the cache"


def test_an_interrupted_download_goes_on_where_it_stopped(compress, hub, published, tmp_path):
    hub.cuts["backbone.safetensors"] = 5000
    found = compress("pull", REPO, "-o", "copy")
    if found.code:  # newer releases of the library go on at once
        assert found.err.splitlines()[-2].startswith(f"error: no connection to {hub.url}, or it")
        assert "it goes on where it stopped" in found.err
        assert left_over(tmp_path) == []
        found = compress("pull", REPO, "-o", "copy")
    assert found.code == 0, found.err
    starts = [start for method, path, start in hub.log if method == "GET" and "backbone" in path]
    assert starts == [0, 5000 // 512 * 512]
    assert check_artifact(tmp_path / "copy") == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../evil.json"])
def test_a_repository_with_anything_else_is_refused_by_that_name(
    compress, hub, published, tmp_path, name
):
    published.files[name] = b"x"
    found = compress("pull", REPO, "-o", "copy")
    assert found.code == 1
    assert found.err.splitlines()[0] == (
        f"error: `{REPO}` holds `{name}`, which is no part of an artifact"
    )
    assert hub.fetched() == []
    assert left_over(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("backbone.safetensors", b"rubbish"),
        ("tasks/sst2.safetensors", b""),
        ("vocab.txt", b"../../../etc/passwd"),  # a link in git is a file that holds a path
    ],
)
def test_a_file_of_another_digest_is_refused_and_nothing_stays(
    compress, published, tmp_path, name, data
):
    published.files[name] = data
    found = compress("pull", REPO, "-o", "copy")
    assert found.code == 1
    assert f"`{name}` of `{REPO}` is damaged: its SHA-256 is" in found.err
    assert left_over(tmp_path) == []


def test_a_cached_file_that_was_damaged_is_fetched_again(compress, hub, published, tmp_path):
    assert compress("pull", REPO, "-o", "first").code == 0
    (cached,) = (tmp_path / "home").rglob("snapshots/*/backbone.safetensors")
    cached.resolve().write_bytes(b"rubbish")
    found = compress("pull", REPO, "-o", "second")
    assert found.code == 0, found.err
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_a_manifest_that_names_a_file_which_is_not_there(compress, published, tmp_path):
    del published.files["vocab.txt"]
    found = compress("pull", REPO, "-o", "copy")
    assert found.err.splitlines()[-2] == f"error: `{REPO}` has no file `vocab.txt`"
    assert left_over(tmp_path) == []


def test_a_folder_that_is_taken_is_left_alone(compress, hub, published, tmp_path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "x").write_text("mine")
    found = compress("pull", REPO, "-o", "copy")
    assert found.code == 1
    assert "already exists" in found.err
    assert hub.log == []


# What can go wrong on the way


def private(hub):
    hub.repos[REPO].private = True


def gated(hub):
    hub.repos[REPO].refusal = "GatedRepo"


def plain_model(hub):
    del hub.repos[REPO].files["maskpack.json"]


def busy(hub):
    hub.status = 503


def gone(hub):
    hub.repos.clear()


@pytest.mark.parametrize(
    ("change", "options", "fact", "hint"),
    [
        (gone, [], f"the Hub has no repository `{REPO}`, or it is private", "hf auth login"),
        (private, [], f"the Hub has no repository `{REPO}`, or it is private", "hf auth login"),
        (gated, [], f"`{REPO}` is gated: you have no access yet", "ask for it at http"),
        (plain_model, [], f"`{REPO}` is no artifact: it has no `maskpack.json`", "compress fit"),
        (busy, [], f"the Hub answers 503 for `{REPO}`", "try again later"),
        (None, ["--revision", "v9"], f"`{REPO}` has no revision `v9`", "a branch, a tag"),
        (None, ["--task", "nope"], f"`{REPO}` has no task `nope`", "tasks in it: other, sst2"),
    ],
)
def test_what_can_go_wrong_is_a_fact_and_a_hint(
    compress, hub, published, tmp_path, change, options, fact, hint
):
    if change:
        change(hub)
    found = compress("pull", REPO, "-o", "copy", "--quiet", *options, token="")
    assert found.code == 1
    said = found.err.splitlines()
    assert said[0].startswith(f"error: {fact}")
    assert said[1].startswith("hint: ")
    assert hint in said[1]
    assert len(said) == 2
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("command", ["push", "pull"])
def test_no_server_and_no_network_are_told_in_one_line(compress, artifact, command):
    words = [artifact, REPO] if command == "push" else [REPO, "-o", "copy"]
    dead = compress(command, *words, HF_ENDPOINT="http://127.0.0.1:9")
    assert dead.code == 1
    assert dead.err.startswith("error: no connection to http://127.0.0.1:9")
    offline = compress(command, *words, HF_HUB_OFFLINE="1")
    assert offline.err.splitlines() == [
        "error: HF_HUB_OFFLINE forbids the network",
        "hint: unset it",
    ]


@pytest.mark.parametrize("name", ["tickets", "a/b..c"])
def test_a_name_that_is_no_repository_is_refused(compress, hub, name):
    found = compress("pull", "--out", "copy", "--", name)
    assert found.code == 1
    assert re.match(f"error: `{re.escape(name)}` is no repository of the Hub", found.err)
    assert hub.log == []


@pytest.fixture
def pushed(compress, artifact):
    """The artifact is on the Hub."""
    assert compress("push", artifact, REPO).code == 0


def test_an_artifact_of_the_hub_is_read_by_name_and_fetched_once(
    compress, hub, artifact, pushed, sentiment, main, tmp_path
):
    args = ["-t", "sst2", "--data", f"sst2={sentiment}", "--json"]
    hub.log.clear()
    found = compress("eval", f"hub:{REPO}", *args)
    assert found.code == 0, found.err
    assert found.json == main("eval", artifact, *args).json
    assert "fetching backbone.safetensors" in found.err
    assert sum("/resolve/" in path and "backbone" in path for _, path, _ in hub.log) > 0
    hub.log.clear()
    again = compress("inspect", f"hub:{REPO}@main", "--json")
    assert again.code == 0, again.err
    assert set(again.json["tasks"]) == {"other", "sst2"}
    assert not [path for _, path, _ in hub.log if "/resolve/" in path]
    out = compress("export", f"hub:{REPO}", "--hf", "-t", "other", "-o", "plain", "--json")
    assert out.code == 0, out.err
    assert (tmp_path / "plain" / "model.safetensors").is_file()


def test_a_task_is_learned_over_an_artifact_of_the_hub(
    compress, artifact, pushed, sentiment, tiny_model, tmp_path
):
    shutil.copytree(tiny_model, tmp_path / "bert")  # the artifact's source model
    words = ["--steps", "4", "--batch-size", "16", "--max-length", "16", "--precision", "fp32"]
    fit = ["fit", f"hub:{REPO}", "-t", "sst2", "--name", "third", "--data", sentiment, *words]
    dry = compress(*fit, "-o", "new", "--dry-run", "--json")
    assert dry.code == 0, dry.err
    assert not (tmp_path / "new").exists()
    found = compress(*fit, "-o", "new", "--json")
    assert found.code == 0, found.err
    made, old = open_artifact(tmp_path / "new"), open_artifact(artifact)
    assert set(made.manifest.tasks) == {"other", "sst2", "third"}
    assert made.manifest.backbone_sha256 == old.manifest.backbone_sha256
    assert check_artifact(tmp_path / "new") == []
    again = compress(*fit[:4], "--name", "fourth", *fit[6:], "-o", "new", "--json")
    assert again.code == 0, again.err
    assert "fourth" in open_artifact(tmp_path / "new").manifest.tasks


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("hub:tickets", "`hub:tickets` is no artifact of the Hub"),
        ("hub:me/nowhere", "the Hub has no repository `me/nowhere`"),
    ],
)
def test_what_is_no_artifact_of_the_hub_is_refused(compress, tmp_path, name, fact):
    for command in (["inspect", name], ["fit", name, "-t", "sst2", "-o", "new"]):
        found = compress(*command)
        assert (found.code, found.out) == (1, "")
        assert fact in found.err, found.err
    assert not (tmp_path / "new").exists()
