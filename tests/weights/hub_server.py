"""A small Hub on loopback: the answers that huggingface_hub needs to create, upload to and download from repositories.

Like the real one it keeps files by commit, serves large files by a redirect, asks for a token to write, and says in headers what is
missing. The client is imported anew under other environment variables, since it reads them when it is imported.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_of_the_tests"


class HubServer(ThreadingHTTPServer):
    """Repositories in memory.

    Attributes:
        commits: by repository, its commits in order: hash and files by path.
        gated: repositories that nobody may read.
        requests: method and path of everything that was asked.
        broken: answer every request with status 500.
        storage_fault: what is wrong with the host of the large files: ``"500"`` (the status), ``"cut"`` (half of the file as if
            it were all), ``"reset"`` (half of the file, and no more), ``"silent"`` (no answer); empty for nothing.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.objects: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.requests: list[str] = []
        self.broken = False
        self.storage_fault = ""
        self.stopping = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def storage(self) -> str:
        """Where large files are: for the client another host, to which it must not send its token."""
        return f"http://localhost:{self.server_address[1]}/storage"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Add a commit that changes ``files``, and return its hash."""
        history = self.commits.setdefault(repository, [])
        merged = {**(history[-1][1] if history else {}), **files}
        digest = hashlib.sha1(repr((len(history), sorted(merged.items()))).encode()).hexdigest()
        history.append((digest, merged))
        return digest

    def files(self, repository: str, revision: str = "main") -> tuple[str, dict[str, bytes]] | None:
        history = self.commits[repository]
        if revision == "main":
            return history[-1] if history else None
        return next((entry for entry in history if entry[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        if self.server.broken:
            return self._answer(500)
        if self.path.startswith("/storage/"):
            assert "Authorization" not in self.headers
            return self._stored(self.server.objects[self.path.rpartition("/")[2]])
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(revision|tree)/([^/?]+)(?:\?.*)?", self.path):
            return self._listed(*(unquote(part) for part in found.groups()))
        found = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not found:
            return self._answer(404)
        repository, revision, file = (unquote(part) for part in found.groups())
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            return self._json({"error": "Invalid credentials in Authorization header"}, 401)
        if repository not in self.server.commits:
            return self._missing(401, "RepoNotFound")
        if repository in self.server.gated:
            return self._missing(403, "GatedRepo")
        entry = self.server.files(repository, revision)
        if entry is None:
            return self._missing(404, "RevisionNotFound")
        commit, files = entry
        if file not in files:
            return self._missing(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if not file.endswith(".safetensors"):
            return self._answer(200, content, headers)
        digest = hashlib.sha256(content).hexdigest()
        self.server.objects[digest] = content
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return self._answer(302, b"", {**headers, "Location": f"{self.server.storage}/{digest}"})

    def _listed(self, repository: str, what: str, revision: str) -> None:
        if repository not in self.server.commits:
            return self._missing(401, "RepoNotFound")
        entry = self.server.files(repository, revision)
        if entry is None:
            return self._missing(404, "RevisionNotFound")
        if what == "tree":
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in entry[1].items()
            ]
            return self._answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
        files = [{"rfilename": name} for name in entry[1]]
        return self._json({"id": repository, "sha": entry[0], "siblings": files})

    def _stored(self, content: bytes) -> None:
        fault = self.server.storage_fault
        if fault == "silent":
            self.server.stopping.wait(10)
            self.close_connection = True
        elif fault == "500":
            self._answer(500)
        elif fault == "cut":
            self._answer(200, content[: len(content) // 2])
        elif fault == "reset":
            self._answer(200, content[: len(content) // 2], length=len(content))
            self.close_connection = True
        else:
            self._answer(200, content)

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == self.path.rpartition("/")[2]
        self.server.objects[self.path.rpartition("/")[2]] = content
        self._answer(200)

    def do_POST(self) -> None:
        self.server.requests.append(f"POST {self.path}")
        body = self._body()
        if self.server.broken:
            return self._answer(500)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "Invalid username or password."}, 401)
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if found := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = [
                {
                    "path": entry["path"],
                    "uploadMode": "lfs" if entry["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for entry in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        if self.path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.storage}/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            return self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        return self._answer(404)

    def _create(self, wanted: dict[str, Any]) -> None:
        repository = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "somebody-else":
            return self._json({"error": "You don't have the rights to create a model under this namespace"}, 403)
        status = 409 if repository in self.server.commits else 200
        self.server.commits.setdefault(repository, [])
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.server.private.add(repository)
        return self._json({"url": f"{self.server.endpoint}/{repository}"}, status)

    def _validate(self, content: str) -> None:
        import yaml

        header = yaml.safe_load(content.split("---\n")[1])
        if header.get("license") == "no-license-at-all":
            return self._json({"errors": [{"message": '"license" must be one of [...]'}], "warnings": []}, 400)
        return self._json({"errors": [], "warnings": []})

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = self.server.commit(repository, files)
        self._json(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.server.endpoint}/{repository}/commit/{commit}"}
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _missing(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, b"", {"X-Error-Code": code, **(headers or {})})

    def _json(self, value: dict[str, Any], status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def running_hub() -> Iterator[HubServer]:
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def hub_client(endpoint: str, home: os.PathLike[str], **more: str) -> Iterator[None]:
    """The real huggingface_hub, imported anew with these environment variables; the one from before comes back afterwards."""
    variables = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **more,
    }
    names = {
        *variables,
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_TOKEN_PATH",
    }
    names |= {name for name in os.environ if name.lower().endswith("_proxy")}
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    modules = _take_modules()
    os.environ.update(variables)
    try:
        yield
    finally:
        client = sys.modules.get("huggingface_hub.utils._http")
        if client is not None and hasattr(client, "close_session"):
            client.close_session()
        _take_modules()
        sys.modules.update(modules)
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _take_modules() -> dict[str, Any]:
    names = [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]
    return {name: sys.modules.pop(name) for name in names}
