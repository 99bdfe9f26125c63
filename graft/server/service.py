"""Service: what the routes share; it takes a request's work to the model's thread, and waits for it."""

from __future__ import annotations

import asyncio
import copy
import hmac
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from graft.server.jobs import CallJob, Job
from graft.server.metrics import Metrics
from graft.server.model_thread import ModelThread
from graft.server.refusal import Refusal
from graft.server.resident import Resident
from graft.server.stop_tokens import ends_of
from graft.tasks.chat import mark_tokens

T = TypeVar("T")


class Hangup(Exception):
    """The client is gone."""


class Service:
    """A resident model with its thread, and what requests are read by.

    Attributes:
        resident, limits, metrics, thread: as they are called.
        decoder: a tokenizer for the thread of requests, which turns tokens into text.
        stop_tokens: at which an answer ends.
        turn_marks: the tokens by which a chat is told apart into turns; none without a chat template.
        context: tokens that the model reads.
    """

    def __init__(self, resident: Resident, *, token: str | None = None) -> None:
        self.resident, self.limits, self.metrics = resident, resident.limits, Metrics()
        self.thread = ModelThread(resident, self.metrics)
        self._token = token
        # a tokenizer cannot be used by two threads at once: the model's has one, and those of requests their own
        self._encoder, self.decoder = (copy.deepcopy(resident.head.tokenizer) for _ in range(2))
        self._reader = ThreadPoolExecutor(1, "reader")
        self.metrics.skills.set_function(lambda: len(resident.skills))
        self.stop_tokens = ends_of(resident.head.model, resident.head.tokenizer)
        self.turn_marks = _marks_of(resident.head.tokenizer)
        self.context = min(resident.embedding.limit, 2**31)

    def start(self) -> None:
        """Start the model's thread."""
        self.thread.start()

    def close(self) -> None:
        """Finish what was taken in, and stop."""
        self.thread.close(self.limits.drain_seconds)
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def read(self, function: Any, *arguments: Any) -> Any:
        """Call function(tokenizer, …) on the thread that reads texts."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, function, self._encoder, *arguments)

    async def run(self, job: Job, request: Any) -> Any:
        """Run a job; it is abandoned where the client hangs up, or time runs out.

        Raises:
            Refusal: there is no room for it.
            Hangup: the client is gone.
        """
        self.thread.submit(job)
        try:
            return await self.unless_gone(asyncio.wrap_future(job.result), request)
        finally:
            if not job.result.done():
                job.abandon()

    async def unless_gone(self, work: Awaitable[T], request: Any) -> T:
        """Wait for some work, unless the client hangs up; it is canceled then.

        Raises:
            Hangup: the client is gone.
        """
        result = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_wait_for_hangup(request))
        try:
            await asyncio.wait((result, gone), return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise Hangup
            return result.result()
        finally:
            gone.cancel()
            result.cancel()

    async def call(self, function: Any, request: Any, **more: Any) -> Any:
        """Call a function that needs the model to itself, on its thread; `more` is of the `CallJob`."""
        return await self.run(CallJob(call=function, **more), request)

    def authorize(self, header: str | None) -> None:
        """Refuse a request that changes the server, and does not carry its token.

        Raises:
            Refusal: the token is missing or wrong (401), or the server has none (403).
        """
        if self._token is None:
            raise Refusal(403, "this server's skills cannot be changed: it was started without --token-env")
        scheme, _, given = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token.encode()):
            raise Refusal(401, "this needs the server's token: Authorization: Bearer …", WWW_Authenticate="Bearer")


def _marks_of(tokenizer: Any) -> frozenset[int]:
    return frozenset(mark_tokens(tokenizer)) if tokenizer.chat_template else frozenset()


async def _wait_for_hangup(request: Any) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
