"""Generation as requests see it: prompts as jobs, and their tokens as text when they come."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from graft.mixture.generation.request import GenerationRequest
from graft.server.forms import ChatForm, CompletionForm, GenerationForm
from graft.server.jobs import GenerateJob
from graft.server.refusal import Refusal, refuse_tokens
from graft.server.resident import Names
from graft.server.service import Service
from graft.server.text_writer import TextWriter

_numbers = itertools.count()


@dataclass(frozen=True)
class Part:
    """A part of an answer.

    Attributes:
        index: of the prompt.
        text: what is new.
        finished: why the answer ends with it; None where it goes on.
    """

    index: int
    text: str
    finished: str | None = None


class Answers:
    """The answers to the prompts of one request, as they are written.

    Args:
        service: what runs them.
        prompts: their tokens.
        form: how to write.
        chosen: what each is written with.
        most_tokens: of each answer, as `limit_answers` gives them.
    """

    def __init__(
        self,
        service: Service,
        prompts: Sequence[list[int]],
        form: GenerationForm,
        chosen: Sequence[Names],
        most_tokens: Sequence[int],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._events: asyncio.Queue[tuple[int, int | None]] = asyncio.Queue()
        self._writers = [TextWriter(service.decoder, prompt, form.stops) for prompt in prompts]
        self.n_prompt = sum(map(len, prompts))
        self._jobs = [
            self._open(i, prompt, form, skills, most)
            for i, (prompt, skills, most) in enumerate(zip(prompts, chosen, most_tokens, strict=True))
        ]

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens so far."""
        written = sum(writer.n_tokens for writer in self._writers)
        return {"prompt_tokens": self.n_prompt, "completion_tokens": written, "total_tokens": self.n_prompt + written}

    def start(self) -> None:
        """Hand the prompts to the model.

        Raises:
            Refusal: there is no room for all of them.
        """
        self._service.thread.submit(*self._jobs)

    def abandon(self) -> None:
        """Drop what is still written."""
        for job in self._jobs:
            if not job.result.done():
                job.abandon()

    async def parts(self) -> AsyncIterator[Part]:
        """Yield the texts as they come; what is still written is dropped where nobody reads on."""
        left = set(range(len(self._jobs)))
        try:
            while left:
                index, token = await self._events.get()
                part = self._write(index, token) if index in left else None
                if part is not None:
                    if part.finished is not None:
                        left.remove(index)
                    yield part
        finally:
            self.abandon()

    def _write(self, index: int, token: int | None) -> Part | None:
        """Return what an event brings: a token, or (None) the end."""
        job, writer = self._jobs[index], self._writers[index]
        if token is None:
            return Part(index, writer.finish(), "stop" if writer.is_stopped else job.result.result())
        text = writer.write(token)
        if writer.is_stopped:
            job.abandon()
            return Part(index, text, "stop")
        return Part(index, text) if text else None

    def _open(self, index: int, prompt: list[int], form: GenerationForm, skills: Names, most: int) -> GenerateJob:
        request = GenerationRequest(
            id=next(_numbers),
            tokens=prompt,
            skill=skills or None,
            max_new_tokens=most,
            temperature=1.0 if form.temperature is None else form.temperature,
            top_p=1.0 if form.top_p is None else form.top_p,
            seed=None if form.seed is None else (form.seed + index) % 2**63,
            stop_tokens=self._service.stop_tokens,
        )
        job = GenerateJob(request=request, take=lambda token: self._tell(index, token))
        job.result.add_done_callback(lambda _: self._tell(index, None))
        return job

    def _tell(self, index: int, token: int | None) -> None:
        """Tell the loop of the request, from the model's thread; the loop may be closed by then."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, token))


def limit_answers(service: Service, prompts: Sequence[Sequence[int]], form: CompletionForm | ChatForm) -> list[int]:
    """Return how many tokens each answer may have: what the form says, or the usual number as far as there is room.

    Raises:
        Refusal: a prompt leaves no room for its answer, or too many tokens are asked for; the line says what fits.
    """
    limits, longest, asked = service.limits, service.context, form.most_tokens
    if asked is not None and asked > limits.new_tokens:
        raise Refusal(400, f"max_tokens may be {limits.new_tokens:,}, not {asked:,}", code="tokens")
    share = (limits.tokens - sum(map(len, prompts))) // len(prompts)
    usual = min(form.usual_tokens, limits.new_tokens, share)
    most = [max(1, min(usual, longest - len(ids))) if asked is None else asked for ids in prompts]
    for ids, n_new in zip(prompts, most, strict=True):
        if not ids:
            raise Refusal(400, "the prompt has no token")
        if len(ids) + n_new > longest:
            fact = f"{len(ids):,} tokens of the prompt and {n_new:,} to write"
            raise Refusal(400, f"{fact} are more than the model reads: {longest:,}", code="context_length_exceeded")
    if (n_tokens := sum(map(len, prompts)) + sum(most)) > limits.tokens:
        raise refuse_tokens(n_tokens, limits.tokens)
    return most
