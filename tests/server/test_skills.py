"""Skills that come while the server runs: what a client is told of them is what became of them."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from graft.errors import PatchFormatError
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.summary import describe_patch
from graft.server.jobs import CallJob
from graft.server.opening import open_service
from graft.server.routes import skills
from graft.server.service import Service
from graft.server.skill import Skill, read_skill
from tests.server.client import Client, running
from tests.server.conftest import SMALL
from tests.server.holding import until, value_of

HEADERS = {"Authorization": f"Bearer {'x' * 16}", "Content-Type": "application/json"}
BODY = {"name": "new", "repo": "me/new"}


@pytest.fixture
def service(shelf: Path, patches: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Service:
    """A server whose Hub has one patch, whatever is asked for."""
    monkeypatch.setattr(skills, "_fetch", lambda form, limits: read_skill(form.name, patches["moods"], form.repo))
    return open_service(str(shelf / "base"), {}, limits=SMALL, token="x" * 16)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with running(service) as made:
        yield made


def test_a_skill_that_nobody_waited_for_is_not_there(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes while it is added."""
    begun, gone, add = threading.Event(), threading.Event(), service.resident.add

    def add_slowly(skill: Skill) -> Skill:
        begun.set()
        assert gone.wait(60)
        return add(skill)

    monkeypatch.setattr(service.resident, "add", add_slowly)
    request = httpx.Request("POST", f"{client.url}/skills", json=BODY, headers=HEADERS)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port)) as line:
        line.sendall(f"POST /skills HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        assert begun.wait(60)
    until(lambda: value_of(service, 'graft_requests_total{route="/skills",status="499"}') == 1)
    gone.set()
    response = client.http.post("/skills", json=BODY, headers=HEADERS)  # after the first, on the model's thread
    assert response.status_code == 200, response.text
    assert [skill["name"] for skill in client.http.get("/skills").json()["skills"]] == ["new"]


def test_only_what_nobody_waits_for_is_undone(service: Service) -> None:
    done: list[str] = []
    waited = CallJob(call=lambda: done.append("one"), undo=lambda: done.append("not one"))
    dropped = CallJob(call=lambda: (done.append("two"), dropped.abandon()), undo=lambda: done.append("not two"))
    failed = CallJob(call=lambda: (failed.abandon(), 1 / 0), undo=lambda: done.append("not three"))
    service.thread._start([waited, dropped, failed])
    assert done == ["one", "two", "not two"]
    assert waited.result.result(0) is None
    assert dropped.result.exception(0) is not None
    assert isinstance(failed.result.exception(0), ZeroDivisionError)


def test_a_skill_that_is_gone_before_it_is_told_of_is_told_of(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = service.resident.add

    def add_and_remove(skill: Skill) -> Any:
        added = add(skill)
        service.resident.remove(skill.name)
        return added

    monkeypatch.setattr(service.resident, "add", add_and_remove)
    response = client.http.post("/skills", json=BODY, headers=HEADERS)
    assert (response.status_code, response.json()["name"]) == (200, "new")


@pytest.mark.parametrize("what", [{"metrics": {"test": "x" * 70_000}}, {"licence": "x" * 70_000}])
def test_a_card_that_is_too_long_to_be_told_is_refused(
    what: dict[str, Any], patches: dict[str, Path], tmp_path: Path
) -> None:
    patch = load_patch(patches["moods"])
    for name, n in (("long", 70_000), ("short", 50_000)):
        told = {key: json.loads(json.dumps(value).replace("x" * 70_000, "x" * n)) for key, value in what.items()}
        provenance = dataclasses.replace(patch.provenance, **told)
        save_patch(dataclasses.replace(patch, provenance=provenance), tmp_path / f"{name}.safetensors")
    assert 50_000 < len(json.dumps(read_skill("x", tmp_path / "short.safetensors", "x").description["card"])) < 60_000
    with pytest.raises(
        PatchFormatError, match=r"metrics and licence of the patch have 70,\d\d\d bytes, more than 65,536"
    ):
        read_skill("x", tmp_path / "long.safetensors", "x")


def test_a_card_is_written_once_and_told_as_it_was_measured(
    patches: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []

    def note(*arguments: Any) -> dict[str, Any]:
        written.append(describe_patch(*arguments))
        return written[-1]

    monkeypatch.setattr("graft.server.skill.describe_patch", note)
    skill = read_skill("moods", patches["moods"], "moods")
    calibrated = dataclasses.replace(skill, temperature=2.0)
    assert skill.description["card"] == calibrated.description["card"]
    assert skill.description["card"]["k"] == written[0]["k"] == 300
    assert len(written) == 1
