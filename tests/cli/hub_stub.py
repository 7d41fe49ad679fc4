"""A model hub on the loopback interface: as much of its protocol as push and pull need, over plain HTTP.

Large files go up as git-lfs does it (a batch, a PUT each, then a commit that names their digests), small ones
inside the commit. A download can be cut off, and goes on from a range.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
INFO = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?")
ACTION = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repo:
    """A repository: branch -> name -> bytes."""

    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    private: bool = False
    refusal: str = ""
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"]


def commit_of(files: dict[str, bytes]) -> str:
    digest = hashlib.sha1()
    for name, data in sorted(files.items()):
        digest.update(f"{name}{hashlib.sha1(data).hexdigest()}".encode())
    return digest.hexdigest()


@dataclass
class Hub:
    """Repositories, and what was asked: method, path, first byte asked for.

    Attributes:
        cuts: name of a file -> bytes after which its next download breaks off.
        status: answered to every request, if set.
        complaint: about the head of a card, if set.
    """

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    log: list[tuple[str, str, int]] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    status: int = 0
    complaint: str = ""

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        found = [RESOLVE.fullmatch(path) for method, path, _ in self.log if method == "GET"]
        return [match.group(3) for match in found if match]


class Handler(BaseHTTPRequestHandler):
    """One request; what it is about stands in `self.server.hub`."""

    timeout = 20

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *args: object) -> None:
        pass

    def _serve(self) -> None:
        self.hub: Hub = self.server.hub
        path = self.path.split("?")[0]
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        start = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or "")
        self.start = int(start.group(1)) if start else 0
        self.hub.log.append((self.command, path, self.start))
        if self.hub.status:
            return self._answer({"error": "out of order"}, status=self.hub.status)
        for pattern, serve in (
            (RESOLVE, self._file),
            (ACTION, self._action),
            (INFO, self._info),
            (BATCH, self._batch),
        ):
            if (match := pattern.fullmatch(path)) is not None:
                return serve(*match.groups())
        if path == "/api/repos/create":
            return self._create()
        if path == "/api/validate-yaml":
            errors = [{"message": self.hub.complaint}] if self.hub.complaint else []
            told = {"errors": errors, "warnings": []}
            return self._answer(told, status=400 if errors else 200)
        if path.startswith("/upload/"):
            self.hub.uploads[path.rsplit("/", 1)[1]] = self.body
            return self._answer({})
        return self._answer({}, status=404)

    def _files(self, repo: str, revision: str | None) -> dict[str, bytes] | None:
        """Files of a revision; None after an answer that refuses."""
        found = self.hub.repos.get(repo)
        writer = self.headers.get("Authorization") == "Bearer hf_secret"
        if found is None or (found.private and not writer):
            self._answer({}, status=401, code="RepoNotFound")
        elif found.refusal:
            self._answer({}, status=403, code=found.refusal)
        else:
            by_commit = {commit_of(files): files for files in found.branches.values()}
            files = (by_commit | found.branches).get(revision or "main")
            if files is not None:
                return files
            self._answer({}, status=404, code="RevisionNotFound")
        return None

    def _info(self, repo: str, revision: str | None) -> None:
        files = self._files(repo, revision)
        if files is not None:
            names = [{"rfilename": name} for name in files]
            self._answer({"id": repo, "sha": commit_of(files), "siblings": names})

    def _file(self, repo: str, revision: str, name: str) -> None:
        files = self._files(repo, revision)
        if files is None:
            return
        if name not in files:
            self._answer({}, status=404, code="EntryNotFound")
            return
        data, cut = files[name], None
        if self.command == "GET":
            cut = self.hub.cuts.pop(name, None)
        self.send_response(206 if self.start else 200)
        self.send_header("X-Repo-Commit", commit_of(files))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - self.start))
        if self.start:
            self.send_header("Content-Range", f"bytes {self.start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[self.start : cut])

    def _create(self) -> None:
        if self.headers.get("Authorization") != "Bearer hf_secret":
            return self._answer({"error": "Invalid username or password."}, status=401)
        wanted = json.loads(self.body)
        owner, name = wanted.get("organization"), wanted["name"]
        repo = f"{owner}/{name}" if owner else name
        if repo in self.hub.repos:
            return self._answer({"url": f"{self.hub.url}/{repo}"}, status=409)
        visible = wanted.get("visibility")
        private = wanted.get("private", visible == "private")
        self.hub.repos[repo] = Repo(private=bool(private))
        return self._answer({"url": f"{self.hub.url}/{repo}"})

    def _action(self, repo: str, action: str, revision: str) -> None:
        if action == "branch":
            branches = self.hub.repos[repo].branches
            if revision in branches:
                return self._answer({"error": "exists"}, status=409)
            branches[revision] = dict(branches["main"])
            return self._answer({})
        files = self._files(repo, revision)
        if files is None:
            return None
        if action == "preupload":
            asked = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {name: ("regular", "lfs")[name.endswith(".safetensors")] for name in asked}
            told = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
            return self._answer({"files": told})
        return self._commit(repo, files)

    def _commit(self, repo: str, files: dict[str, bytes]) -> None:
        for line in self.body.splitlines():
            item = json.loads(line)
            kind, value = item["key"], item["value"]
            if kind == "header":
                self.hub.repos[repo].messages.append(value["summary"])
            elif kind == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
                assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
            else:
                assert kind == "deletedFile"
                del files[value["path"]]
        commit = commit_of(files)
        self._answer(
            {
                "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}",
                "commitOid": commit,
                "success": True,
            }
        )

    def _batch(self, repo: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _answer(self, tree: dict, *, status: int = 200, code: str = "") -> None:
        data = json.dumps(tree).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def serving() -> Iterator[Hub]:
    """An empty hub; it is gone when the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = hub
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
