"""Queue: jobs that wait for the model, no more of them than there is room for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graft.server.jobs import GenerateJob, Job
from graft.server.limits import Limits
from graft.server.refusal import SERVER, Refusal, refuse_full

Fits = Callable[[Sequence[GenerateJob]], bool]


class JobQueue:
    """A bounded queue between the threads of requests and the model's.

    Generations wait in a line of their own, until rows that run have ended; other jobs, which need not wait for that,
    pass them, and find room although many generations wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._generations: deque[GenerateJob] = deque()
        self._others: deque[Job] = deque()
        self._closed: str | None = None  # why nothing more is taken in
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return how many rows wait, in both lines."""
        with self._changed:
            return _count_rows(self._generations) + _count_rows(self._others)

    @property
    def generations(self) -> list[GenerateJob]:
        """Generations that wait, and that somebody waits for."""
        with self._changed:
            return [job for job in self._generations if not job.result.cancelled()]

    def put(self, *jobs: Job) -> None:
        """Add the jobs of one request, all or none; they are of one kind.

        Raises:
            Refusal: their line is full (429), or nothing is taken in any more (503).
        """
        with self._changed:
            if self._closed is not None:
                raise Refusal(503, self._closed, SERVER, "stopping", Retry_After="5")
            line: deque[Any] = self._generations if isinstance(jobs[0], GenerateJob) else self._others
            self._require_room(line, _count_rows(jobs))
            line.extend(jobs)
            self._changed.notify()

    def _require_room(self, line: deque[Any], n_rows: int) -> None:
        """Refuse rows for which a line has no room; where it is empty, there is room for any request."""
        if _count_rows(line) + n_rows > self._limits.waiting:
            _drop_canceled(line)
            if line and _count_rows(line) + n_rows > self._limits.waiting:
                raise refuse_full(1)

    def take(self, n_rows: int, *, block: bool, fits: Fits = lambda jobs: True) -> list[Job]:
        """Take the jobs that have waited longest: generations as far as they fit, and of others a batch.

        Generations come first, so that a removal that is taken with them finds them running.

        Args:
            n_rows: of all other jobs together, unless one alone has more.
            block: wait for one, and then for others to share its batch; else return what is there. Returns none where
                the queue is closed and empty.
            fits: whether generations can join those that run.
        """
        with self._changed:
            if block:
                self._wait(n_rows)
            _drop_canceled(self._generations)
            _drop_canceled(self._others)
            joining: list[GenerateJob] = []
            while self._generations and fits([*joining, self._generations[0]]):
                joining.append(self._generations.popleft())
            taken: list[Job] = []
            while self._others and (not taken or _count_rows(taken) + self._others[0].n_rows <= n_rows):
                taken.append(self._others.popleft())
            return [*joining, *taken]

    def _wait(self, n_rows: int) -> None:
        self._changed.wait_for(lambda: self._generations or self._others or self.is_closed)
        end = time.monotonic() + self._limits.wait_seconds
        while 0 < len(self) < n_rows and not self.is_closed and (left := end - time.monotonic()) > 0:
            self._changed.wait(left)

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is taken in."""
        return self._closed is not None

    def close(self, why: str = "the server is about to stop") -> None:
        """Take in nothing more, and say why; what waits is still done."""
        with self._changed:
            self._closed = self._closed or why
            self._changed.notify_all()

    def take_all(self) -> list[Job]:
        """Take whatever waits."""
        with self._changed:
            taken = [*self._generations, *self._others]
            self._generations.clear()
            self._others.clear()
            return taken


def _count_rows(jobs: Iterable[Job]) -> int:
    return sum(job.n_rows for job in jobs)


def _drop_canceled(line: deque[Any]) -> None:
    """Leave out what nobody waits for any more, which takes up room."""
    if any(job.result.cancelled() for job in line):
        left = [job for job in line if not job.result.cancelled()]
        line.clear()
        line.extend(left)
