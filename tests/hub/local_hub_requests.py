"""The local Hub's HTTP side: one table of routes, and the faults."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.local_hub import (
    LARGE,
    Fault,
    LocalHub,
    Refused,
    Repository,
    card_errors,
    model_json,
    oid_of,
    parse_commit,
)

ID = r"(?P<id>[\w.-]+(?:/[\w.-]+)?)"
REV = r"(?P<rev>[^/]+)"


class Handler(BaseHTTPRequestHandler):
    """One request: find its route, meet its fault, answer."""

    hub: ClassVar[LocalHub]
    protocol_version = "HTTP/1.1"
    body: bytes
    query: dict[str, list[str]]
    fault: Fault | None

    def do(self) -> None:
        place = urlsplit(self.path)
        self.query = parse_qs(place.query)
        path = place.path
        line = f"{self.command} {unquote(path)}"
        self.fault = self.hub.next_fault(line, " with a token" if self.token else "")
        kind = self.fault.kind if self.fault else ""
        if kind == "drop":
            self._hang_up(read=64)
            return
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if kind == "garble":
            self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
        self.hub.slow_down(self.fault)
        try:
            if kind == "status":
                assert self.fault is not None
                raise Refused(self.fault.status, "ordered by the test", headers=self.fault.headers)
            for method, pattern, route in ROUTES:
                found = re.fullmatch(pattern, path)
                if found and self.command in method:
                    with self.hub.lock:
                        answer = route(self, **{key: unquote(value) for key, value in found.groupdict().items()})
                    self._send(*answer)
                    return
            raise Refused(404, f"no route for {line}", "EntryNotFound")
        except Refused as refused:
            self._send(refused.status, refused.body, refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    @property
    def user(self) -> str:
        user = self.hub.who(self.token)
        if user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return user

    def json(self) -> Any:
        return json.loads(self.body)

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        kind = self.fault.kind if self.fault else ""
        if kind == "lost":
            self._hang_up()
            return
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        if kind == "corrupt" and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        promised = len(data)
        if kind in ("cut", "short"):
            data = data[: len(data) // 2]
            promised = len(data) if kind == "short" else promised
        self.send_response(status)
        given = {"Content-Type": "application/json", **(headers or {})}
        given.setdefault("Content-Length", str(promised))
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if kind == "cut":
            self._hang_up()

    def _hang_up(self, read: int = 0) -> None:
        """Close in the middle: after the first bytes of a body, so that an upload breaks off."""
        if read and int(self.headers.get("Content-Length") or 0) > read:
            self.rfile.read(read)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing on stderr."""


Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]


def whoami(request: Handler) -> Answer:
    return 200, {"type": "user", "name": request.user, "orgs": [], "auth": {"type": "access_token"}}


def create(request: Handler) -> Answer:
    asked = request.json()
    owner = asked.get("organization") or request.user
    name = f"{owner}/{asked['name']}"
    if owner != request.user:
        raise Refused(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    if name in request.hub.repositories:
        raise Refused(409, "You already created this model repo", url=f"{request.hub.url}/{name}")
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    request.hub.repositories[name] = Repository(owner, private)
    request.hub.commit(name, "main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return 200, {"url": f"{request.hub.url}/{name}", "name": name}


def validate(request: Handler) -> Answer:
    errors = card_errors(request.json()["content"])
    if errors:
        return 400, {"errors": [{"message": error} for error in errors], "warnings": []}
    return 200, {"errors": [], "warnings": []}


def preupload(request: Handler, id: str, rev: str) -> Answer:
    request.hub.writable(id, request.token)
    tree = request.hub.at(id, rev, request.token).tree
    files = [
        {
            "path": (path := file["path"]),
            "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
            "shouldIgnore": False,
            "oid": oid_of(path, tree[path]) if path in tree else None,
        }
        for file in request.json()["files"]
    ]
    return 200, {"files": files}


def lfs_batch(request: Handler, id: str) -> Answer:
    request.hub.writable(id, request.token)
    objects = []
    for wanted in request.json()["objects"]:
        answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in request.hub.uploaded:
            url = request.hub.url
            answer["actions"] = {
                "upload": {"href": f"{url}/lfs/{wanted['oid']}"},
                "verify": {"href": f"{url}/verify/{id}"},
            }
        objects.append(answer)
    return 200, {"transfer": "basic", "objects": objects}


def lfs_put(request: Handler, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refused(400, "the bytes do not have the announced SHA-256")
    request.hub.uploaded[oid] = request.body
    return 200, b""


def lfs_verify(request: Handler, id: str) -> Answer:
    request.hub.writable(id, request.token)
    asked = request.json()
    if len(request.hub.uploaded.get(asked["oid"], b"")) != asked["size"]:
        raise Refused(422, "the upload is not complete")
    return 200, b""


def commit(request: Handler, id: str, rev: str) -> Answer:
    hub = request.hub
    hub.writable(id, request.token)
    if request.fault and request.fault.kind == "race":
        hub.commit(id, rev, "someone else's", {"other.txt": b"theirs"})
    header, operations = parse_commit(request.body)
    head = hub.at(id, rev, request.token)
    if header.get("parentCommit") not in (None, head.sha):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = {}
    for key, value in operations:
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif value["oid"] in hub.uploaded:
            files[value["path"]] = hub.uploaded[value["oid"]]
        else:
            raise Refused(422, f"{value['path']}: its content was not uploaded")
    branch = rev
    if "create_pr" in request.query:
        branch = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in hub.repositories[id].branches)}"
        hub.repositories[id].branches[branch] = [head]
    sha = hub.commit(id, branch, header["summary"], files)
    pull = f"{hub.url}/{id}/discussions/{branch.rpartition('/')[2]}" if branch != rev else None
    return 200, {"commitUrl": f"{hub.url}/{id}/commit/{sha}", "commitOid": sha, "pullRequestUrl": pull}


def info(request: Handler, id: str, rev: str = "main") -> Answer:
    return 200, model_json(id, request.hub.readable(id, request.token), request.hub.at(id, rev, request.token))


def listing(request: Handler) -> Answer:
    wanted = set(request.query.get("filter", []))
    models = [
        model_json(name, repository, repository.branches["main"][-1])
        for name, repository in request.hub.repositories.items()
        if not repository.private
    ]
    return 200, [model for model in models if wanted <= set(model["tags"])]


def branch(request: Handler, id: str, name: str) -> Answer:
    repository = request.hub.writable(id, request.token)
    if name in repository.branches:
        raise Refused(409, "Reference already exists")
    repository.branches[name] = [repository.branches["main"][-1]]
    return 201, {}


def paths(request: Handler, id: str, rev: str) -> Answer:
    tree = request.hub.at(id, rev, request.token).tree
    asked = parse_qs(request.body.decode())["paths"] if b"paths=" in request.body else request.json()["paths"]
    return 200, [_entry(path, tree[path]) for path in asked if path in tree]


def tree(request: Handler, id: str, rev: str) -> Answer:
    files = request.hub.at(id, rev, request.token).tree
    return 200, [_entry(path, data) for path, data in sorted(files.items())]


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = oid_of(path, data)
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": oid[:40]}
    return entry | ({"lfs": {"oid": oid, "size": len(data), "pointerSize": 130}} if path.endswith(LARGE) else {})


def resolve(request: Handler, id: str, rev: str, path: str) -> Answer:
    """The file itself, or for a large one the way to where its bytes are."""
    found = request.hub.at(id, rev, request.token)
    headers = {"X-Repo-Commit": found.sha, "Accept-Ranges": "bytes"}
    if path not in found.tree:
        raise Refused(404, "Entry not found", "EntryNotFound", headers)
    data = found.tree[path]
    oid = oid_of(path, data)
    if path.endswith(LARGE):
        request.hub.uploaded[oid] = data
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        return 302, b"", {**headers, **linked, "Location": f"{request.hub.store}/{oid}"}
    return _ranged(request, data, headers | {"ETag": f'"{oid}"'})


def store(request: Handler, oid: str) -> Answer:
    return _ranged(request, request.hub.uploaded[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})


def _ranged(request: Handler, data: bytes, headers: dict[str, str]) -> Answer:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    if request.command == "HEAD":
        return 200, b"", {**headers, "Content-Length": str(len(data))}
    if asked is None:
        return 200, data, headers
    start, stop = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
    return 206, data[start : stop + 1], {**headers, "Content-Range": f"bytes {start}-{stop}/{len(data)}"}


ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate),
    ("POST", rf"/api/models/{ID}/preupload/{REV}", preupload),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", lfs_put),
    ("POST", rf"/verify/{ID}", lfs_verify),
    ("POST", rf"/api/models/{ID}/commit/{REV}", commit),
    ("POST", rf"/api/models/{ID}/branch/(?P<name>[^/]+)", branch),
    ("POST", rf"/api/models/{ID}/paths-info/{REV}", paths),
    ("GET", rf"/api/models/{ID}/tree/{REV}", tree),
    ("GET", rf"/api/models/{ID}/revision/{REV}", info),
    ("GET", r"/api/models", listing),
    ("GET", rf"/api/models/{ID}", info),
    ("GET HEAD", rf"/{ID}/resolve/{REV}/(?P<path>.+)", resolve),
    ("GET HEAD", r"/store/(?P<oid>\w+)", store),
)
