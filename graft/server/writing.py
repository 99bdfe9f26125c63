"""Writing: the generations that run, which join and leave between tokens."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from concurrent.futures import CancelledError

from graft.errors import ConfigError, DataError
from graft.mixture.generation.continuous_batch import ContinuousBatch
from graft.mixture.generation.prefix_cache import PrefixCache
from graft.server.jobs import GenerateJob
from graft.server.resident import Names, Resident
from graft.tasks.chat import Turn, prompt_ids
from graft.tasks.prompt import common_prefix

FEWEST_TOKENS, MOST_BYTES = 8, 2**28  # of a prefix that is kept; of all that is kept of it


class Writing:
    """Rows that are written on, a token of each at a step. The model's thread alone uses it.

    Raises:
        ConfigError: the base is no decoder that rows can share.
    """

    def __init__(self, resident: Resident) -> None:
        self._running: dict[Hashable, GenerateJob] = {}
        self._prefixes = open_prefixes(resident)
        self._batch = ContinuousBatch(resident.mixed, max_rows=resident.limits.batch_rows, prefixes=self._prefixes)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to write."""
        return not self._running

    @property
    def carried(self) -> set[Names]:
        """The skills of the rows that run."""
        return {job.skills for job in self._running.values()}

    def fits(self, jobs: Sequence[GenerateJob]) -> bool:
        """Return whether rows can join now; also where the last never could, which `join` says without delay."""
        return self._batch.fits([job.request for job in jobs]) or not self._batch.has_room(jobs[-1].request)

    def join(self, jobs: Sequence[GenerateJob]) -> None:
        """Let rows join before the next token; an error leaves those that run as they were.

        Raises:
            ConfigError: there is no room for them, or one of them could not join an empty batch; then none does.
        """
        self._batch.join([job.request for job in jobs])
        self._running |= {job.request.id: job for job in jobs}

    def step(self) -> int:
        """Write a token of every row, after those that nobody waits for have left; return how many rows there were.

        Whatever goes wrong in it is told to all that run, none of which goes on.
        """
        try:
            self._drop_abandoned()
            events = self._batch.step() if self._running else []
        except Exception as error:
            self.fail(error)
            return 0
        for event in events:
            job = self._running[event.id]
            if event.finished in (None, "length"):  # a stop token is no text
                job.take(event.token)
            if event.finished is not None:
                del self._running[event.id]
            if event.finished == "not_finite":
                job.result.set_exception(DataError("the model's outputs on this prompt are not finite"))
            elif event.finished is not None:
                job.result.set_result(event.finished)
        return len(events)

    def _drop_abandoned(self) -> None:
        for name in [name for name, job in self._running.items() if _is_dropped(job)]:
            del self._running[name]
            self._batch.cancel(name)

    def fail(self, error: Exception) -> None:
        """Tell all that run, and let them leave."""
        failed, self._running = list(self._running.values()), {}
        for job in failed:
            job.fail(error)
        self._batch.close()


def open_prefixes(resident: Resident) -> PrefixCache:
    """Return the keys and values of what every chat begins with, which is read once: the template's own system turn."""
    prefixes, tokenizer = PrefixCache(resident.mixed, max_bytes=MOST_BYTES), resident.head.tokenizer
    if tokenizer.chat_template:
        with contextlib.suppress(ConfigError):  # a template that wants other turns
            chats = [prompt_ids(tokenizer, [Turn("user", text)]) for text in ("a", "1")]
            shared = common_prefix(*chats)
            if shared >= FEWEST_TOKENS:
                prefixes.add(chats[0][:shared])
    return prefixes


def _is_dropped(job: GenerateJob) -> bool:
    if job.is_abandoned:
        job.fail(CancelledError())
    return job.is_abandoned
