"""A stand-in for the Hugging Face hub: repositories with branches and pull requests, served on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

BOT = "SFconvertbot"
BOT_TITLE = "Adding `safetensors` variant of this model"


def tensors(data: bytes = b"\0" * 16) -> bytes:
    """A safetensors file with one tensor of four floats."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def commit_of(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Repository:
    """Files by revision; the commit of a revision is that of its name."""

    revisions: dict[str, dict[str, bytes]]
    discussions: list[dict[str, Any]] = field(default_factory=list)

    def pull_request(self, number: int, files: dict[str, bytes], **changes: Any) -> str:
        """Open one, as the hub's converter does; its commit."""
        reference = f"refs/pr/{number}"
        self.revisions[reference] = files
        author = changes.pop("author", BOT)
        self.discussions.append(
            {
                "title": BOT_TITLE, "num": number, "author": {"name": author}, "status": "open", "isPullRequest": True,
                "createdAt": "2023-03-28T21:21:37.000Z", "repo": {"name": "a/b", "type": "model"}, **changes,
            }
        )  # fmt: skip
        return commit_of(reference)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch, a pull request or a commit."""
        for name, files in self.revisions.items():
            if revision in (name, commit_of(name)):
                return commit_of(name), files
        return None


class Hub:
    """`repositories`: "owner/name", or "datasets/owner/name". Every request is remembered."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []  # method, path
        self.tokens: set[str | None] = set()
        self.slow_s: dict[str, float] = {}  # name of a file -> what its content takes to come
        self.endpoint = ""

    def downloads(self, name: str) -> int:
        """How often the content of a file was asked for."""
        return sum(method == "GET" and path.endswith(f"/{name}") for method, path in self.requests)

    def answer(self, path: str) -> tuple[int, Any, dict[str, str]]:
        kind, found, rest = self._find(path)
        if found is None:
            return 404, {"error": "no such repository"}, {"X-Error-Code": "RepoNotFound"}
        if kind == "file":
            return _file(found, *rest.split("/", 1))
        verb, _, argument = rest.partition("/")
        if verb == "discussions":
            listed = found.discussions
            return 200, {"discussions": listed, "count": len(listed), "start": 0}, {}
        at = found.at(unquote(argument.partition("/")[0]) or "main")
        if at is None:
            return 404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"}
        commit, files = at
        tree = [_entry(name, content) for name, content in files.items()]
        siblings = [{"rfilename": name} for name in files]
        info = {"id": path, "sha": commit, "siblings": siblings, "private": False, "tags": []}
        return 200, tree if verb == "tree" else info, {}

    def _find(self, path: str) -> tuple[str, Repository | None, str]:
        """`api` or `file`, the repository, and what is asked of it."""
        plain = path.strip("/")
        for name, repository in self.repositories.items():
            api = f"api/{name}" if name.startswith("datasets/") else f"api/models/{name}"
            for kind, start in (("api", api), ("file", f"{name}/resolve")):
                if plain == start or plain.startswith(f"{start}/"):
                    return kind, repository, plain[len(start) + 1 :]
        return "", None, ""


def _file(found: Repository, revision: str, name: str) -> tuple[int, Any, dict[str, str]]:
    at = found.at(unquote(revision))
    if at is None or name not in at[1]:
        return 404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound" if at else "RevisionNotFound"}
    content = at[1][name]
    return 200, content, {"X-Repo-Commit": at[0], "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


@contextmanager
def serving(hub: Hub, host: str = "127.0.0.1") -> Iterator[Hub]:
    """`host`: an address of this machine; containers reach those of their own network only."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            hub.requests.append((self.command, path))
            hub.tokens.add(self.headers.get("Authorization"))
            status, value, headers = hub.answer(path)
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command == "GET":
                time.sleep(hub.slow_s.get(path.rpartition("/")[2], 0.0))
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:  # paths-info
            path = urlsplit(self.path).path
            hub.requests.append((self.command, path))
            given = self.rfile.read(int(self.headers["Content-Length"])).decode()
            _, found, rest = hub._find(path)
            at = found.at(unquote(rest.partition("/")[2])) if found else None
            files = at[1] if at else {}
            body = json.dumps([_entry(n, c) for n, c in files.items() if n in unquote(given)]).encode()
            self.send_response(200 if at else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.endpoint = f"http://{host}:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
