"""Connections on which nothing goes on are closed; those on which something does are left alone."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from graft.server.connections import IdleTimeouts
from graft.server.limits import Limits
from graft.server.opening import open_service
from graft.server.running import MOST_HEADER_BYTES
from graft.server.service import Service
from tests.server.client import Client, busy, running
from tests.server.conftest import SMALL

IDLE = 1.0
HEAD = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ENDED = (ConnectionError, BrokenPipeError)


@pytest.fixture(scope="module")
def served(shelf: Path, patches: dict[str, Path]) -> Iterator[tuple[Service, Client]]:
    limits = dataclasses.replace(SMALL, idle_seconds=IDLE, seconds=5)
    service = open_service(str(shelf / "base"), {"moods": patches["moods"]}, limits=limits)
    with running(service) as client:
        yield service, client


def open_line(client: Client) -> socket.socket:
    host, port = client.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def seconds_until_closed(line: socket.socket, drip: bytes = b"") -> float:
    """How long a line stays open to one who sends a little now and then."""
    start, over = time.monotonic(), threading.Event()

    def send() -> None:
        while drip and not over.wait(IDLE / 10):
            try:
                line.sendall(drip)
            except ENDED:
                return

    sender = threading.Thread(target=send)
    sender.start()
    try:
        while line.recv(4096):
            pass
    except ENDED:
        pass
    finally:
        over.set()
        sender.join()
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b""), (b"G", b""), (HEAD, b""), (HEAD, b"X-More: 1\r\n")],
    ids=["nothing", "a letter", "half a head", "endless headers"],
)
def test_who_never_finishes_the_headers_is_closed(first: bytes, drip: bytes, served: tuple[Service, Client]) -> None:
    with open_line(served[1]) as line:
        line.sendall(first)
        assert IDLE * 0.5 < seconds_until_closed(line, drip) < 10


def test_who_sends_on_after_the_answer_is_closed(served: tuple[Service, Client]) -> None:
    """The refusal of a body that is too large does not wait for it, and neither does its connection."""
    with open_line(served[1]) as line:
        line.sendall(HEAD + b"Content-Length: 2000000\r\n\r\n{")
        assert line.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert seconds_until_closed(line, b"x") < 10


def test_large_headers_are_refused(served: tuple[Service, Client]) -> None:
    with open_line(served[1]) as line:
        line.sendall(HEAD + b"X-More: " + b"x" * MOST_HEADER_BYTES)
        assert line.recv(4096).startswith(b"HTTP/1.1 400 ")


def test_who_waits_for_an_answer_is_left_alone(served: tuple[Service, Client]) -> None:
    service, client = served
    with ThreadPoolExecutor(1) as pool:
        with busy(service):
            answer = pool.submit(client.post, "/v1/embeddings", input="good", model="moods")
            time.sleep(2 * IDLE)
            assert not answer.done()
        assert answer.result(20)["data"]


def test_one_connection_serves_many_requests(served: tuple[Service, Client]) -> None:
    line = http.client.HTTPConnection(served[1].url.removeprefix("http://"), timeout=20)
    line.connect()
    line.auto_open = 0  # it would come again where it was closed
    with contextlib.closing(line):
        for _ in range(8):
            line.request("GET", "/health")
            assert line.getresponse().read()
            time.sleep(IDLE / 4)


MOST = 6


@pytest.fixture
def crowded(shelf: Path, patches: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Service, Client]]:
    """A server with room for six connections, none of which is closed for being idle."""
    monkeypatch.setattr("graft.server.running.MOST_CONNECTIONS", MOST)
    limits = dataclasses.replace(SMALL, idle_seconds=60, seconds=60)
    service = open_service(str(shelf / "base"), {"moods": patches["moods"]}, limits=limits)
    with running(service) as client:
        yield service, client


def test_who_opens_many_connections_again_and_again_keeps_nobody_out(crowded: tuple[Service, Client]) -> None:
    client = crowded[1]
    waiting = (b"", b"G", HEAD, HEAD + b"Content-Length: 2000\r\n\r\n{")
    with contextlib.ExitStack() as lines:
        first = lines.enter_context(open_line(client))
        for i in range(3 * MOST):
            lines.enter_context(open_line(client)).sendall(waiting[i % len(waiting)])
            if i % MOST == 0:
                with httpx.Client(base_url=client.url, timeout=20) as other:
                    assert other.get("/health").status_code == 200
        assert seconds_until_closed(first) < 5
        assert client.post("/v1/embeddings", input="good", model="moods")["data"]


def test_a_request_that_has_come_whole_keeps_its_place_and_is_counted(crowded: tuple[Service, Client]) -> None:
    service, client = crowded
    ask = {"input": "good", "model": "moods"}
    with ThreadPoolExecutor(MOST) as pool, contextlib.ExitStack() as others:
        clients = [others.enter_context(httpx.Client(base_url=client.url, timeout=60)) for _ in range(MOST)]
        with busy(service):
            answers = [pool.submit(one.post, "/v1/embeddings", json=ask) for one in clients]
            while len(service.thread.queue) < MOST:
                time.sleep(0.01)
            lines = [others.enter_context(open_line(client)) for _ in range(2 * MOST)]
            lines[-1].sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert lines[-1].recv(4096).startswith(b"HTTP/1.1 503 ")  # all places are taken
        assert [answer.result(20).status_code for answer in answers] == [200] * MOST


@dataclasses.dataclass
class Request:
    """As uvicorn's own shows itself."""

    response_complete: bool


class Connection:
    """As a protocol of uvicorn shows itself, and its transport."""

    def __init__(self, request: Request | None, unread: int = 0, paused: bool = False) -> None:
        self.cycle, self._unread, self.is_open = request, unread, True
        self.transport, self.flow, self.write_paused = self, self, paused

    def get_write_buffer_size(self) -> int:
        return self._unread

    def abort(self) -> None:
        self.is_open = False


@pytest.mark.parametrize(("made", "last"), [
    ((None,), 10), ((Request(True),), 10), ((Request(True), 5), 60),
    ((Request(False),), 199), ((Request(False), 5), 199), ((Request(False), 5, True), 60),
], ids=["no request", "answered", "unread", "asked", "being written", "written and not read"])  # fmt: skip
def test_each_connection_has_its_time(made: Any, last: int) -> None:
    timeouts, line = IdleTimeouts(Limits()), Connection(*made)
    seen = []
    for now in range(200):
        timeouts.close_idle([line], now)
        seen += [now] if line.is_open else []
    assert seen[-1] == last


def test_a_request_in_between_begins_the_time_anew() -> None:
    timeouts, line = IdleTimeouts(Limits()), Connection(Request(True))
    for now in range(200):
        timeouts.close_idle([line], now)
        if now % 8 == 0:
            line.cycle = Request(True)  # another, which was quick
    assert line.is_open
