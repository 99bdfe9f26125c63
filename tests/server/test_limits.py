"""What a stranger may send: malformed, oversized, too much, too slow: refused in one line each, at no other's cost."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from graft.server.opening import open_service
from graft.server.service import Service
from tests.server.client import Client, busy, refusal_of, running
from tests.server.conftest import SMALL

JSON = {"Content-Type": "application/json"}
TEXT = {"model": "moods", "input": "the film was good"}


@pytest.fixture(scope="module")
def hasty(shelf: Path, patches: dict[str, Path]) -> Iterator[tuple[Service, Client]]:
    """A server that gives up after 1.5 s."""
    limits = dataclasses.replace(SMALL, seconds=1.5)
    service = open_service(str(shelf / "base"), {"moods": patches["moods"]}, limits=limits)
    with running(service) as client:
        yield service, client


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 9000, "the body is not JSON"),
        (b'{"model": "moods", "input": NaN}', "NaN is no number in JSON"),
        (b'{"model": "moods", "input": ' + b"9" * 9000 + b"}", "the body is not JSON"),
        (b'{"model": "moods", "input": "\\ud800"}', "the body is not JSON"),
        (b"[1]", "must be a mapping"),
        (b'{"model": "moods"}', "the key 'input' is missing"),
        (b'{"model": 3, "input": "x"}', "request: model: must be"),
        (b'{"input": [1, 2]}', "request: input: must be"),
        (b'{"input": "x", "input": "y"}', "a key occurs twice in one object"),
        (b'{"input": "x", "dimensions": 8}', "dimensions is not offered"),
        (b'{"input": "x", "path": "/etc/passwd"}', "unknown key 'path'"),
        (b'{"input": "x", "encoding_format": "hex"}', "must be one of float, base64, not 'hex'"),
        (b'{"input": []}', "a request may have 1 to 32 texts, not 0"),
        (b'{"input": [' + b'"x",' * 32 + b'"x"]}', "a request may have 1 to 32 texts, not 33"),
        (b'{"input": "' + b"the " * 40 + b'"}', "text 0 has 42 tokens, and the model reads 32"),
        (b'{"input": [' + b",".join([b'"' + b"the " * 29 + b'"'] * 20) + b"]}", "620 tokens are more than 500 in one"),
    ],
)
def test_malformed_requests_are_refused(client: Client, body: bytes, line: str) -> None:
    status, message = refusal_of(client.http.post("/v1/embeddings", content=body, headers=JSON))
    assert status == 400
    assert line in message


def test_too_large_bodies_are_refused_before_they_are_read(client: Client) -> None:
    large = b'{"input": "' + b"x" * 30_000 + b'"}'
    status, message = refusal_of(client.http.post("/v1/embeddings", content=large, headers=JSON))
    assert (status, message) == (413, "the body is larger than 20,000 bytes")

    def endless() -> Iterator[bytes]:
        for _ in range(10_000):
            yield b"x" * 1000

    with contextlib.suppress(httpx.WriteError):  # the server has answered, and closed
        response = client.http.post("/v1/embeddings", content=endless(), headers=JSON)
        assert response.status_code == 413
    assert client.http.get("/health").status_code == 200


def test_other_types_and_hosts_are_refused(client: Client) -> None:
    """A page of another site can send neither JSON without being asked, nor under the name of this machine."""
    status, message = refusal_of(
        client.http.post("/v1/embeddings", content=b"{}", headers={"Content-Type": "text/plain"})
    )
    assert (status, message) == (415, "send JSON, with the header Content-Type: application/json")
    for host in ("attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:80", ""):
        assert client.http.get("/skills", headers={"Host": host}).status_code in (400, 421)
    for host in ("localhost", "LocalHost:9", "127.0.0.1:9", "[::1]:9"):
        assert client.http.get("/skills", headers={"Host": host}).status_code == 200
    assert "access-control-allow-origin" not in client.http.get("/skills").headers


def test_there_are_no_other_routes_or_files(client: Client) -> None:
    for path in ("/docs", "/openapi.json", "/page/../app.py", "/page/%2e%2e%2fapp.py", "/page/app.py", "/v1/other"):
        assert client.http.get(path).status_code == 404
    status, message = refusal_of(client.http.get("/classify"))
    assert (status, message) == (405, "GET /classify: there is no such route")


def test_a_full_queue_says_when_to_come_again(client: Client, service: Service) -> None:
    with ThreadPoolExecutor(4) as pool:
        with busy(service):
            waiting = [pool.submit(client.post, "/v1/embeddings", input=["x"] * 20) for _ in range(2)]
            while len(service.thread.queue) < 40:
                time.sleep(0.01)
            response = client.http.post("/v1/embeddings", json=TEXT)
            with pytest.raises(openai.RateLimitError):
                client.openai.embeddings.create(**TEXT)
        assert (response.status_code, response.headers["retry-after"]) == (429, "1")
        assert response.json()["error"]["code"] == "queue_full"
        assert all(len(answer.result()["data"]) == 20 for answer in waiting)
    assert client.post("/v1/embeddings", **TEXT)["data"]


def test_what_takes_too_long_is_dropped(hasty: tuple[Service, Client]) -> None:
    service, client = hasty
    with busy(service):
        assert client.refusal("/v1/embeddings", **TEXT) == (504, "no answer within 1.5 s")
        assert client.refusal("/classify", texts=["x"], skill="moods") == (504, "no answer within 1.5 s")
        time.sleep(0.1)
    assert client.post("/v1/embeddings", **TEXT)["data"]


def test_a_body_that_never_ends_is_given_up(hasty: tuple[Service, Client]) -> None:
    _, client = hasty
    host, port = client.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\n" + b"Content-Type: application/json\r\n")
        line.sendall(b"Content-Length: 1000\r\n\r\n{")
        assert b" 504 " in line.recv(4096)


def test_who_hangs_up_is_not_waited_for(client: Client, service: Service) -> None:
    with busy(service):
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                client.http.post("/v1/embeddings", json=TEXT, timeout=0.1)
        end = time.monotonic() + 20
        while not all(job.result.cancelled() for job in service.thread.queue._others) and time.monotonic() < end:
            time.sleep(0.01)
        assert len(service.thread.queue._others) == 5
        assert all(job.result.cancelled() for job in service.thread.queue._others)
    assert client.post("/v1/embeddings", **TEXT)["data"]


def test_one_requests_error_is_no_others(client: Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A skill that cannot be computed fails alone, although it waits with others for one batch."""
    prepare = service.resident.prepare

    def fail(names: Any) -> None:
        if "few" in names:
            raise RuntimeError("secret of the server")
        prepare(names)

    monkeypatch.setattr(service.resident, "prepare", fail)
    with ThreadPoolExecutor(4) as pool, busy(service):
        answers = [
            pool.submit(client.http.post, "/v1/embeddings", json=TEXT | {"model": model})
            for model in ("moods", "few", "base")
        ]
        while len(service.thread.queue) < 3:
            time.sleep(0.01)
    assert [answer.result().status_code for answer in answers] == [200, 500, 200]
    assert refusal_of(answers[1].result()) == (500, "the server failed on this request (RuntimeError)")


def test_health_and_metrics_tell(client: Client) -> None:
    client.post("/classify", texts=["x", "y"], skill="moods")
    client.refusal("/classify", texts=["x"], skill="nobody")
    health = client.http.get("/health").json()
    assert health == {"status": "ok", "base": "base", "skills": 3}
    text = client.http.get("/metrics").text
    for line in (
        'graft_requests_total{route="/classify",status="404"}',
        'graft_request_seconds_bucket{le="0.005",route="/classify"}',
        "graft_skills 3.0",
        "graft_waiting_rows 0.0",
    ):
        assert line in text


def test_skills_tell_their_card_and_place(client: Client) -> None:
    answer = client.http.get("/skills").json()
    assert (answer["base"], answer["generates"], answer["chats"], answer["routes"]) == ("base", False, False, False)
    moods, noise, _ = answer["skills"]
    task = {"name": "moods", "head": "similarity", "labels": ["sad", "glad"], "pair": False, "max_length": 128}
    assert moods["task"] == task
    assert noise["task"] is None
    assert "records no head" in noise["why_no_task"]
    assert sum(map(sum, moods["map"]["counts"])) == moods["card"]["k"] == 300
    assert len(moods["map"]["counts"]) == len(moods["map"]["layers"])
    assert "/" not in moods["source"]


def test_changes_need_the_token(client: Client, hasty: tuple[Service, Client]) -> None:
    body = {"name": "x", "repo": "me/x"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic a token of the tests"}):
        status, message = refusal_of(client.http.post("/skills", json=body, headers=headers))
        assert status == 401
        assert message.startswith("this needs the server's token")
        assert refusal_of(client.http.delete("/skills/moods", headers=headers))[0] == 401
    status, message = refusal_of(hasty[1].http.post("/skills", json=body))
    assert (status, message) == (403, "this server's skills cannot be changed: it was started without --token-env")


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        ({"name": "a+b", "repo": "me/x"}, 400, "name must be up to 64 letters"),
        ({"name": "base", "repo": "me/x"}, 400, "not base or auto: 'base'"),
        ({"name": "moods", "repo": "me/x"}, 409, "there is a skill 'moods' already"),
        ({"name": "x", "repo": "/etc/passwd"}, 400, "is not a Hub id"),
        ({"name": "x", "repo": "../moods"}, 400, "is not a Hub id"),
        ({"name": "x", "repo": "me/x/../y"}, 400, "is not a Hub id"),
        ({"name": "x", "repo": "me/x", "path": "x"}, 400, "unknown key 'path'"),
    ],
)
def test_a_skill_is_named_by_the_hub_alone(client: Client, body: dict[str, str], status: int, line: str) -> None:
    headers = {"Authorization": "Bearer a token of the tests"}
    found, message = refusal_of(client.http.post("/skills", json=body, headers=headers))
    assert found == status
    assert line in message


def test_a_removed_skill_is_gone_and_others_stay(shelf: Path, patches: dict[str, Path]) -> None:
    service = open_service(str(shelf / "base"), patches, token="a token of the tests", limits=SMALL, on_overlap="last")
    headers = {"Authorization": "Bearer a token of the tests"}
    with running(service) as client:
        before = client.post("/classify", texts=["good"], skills=["few", "few+moods", "base"], task="few")["results"]
        assert client.http.delete("/skills/moods", headers=headers).json() == {"name": "moods", "removed": True}
        assert client.refusal("/classify", texts=["good"], skill="moods")[0] == 404
        assert client.refusal("/classify", texts=["good"], skill="few+moods")[0] == 404
        assert refusal_of(client.http.delete("/skills/moods", headers=headers))[0] == 404
        after = client.post("/classify", texts=["good"], skills=["few", "base"], task="few")["results"]
        assert after == [before[0], before[2]]
        assert "graft_skills 2.0" in client.http.get("/metrics").text
