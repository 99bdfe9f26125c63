"""Clients for tests: a real server on a free port in a thread of this process, and httpx and openai on it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from graft.server.connections import serve_with_timeouts
from graft.server.jobs import CallJob
from graft.server.running import listen_at, make_server
from graft.server.service import Service


@dataclass
class Client:
    """What a test calls a server by.

    Attributes:
        url: of the server.
        http: a client of its routes.
        openai: OpenAI's own client on it.
    """

    url: str
    http: httpx.Client
    openai: openai.OpenAI

    def post(self, path: str, **body: Any) -> Any:
        """The JSON of an answer that must be there."""
        response = self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def refusal(self, path: str, **body: Any) -> tuple[int, str]:
        """Status and line of a refusal, which must have OpenAI's form."""
        return refusal_of(self.http.post(path, json=body))


def refusal_of(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return response.status_code, error["message"]


@contextlib.contextmanager
def running(service: Service) -> Iterator[Client]:
    """Serve within the block."""
    listener, server = listen_at("127.0.0.1", 0), make_server(service)
    thread = threading.Thread(
        target=lambda: asyncio.run(serve_with_timeouts(server, listener, service.limits)), daemon=True
    )
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        theirs = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with httpx.Client(base_url=url, timeout=60) as http, theirs:
            yield Client(url, http, theirs)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextlib.contextmanager
def busy(service: Service) -> Iterator[None]:
    """The model is busy within the block."""
    begun, done = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert done.wait(60)

    service.thread.submit(CallJob(call=wait))
    assert begun.wait(60)
    try:
        yield
    finally:
        done.set()
