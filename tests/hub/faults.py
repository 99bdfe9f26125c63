"""Everything that is made to go wrong between a client and the Hub, and what then was left on both sides."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.hub.client import Client, Finished
from tests.hub.local_hub import Fault, LocalHub, oid_of

EVER = 99
SLOWED = {"Retry-After": "7"}
UPLOAD, COMMIT, DOWNLOAD = r"PUT /lfs/", r"POST .*/commit/", r"GET /store/"


@dataclass(frozen=True)
class Scenario:
    """One fault in one direction; `whole` says whether it must end well all the same."""

    name: str
    fault: Fault
    whole: bool


def push_scenarios() -> list[Scenario]:
    return [
        Scenario("connection dropped mid-upload, once", Fault("drop", UPLOAD), True),
        Scenario("connection dropped mid-upload, always", Fault("drop", UPLOAD, EVER), False),
        Scenario("connection dropped mid-commit, once", Fault("drop", COMMIT), True),
        Scenario("connection dropped mid-commit, always", Fault("drop", COMMIT, EVER), False),
        Scenario("commit made, its answer lost", Fault("lost", COMMIT), True),
        Scenario("commit made, its answer cut off", Fault("cut", COMMIT), True),
        Scenario("commit made, its answer garbled", Fault("short", COMMIT), True),
        Scenario("overtaken by another commit, once (412)", Fault("race", COMMIT), True),
        Scenario("overtaken by another commit, always (412)", Fault("race", COMMIT, EVER), False),
        Scenario("429 with Retry-After: 7 on the file list, once", Fault("status", "preupload", 1, 429, SLOWED), True),
        Scenario("429 with Retry-After: 7 on the commit, once", Fault("status", COMMIT, 1, 429, SLOWED), True),
        Scenario("429 with Retry-After: 7, always", Fault("status", COMMIT, EVER, 429, SLOWED), False),
        Scenario("500 on the upload, once", Fault("status", UPLOAD, 1, 500), True),
        Scenario("500 on the upload, always", Fault("status", UPLOAD, EVER, 500), False),
        Scenario("500 on the commit, once", Fault("status", COMMIT, 1, 500), True),
        Scenario("500 on everything, always", Fault("status", ".", EVER, 500), False),
        Scenario("answer of the file list cut short, once", Fault("cut", "preupload"), True),
        Scenario("bytes changed on their way up (wrong hash)", Fault("garble", UPLOAD), False),
        Scenario("a slow Hub", Fault("slow", ".", EVER, seconds=0.1), True),
        Scenario("a Hub that falls silent, once", Fault("slow", COMMIT, 1, seconds=1.5), True),
    ]


def pull_scenarios() -> list[Scenario]:
    head, card = "HEAD .*patch", "GET .*README"
    return [
        Scenario("connection dropped before the download, once", Fault("drop", DOWNLOAD), True),
        Scenario("connection dropped mid-download, once", Fault("cut", DOWNLOAD), True),
        Scenario("connection dropped mid-download, always", Fault("cut", DOWNLOAD, EVER), False),
        Scenario("connection dropped on the first request, once", Fault("drop", head), True),
        Scenario("connection dropped on the first request, always", Fault("drop", head, EVER), False),
        Scenario("429 with Retry-After: 7 on the first request, once", Fault("status", head, 1, 429, SLOWED), True),
        Scenario("429 with Retry-After: 7 on the download, once", Fault("status", DOWNLOAD, 1, 429, SLOWED), True),
        Scenario("429 with Retry-After: 7, always", Fault("status", ".", EVER, 429, SLOWED), False),
        Scenario("500 on the first request, once", Fault("status", head, 1, 500), True),
        Scenario("500 on the download, once", Fault("status", DOWNLOAD, 1, 500), True),
        Scenario("500 on everything, always", Fault("status", ".", EVER, 500), False),
        Scenario("truncated body that claims to be whole", Fault("short", DOWNLOAD), False),
        Scenario("bytes of the patch changed (wrong hash)", Fault("corrupt", DOWNLOAD), False),
        Scenario("bytes of the card changed (wrong hash)", Fault("corrupt", card), False),
        Scenario("a slow Hub", Fault("slow", ".", EVER, seconds=0.1), True),
        Scenario("a Hub that falls silent, once", Fault("slow", DOWNLOAD, 1, seconds=1.5), True),
    ]


@dataclass(frozen=True)
class Outcome:
    """What was left: "whole", "nothing", or what must not be; and the command's own account."""

    left: str
    finished: Finished

    @property
    def said(self) -> str:
        return self.finished.line.removeprefix("error: ") if self.finished.code else ""

    @property
    def waited(self) -> float:
        return sum(self.finished.waits)


def push_under(hub: LocalHub, client: Client, scenario: Scenario, patch: Path, name: str) -> Outcome:
    """Publish a patch as `name`, which nobody has used, while a fault is at work."""
    client.run("import graft.hub.commit as commit; commit.PATIENCE = 0.7")
    hub.uploaded.clear()  # what is there already would not be sent again
    hub.order(scenario.fault)
    finished = client("push", patch, name, "--license", "mit", "--json")
    hub.order()
    repository = hub.repositories.get(f"alice/{name}")
    commits = [commit for commit in repository.branches["main"] if "patch" in commit.title] if repository else []
    if not commits:
        holds = repository is not None and "patch.safetensors" in repository.branches["main"][-1].tree
        return Outcome("A STRAY FILE" if holds else "nothing", finished)
    names = {"patch.safetensors", "README.md", "layers.png"}
    whole = names <= set(commits[-1].tree) and commits[-1].tree["patch.safetensors"] == patch.read_bytes()
    if len(commits) > 1:
        return Outcome("TWO COMMITS", finished)
    return Outcome("whole" if whole else "HALF A COMMIT", finished)


def pull_under(hub: LocalHub, client: Client, scenario: Scenario, name: str, folder: str) -> Outcome:
    """Fetch a patch into a new folder with an empty cache while a fault is at work."""
    shutil.rmtree(client.home / "hub", ignore_errors=True)
    hub.order(scenario.fault)
    finished = client("pull", name, "-o", folder, "--json")
    hub.order()
    truth = hub.repositories[name].branches["main"][-1].tree
    blobs = {file.name: file.read_bytes() for file in client.home.rglob("blobs/*")}
    known = {oid_of(path, data): data for path, data in truth.items()}
    if any(known.get(blob) != data for blob, data in blobs.items()):
        return Outcome("A BAD BLOB IN THE CACHE", finished)
    written = client.folder / folder
    if not written.exists():
        stray = [path.name for path in client.folder.iterdir() if path.name.startswith(f".{folder}")]
        return Outcome("A STRAY FOLDER" if stray else "nothing", finished)
    files = {file.name: file.read_bytes() for file in written.iterdir()}
    whole = files == {key: data for key, data in truth.items() if key != ".gitattributes"}
    return Outcome("whole" if whole else "HALF A FOLDER", finished)
