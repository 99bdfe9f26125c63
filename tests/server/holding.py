"""A server that runs, whose generations write nothing until they are let go."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from graft.server.service import Service
from tests.server.client import Client, running


@dataclass
class Held:
    """A service, a client of it, and what lets generations go."""

    service: Service
    client: Client
    release: Callable[[], None]


@contextlib.contextmanager
def holding(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    writing = service.thread._writing
    assert writing is not None
    step, released = writing.step, []

    def wait() -> int:
        time.sleep(0.002)
        return 0

    monkeypatch.setattr(writing, "step", lambda: step() if released else wait())
    with running(service) as client:
        try:
            yield Held(service, client, lambda: released.append(True))
        finally:
            released.append(True)


def until(true: Callable[[], bool]) -> None:
    """Wait for something."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def n_running(service: Service) -> int:
    """How many generations run."""
    return 0 if service.thread._writing is None else len(service.thread._writing._running)


def value_of(service: Service, name: str) -> float:
    """The value of a metric, 0 where there is none."""
    lines = service.metrics.write()[0].decode().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)
