"""Queue: jobs that wait for the model, no more of them than there is room for."""

from __future__ import annotations

import threading
import time
from collections import deque

from graft.server.jobs import Job
from graft.server.limits import Limits
from graft.server.refusal import SERVER, Refusal, refuse_full


class JobQueue:
    """A bounded queue between the threads of requests and the model's."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._jobs: deque[Job] = deque()
        self._n_rows = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return how many rows wait."""
        return self._n_rows

    def put(self, job: Job) -> None:
        """Add a job.

        Raises:
            Refusal: the queue is full (429), or the server is about to stop (503).
        """
        with self._changed:
            if self._closed:
                raise Refusal(503, "the server is about to stop", SERVER, "stopping", Retry_After="5")
            if self._jobs and self._n_rows + job.n_rows > self._limits.waiting:
                raise refuse_full(1)
            self._jobs.append(job)
            self._n_rows += job.n_rows
            self._changed.notify()

    def take(self, n_rows: int, *, block: bool) -> list[Job]:
        """Take the jobs that have waited longest, of `n_rows` rows together, or one.

        Args:
            n_rows: a batch.
            block: wait for one, and then for others to share its batch; else return what is there. Returns none where
                the queue is closed and empty.
        """
        with self._changed:
            if block:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                end = time.monotonic() + self._limits.wait_seconds
                while 0 < self._n_rows < n_rows and not self._closed and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
            taken: list[Job] = []
            while self._jobs and (not taken or sum(job.n_rows for job in taken) + self._jobs[0].n_rows <= n_rows):
                taken.append(self._jobs.popleft())
            self._n_rows -= sum(job.n_rows for job in taken)
            return taken

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken in."""
        return self._closed

    def close(self) -> None:
        """Take in nothing more; what waits is still done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
