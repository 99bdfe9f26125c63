"""A small Hub in this process: what huggingface_hub's client asks for, over plain HTTP, with faults to order.

Commits are all or nothing and content-addressed, large files go through the LFS batch call (Xet is switched off
in the clients), errors carry X-Error-Code as the real one's do. Nothing here knows about patches.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

Tree = dict[str, bytes]
LARGE = (".safetensors", ".png")
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "gpl-3.0", "llama3.1", "other"}


class Refused(Exception):
    """An answer other than 2xx."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None, **body: str
    ) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


@dataclass
class Fault:
    """Something that goes wrong with the next requests that match.

    Attributes:
        kind: "drop" (close amid the request), "lost" (do it, then close without an answer), "cut" (send half of the
            promised body), "short" (promise and send half), "corrupt" (flip a byte of the answer), "garble" (of the
            request), "race" (someone else commits just before), "slow", "status".
        match: regular expression over "METHOD PATH".
        times: how often; then all is well again.
        status, headers: of "status".
        seconds: of "slow".
    """

    kind: str
    match: str
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.2


@dataclass
class Commit:
    """A state of a repository."""

    sha: str
    title: str
    tree: Tree


@dataclass
class Repository:
    """Branches of commits; `branches[name][-1]` is a branch's head."""

    owner: str
    private: bool = False
    gated: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commits(self) -> dict[str, Commit]:
        return {commit.sha: commit for branch in self.branches.values() for commit in branch}


class _Server(ThreadingHTTPServer):
    """A server to which a client that hangs up is nothing to speak of."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class LocalHub:
    """The Hub's state, its server, and the faults that are ordered.

    Attributes:
        users: token -> user name; "reader" may read only.
        repositories: id -> repository.
        uploaded: SHA-256 -> bytes of large files that were uploaded, committed or not.
        log: "METHOD PATH" of every request, and " with a token" where one came along.
    """

    def __init__(self) -> None:
        from tests.hub.local_hub_requests import Handler

        self.users = {"hf_alice": "alice", "hf_bob": "bob"}
        self.repositories: dict[str, Repository] = {}
        self.uploaded: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.lock = threading.RLock()
        self._count = itertools.count()
        self._server = _Server(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": self}))
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.store = f"http://localhost:{port}/store"  # another host to the client, as the real one's store is
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def clear(self) -> None:
        """Make it as empty as a new one."""
        self.repositories.clear()
        self.uploaded.clear()
        self.order()

    def add(self, name: str, files: Tree, *, owner: str = "alice", **flags: bool) -> str:
        """A repository with one commit, as if it had been there; its sha."""
        self.repositories[name] = Repository(owner, **flags)
        return self.commit(name, "main", "first", files)

    def add_folder(self, name: str, folder: Path, **flags: bool) -> str:
        return self.add(name, {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}, **flags)

    def commit(self, name: str, branch: str, title: str, files: Tree) -> str:
        with self.lock:
            repository = self.repositories[name]
            line = repository.branches.setdefault(branch, [])
            tree = {**(line[-1].tree if line else {}), **files}
            text = f"{name} {branch} {title} {next(self._count)} {sorted(tree)}"
            sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            line.append(Commit(sha, title, tree))
            return sha

    def order(self, *faults: Fault) -> None:
        with self.lock:
            self.faults, self.log[:] = list(faults), []

    def next_fault(self, line: str, more: str = "") -> Fault | None:
        """The fault that this request meets, counted down; `more` is for the log."""
        with self.lock:
            self.log.append(line + more)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return None

    def who(self, token: str | None) -> str | None:
        return self.users.get(token or "")

    def readable(self, name: str, token: str | None) -> Repository:
        """A repository that the token may read."""
        repository = self.repositories.get(name)
        user = self.who(token)
        if repository is None or (repository.private and user != repository.owner):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if repository.gated and user != repository.owner:
            raise Refused(403 if user else 401, "Access to this model is restricted", "GatedRepo")
        return repository

    def writable(self, name: str, token: str | None) -> Repository:
        repository = self.readable(name, token)
        if self.who(token) != repository.owner:
            raise Refused(403, f"You don't have the rights to write to {name}")
        return repository

    def at(self, name: str, revision: str, token: str | None) -> Commit:
        """The commit that a branch or sha means."""
        repository = self.readable(name, token)
        found = repository.branches.get(revision, [])[-1:] or [
            commit for sha, commit in repository.commits().items() if sha == revision
        ]
        if not found:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def slow_down(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "slow":
            time.sleep(fault.seconds)


def oid_of(path: str, data: bytes) -> str:
    """What names a file's content: SHA-256 of a large one, git's SHA-1 of another."""
    if path.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def card_data(tree: Tree) -> dict[str, Any]:
    """The YAML at the head of a README."""
    found = re.match(r"---\n(.*?)\n---\n", tree.get("README.md", b"").decode(), re.DOTALL)
    return dict(yaml.safe_load(found[1]) or {}) if found else {}


def card_errors(content: str) -> list[str]:
    """What the Hub would refuse in a card."""
    try:
        data = card_data({"README.md": content.encode()})
    except (yaml.YAMLError, ValueError) as error:
        return [f"not YAML: {error}"]
    errors = []
    base = data.get("base_model", "org/name")
    if not isinstance(base, str) or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base):
        errors.append('"base_model" must be a model id')
    if data.get("license", "mit") not in LICENCES:
        errors.append(f'"license" must be one of {sorted(LICENCES)}')
    if data.get("base_model_relation", "adapter") not in ("adapter", "merge", "quantized", "finetune"):
        errors.append('"base_model_relation" is none')
    if not all(isinstance(tag, str) and tag for tag in data.get("tags", [])):
        errors.append('"tags" must be texts')
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not (result["task"].get("type") and result["dataset"].get("type") and result["dataset"].get("name")):
                errors.append('"model-index" lacks a type or name')
            if not all(isinstance(item.get("value"), (int, float)) and item.get("type") for item in result["metrics"]):
                errors.append('"model-index" holds a metric without value or type')
    return errors


def model_json(name: str, repository: Repository, commit: Commit) -> dict[str, Any]:
    """What the API says of a model."""
    card = card_data(commit.tree)
    base, relation = card.get("base_model"), card.get("base_model_relation", "finetune")
    tags = [*card.get("tags", []), *([f"base_model:{base}", f"base_model:{relation}:{base}"] if base else [])]
    siblings = [{"rfilename": path} for path in sorted(commit.tree)]
    return {
        "id": name,
        "modelId": name,
        "author": repository.owner,
        "sha": commit.sha,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "tags": tags,
        "cardData": card,
        "siblings": siblings,
        "downloads": 0,
        "likes": 0,
    }


def parse_commit(body: bytes) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Header and operations of a commit sent as NDJSON."""
    items = [json.loads(line) for line in body.splitlines() if line.strip()]
    header = next(item["value"] for item in items if item["key"] == "header")
    return header, [(item["key"], item["value"]) for item in items if item["key"] != "header"]
