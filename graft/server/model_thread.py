"""The model's thread: the only one that runs the model. It batches what requests of many skills ask for."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Any

import torch

from graft.errors import ConfigError
from graft.server.batching import embed_rows
from graft.server.classification import Answer, Classifier
from graft.server.jobs import CallJob, ClassifyJob, EmbedJob, GenerateJob, Job
from graft.server.metrics import Metrics
from graft.server.queue import JobQueue
from graft.server.refusal import SERVER, Refusal
from graft.server.resident import Names, Resident
from graft.server.writing import Writing


class ModelThread:
    """Runs jobs until it is closed: those without tokens at once and together, generations a token at a time.

    An error of a job is its own; should anything else fail, all jobs are, and no more are taken in.

    Attributes:
        resident: what it runs.
        queue: where jobs wait.
    """

    def __init__(self, resident: Resident, metrics: Metrics) -> None:
        self.resident = resident
        self.queue = JobQueue(resident.limits)
        self._metrics = metrics
        metrics.waiting.set_function(self.queue.__len__)
        resident.note_pass = self._note_pass
        self._classifier = Classifier(resident)
        self._writing = self._open_writing()
        self._leaving: deque[CallJob] = deque()
        self._taken: Sequence[Job] = ()  # from the queue, within a turn
        self._together_now: Sequence[Job] = ()  # which are computed as one batch at the moment
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def _open_writing(self) -> Writing | None:
        """Return what writes, unless the base does not, or not for several rows together."""
        if self.resident.why_silent is None:
            try:
                return Writing(self.resident)
            except ConfigError as error:
                self.resident.why_silent = str(error)
        return None

    def keeps_labels(self, skills: Names, task: str) -> bool:
        """Return whether label texts of a task need not be embedded with skills any more."""
        return self._classifier.keeps(skills, task)

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start."""
        self._thread.start()

    def submit(self, *jobs: Job) -> None:
        """Add the jobs of a request, all or none; raise `Refusal` where there is no room, or no more is taken in."""
        self.queue.put(*jobs)

    def close(self, seconds: float) -> None:
        """Finish what was taken in, for so long at most, and take in nothing more."""
        self.queue.close()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:
            self._give_up(error)
        self.resident.mixed.close()

    def _give_up(self, error: Exception) -> None:
        """Tell all that wait, and all that come, that nothing is run any more; and the operator why."""
        logging.getLogger("graft.server").error("the model's thread ended", exc_info=error)
        why = "the model's thread does not run"
        self.queue.close(why)
        for job in (*self._taken, *self._leaving, *self.queue.take_all()):
            job.fail(Refusal(503, why, SERVER))
        if self._writing is not None:
            with contextlib.suppress(Exception):  # of what is kept of them, which goes with the thread
                self._writing.fail(Refusal(503, why, SERVER))

    def _turn(self) -> bool:
        """Take what waits and run it, then write a token of every generation; return whether to go on."""
        is_busy, leaves = self._writing is not None and not self._writing.idle, bool(self._leaving)
        block = not is_busy and not leaves
        jobs = self.queue.take(self.resident.limits.batch_rows, block=block, fits=self._fits)
        if not jobs and block and self.queue.is_closed:
            return False
        self._taken = jobs
        self._start(jobs)
        if self._writing is not None and not self._writing.idle:
            n_rows = self._writing.step()
            self._metrics.tokens.inc(n_rows)
            if n_rows:
                self._metrics.batches.observe(n_rows)
        self._call_leaving()
        self._taken = ()
        return True

    def _fits(self, jobs: Sequence[GenerateJob]) -> bool:
        return self._writing is None or self._writing.fits(jobs)

    def _start(self, jobs: Sequence[Job]) -> None:
        """Run jobs in their order, those of one kind that follow each other together."""
        for kind, together in _runs(jobs):
            alive = [job for job in together if job.result.set_running_or_notify_cancel()]
            if not alive:
                continue
            if kind is CallJob:
                for job in alive:
                    self._call(job)  # type: ignore[arg-type]
            else:
                self._together(alive, _WAYS[kind](self))

    def _together(self, jobs: Sequence[Job], compute: Callable[[Sequence[Any]], Sequence[Any] | None]) -> None:
        """Run jobs as one batch; where that fails each alone, so that one request's error is no other's."""
        self._together_now = jobs
        try:
            results = compute(jobs)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            for job in jobs:
                self._together([job], compute)
            return
        finally:
            self._together_now = ()
        for job, result in zip(jobs, results or (), strict=False):
            job.result.set_result(result)

    def _require_wanted(self) -> None:
        """Stop what is computed where nobody waits for any of it; asked between passes of the model, and compositions.

        Raises:
            CancelledError: all jobs are abandoned.
        """
        if self._together_now and all(job.is_abandoned for job in self._together_now):
            raise CancelledError

    def _note_pass(self, n_rows: int) -> None:
        self._require_wanted()
        self._metrics.batches.observe(n_rows)

    def _embed(self, jobs: Sequence[EmbedJob]) -> list[torch.Tensor]:
        self._prepare(row.skills for job in jobs for row in job.rows)
        vectors = embed_rows(self.resident, [row for job in jobs for row in job.rows])
        return list(torch.split(vectors, [job.n_rows for job in jobs]))

    def _classify(self, jobs: Sequence[ClassifyJob]) -> list[list[Answer]]:
        questions = [question for job in jobs for question in job.questions]
        self._prepare(question.skills for question in questions)
        answers = iter(self._classifier.answer(questions))
        return [[next(answers) for _ in job.questions] for job in jobs]

    def _generate(self, jobs: Sequence[GenerateJob]) -> None:
        """Let generations join those that run; their results come with their last tokens."""
        self._prepare(job.skills for job in jobs)
        assert self._writing is not None
        self._writing.join(jobs)

    def _prepare(self, wanted: Any) -> None:
        self.resident.forget_composed(set() if self._writing is None else self._writing.carried)
        sets: set[Names] = set(wanted)
        for names in sorted(sets):
            self._require_wanted()
            self.resident.prepare(names)

    def _call(self, job: CallJob) -> None:
        if job.leaves is not None and self._is_carried(job.leaves):
            self._leaving.append(job)
            return
        if job.leaves is not None:
            self._classifier.forget(job.leaves)
        try:
            value = job.call()
            if job.undo is not None and job.is_abandoned:
                job.undo()
                raise CancelledError
        except Exception as error:
            job.fail(error)
        else:
            job.result.set_result(value)

    def _is_carried(self, name: str) -> bool:
        """Return whether a generation that runs, or waits for room to, has a skill."""
        running = set() if self._writing is None else self._writing.carried
        return any(name in names for names in (*running, *(job.skills for job in self.queue.generations)))

    def _call_leaving(self) -> None:
        for _ in range(len(self._leaving)):
            job = self._leaving.popleft()
            if job.is_abandoned:  # its client was told that nothing came of it
                job.fail(CancelledError())
            else:
                self._call(job)


_WAYS: dict[type[Job], Callable[[ModelThread], Callable[[Sequence[Any]], Sequence[Any] | None]]] = {
    EmbedJob: lambda thread: thread._embed,
    ClassifyJob: lambda thread: thread._classify,
    GenerateJob: lambda thread: thread._generate,
}


def _runs(jobs: Sequence[Job]) -> list[tuple[type[Job], list[Job]]]:
    """Group jobs by kind: calls keep their place among the others, which may pass each other."""
    runs: list[tuple[type[Job], list[Job]]] = []
    since_call: dict[type[Job], list[Job]] = {}
    for job in jobs:
        kind = type(job)
        if kind is CallJob:
            since_call = {}
            runs.append((kind, [job]))
        elif kind in since_call:
            since_call[kind].append(job)
        else:
            since_call[kind] = [job]
            runs.append((kind, since_call[kind]))
    return runs
