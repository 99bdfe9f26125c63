"""Streams are measured at their ends, and end for the model when their clients go."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from graft.server.jobs import Job
from graft.server.opening import open_service
from graft.server.routes.sse import write_event
from graft.server.service import Service
from tests.server.client import running
from tests.server.conftest import SMALL
from tests.server.holding import Held, holding, n_running, until, value_of
from tests.server.writer import write_writer
from tests.shared_builds import build_once

ROUTE = 'route="/v1/completions"'
ASK: dict[str, Any] = {"model": "base", "prompt": "add one", "temperature": 0, "max_tokens": 2, "stream": True}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_once(tmp_path_factory, "writer", write_writer)


@pytest.fixture
def held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    with holding(open_service(str(folder / "base"), {}, limits=SMALL), monkeypatch) as made:
        yield made


def n_ended(service: Service, status: int) -> float:
    return value_of(service, f'graft_requests_total{{{ROUTE},status="{status}"}}')


def test_a_stream_is_counted_when_it_has_ended(held: Held) -> None:
    service = held.service
    stream = held.client.openai.completions.create(**ASK)  # its headers have come
    until(lambda: n_running(service) == 1)
    time.sleep(0.2)
    assert value_of(service, f"graft_request_seconds_count{{{ROUTE}}}") == n_ended(service, 200) == 0
    held.release()
    assert list(stream)
    until(lambda: n_ended(service, 200) == 1)
    assert value_of(service, f"graft_request_seconds_sum{{{ROUTE}}}") >= 0.2


def test_an_error_within_a_stream_is_counted_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dataclasses.replace(SMALL, seconds=3.0)
    with holding(open_service(str(folder / "base"), {}, limits=limits), monkeypatch) as held:
        with pytest.raises(openai.APIError, match="no answer within 3 s"):
            list(held.client.openai.completions.create(**ASK))
        until(lambda: n_ended(held.service, 504) == 1)
        assert n_ended(held.service, 200) == 0


def test_the_time_of_a_stream_begins_with_its_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = open_service(str(folder / "base"), {}, limits=dataclasses.replace(SMALL, seconds=3.0))
    read = service.read

    async def read_slowly(*arguments: Any) -> Any:
        await asyncio.sleep(1)  # of two reads: the body, and the prompt
        return await read(*arguments)

    monkeypatch.setattr(service, "read", read_slowly)
    with holding(service, monkeypatch) as held:
        start = time.monotonic()
        assert "no answer within 3 s" in held.client.http.post("/v1/completions", json=ASK).text
        assert time.monotonic() - start < 4.5


def test_who_has_gone_before_a_stream_begins_leaves_nothing(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Job] = []
    submit = held.service.thread.submit
    monkeypatch.setattr(held.service.thread, "submit", lambda *jobs: (submitted.extend(jobs), submit(*jobs)))
    request = httpx.Request("POST", f"{held.client.url}/v1/completions", json=ASK | {"max_tokens": 200})
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    for _ in range(4):
        with socket.create_connection((request.url.host, request.url.port)) as line:
            line.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}\r\n".encode() + request.content)
    until(lambda: len(submitted) == 4)
    until(lambda: n_ended(held.service, 499) == 4)
    assert [job.is_abandoned for job in submitted] == [True] * 4


def test_a_stream_ends_once_it_is_done(folder: Path) -> None:
    with running(open_service(str(folder / "base"), {}, limits=SMALL)) as client:
        text = client.http.post("/v1/completions", json=ASK).text
        assert text.endswith("\n\ndata: [DONE]\n\n")


def test_an_event_is_one_line_to_any_reader() -> None:
    value = {"text": "é\u2028one\u0085two\u2029three"}
    line, *rest = write_event(value).decode().splitlines()
    assert (json.loads(line.removeprefix("data: ")), rest) == (value, [""])
