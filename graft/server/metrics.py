"""Metrics: what Prometheus reads of a server."""

from __future__ import annotations

from typing import Any


class Metrics:
    """Counters and histograms of one server, in a registry of its own.

    Attributes:
        requests: answered requests by route and status; a stream that an error ends has the error's.
        seconds: time to the end of an answer, by route.
        batches: rows of each pass of the model over texts, and of each token that is written.
        waiting: rows that wait for the model.
        tokens: tokens written.
        skills: that are resident.
    """

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter("graft_requests", "Answered requests.", ["route", "status"], **own)
        times = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
        self.seconds = Histogram("graft_request_seconds", "Time to an answer.", ["route"], buckets=times, **own)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.batches = Histogram("graft_batch_rows", "Rows that run together.", buckets=sizes, **own)
        self.waiting = Gauge("graft_waiting_rows", "Rows that wait for the model.", **own)
        self.tokens = Counter("graft_written_tokens", "Tokens written.", **own)
        self.skills = Gauge("graft_skills", "Resident skills.", **own)

    def write(self) -> tuple[bytes, str]:
        """Return all of them as text, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
