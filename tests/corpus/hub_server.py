"""A server on loopback that speaks the API of the Hugging Face hub, for as much as `datasets` and `hf://` ask of it.

Repository information, revisions, the tree of a folder, information on paths, and files by `resolve`: a redirect to
another address that answers ranges, as the hub's own storage does. Datasets can be gated, revisions can move, and
a list of faults answers requests with a status or cuts a file's bytes short.
"""

import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]


def commit_of(files: Files) -> str:
    """Return a commit's name: 40 hexadecimal digits of its content."""
    listed = sorted((path, hashlib.sha256(content).hexdigest()) for path, content in files.items())
    return hashlib.sha1(json.dumps(listed).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """A dataset: the files of each commit, the commits of its branches and tags, and who may read it."""

    commits: dict[str, Files] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None

    def push(self, files: Files, name: str = "main") -> str:
        """Move a branch to a commit with these files; return the commit."""
        commit = commit_of(files)
        self.commits[commit] = files
        self.names[name] = commit
        return commit


@dataclass
class Hub:
    """A running server: its datasets, the faults to come, and the requests so far."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=lambda: defaultdict(Repository))
    faults: dict[str, list[int]] = field(default_factory=dict)
    """By a pattern of the address: the status of each next request; 0 cuts the bytes of a file in the middle."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, address and range of each."""
    tokens: set[str] = field(default_factory=set)
    """Those that clients sent."""

    def fault(self, path: str) -> int | None:
        """Return the next fault of an address, if it has one."""
        for pattern, statuses in self.faults.items():
            if statuses and re.search(pattern, path):
                return statuses.pop(0)
        return None


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve datasets on a free port of loopback."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        hub, path = self.served, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
        if token := self.headers.get("Authorization", "").removeprefix("Bearer "):
            hub.tokens.add(token)
        fault = hub.fault(path)
        if fault:
            self._send(fault, b"busy", {"Retry-After": "0"})
        elif found := re.fullmatch(r"/storage/([0-9a-f]{64})", path):
            self._send_file(found[1], is_cut=fault is not None)
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(.*))?", path):
            self._describe(found[1], found[2] or "", body)
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*found.groups())
        else:
            self._send(404, b"{}")

    def _repository(self, name: str, revision: str) -> tuple[str, Files] | None:
        """Return a revision's commit and files, or None after an answer that refuses them."""
        repository = self.served.repositories.get(name)
        if repository is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._refuse(401, "GatedRepo", f"Access to dataset {name} is restricted")
        elif (commit := repository.names.get(revision, revision)) not in repository.commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return commit, repository.commits[commit]
        return None

    def _describe(self, name: str, rest: str, body: bytes) -> None:
        what, _, rest = rest.partition("/")
        revision, _, folder = rest.partition("/")
        found = self._repository(name, revision or "main")
        if found is None:
            return
        commit, files = found
        if what in ("", "revision"):
            siblings = [{"rfilename": path} for path in sorted(files)]
            facts: Any = {"_id": "1", "id": name, "sha": commit, "siblings": siblings, "tags": [], "private": False}
            self._send_json(facts | {"gated": False, "disabled": False, "downloads": 0, "likes": 0})
        elif what == "tree":
            self._send_json(
                _tree(files, folder, "true" in parse_qs(urlsplit(self.path).query.lower()).get("recursive", []))
            )
        elif what == "paths-info":
            fields = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            paths = fields.get("paths", [])
            everything = {entry["path"]: entry for entry in _tree(files, "", recursive=True)}
            self._send_json([everything[path] for path in paths if path in everything])
        else:
            self._send(404, b"{}")

    def _resolve(self, name: str, revision: str, path: str) -> None:
        found = self._repository(name, revision)
        if found is None:
            return
        commit, files = found
        if path not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        content = files[path]
        digest = hashlib.sha256(content).hexdigest()
        facts = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if path.endswith(".parquet"):
            facts |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
            self._send(302, b"", {**facts, "Location": f"{self.served.address}/storage/{digest}"})
        else:
            self._send(200, content, facts)

    def _send_file(self, digest: str, *, is_cut: bool) -> None:
        stored = (
            one
            for each in self.served.repositories.values()
            for files in each.commits.values()
            for one in files.values()
        )
        content = next(one for one in stored if hashlib.sha256(one).hexdigest() == digest)
        headers, status, part = {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}, 200, content
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            status, part = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(status, part, headers, part[: len(part) // 2] if is_cut else part)
        if is_cut:
            self.close_connection = True

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, sent: bytes | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if sent is None else sent)


def _tree(files: Files, folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a folder as the hub lists them; a large file is a pointer to the storage."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)):
            if recursive or depth == 1:
                below = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(below.encode(), usedforsecurity=False).hexdigest()
                entries[below] = {"type": "directory", "oid": oid, "size": 0, "path": below}
        if recursive or len(parts) == 1:
            oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            entry: dict[str, Any] = {"type": "file", "oid": oid, "size": len(content), "path": path}
            if path.endswith(".parquet"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
            entries[path] = entry
    return list(entries.values())
