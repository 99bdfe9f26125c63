"""/v1/completions and /v1/chat/completions, in OpenAI's form, whole or as a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from graft.server.forms import ChatForm, CompletionForm, GenerationForm, Message
from graft.server.generation import Answers, Part, limit_answers
from graft.server.refusal import Refusal
from graft.server.routes.body import read_body
from graft.server.routes.choice import choose_skills, name_of_all
from graft.server.routes.embeddings import check_count
from graft.server.routes.sse import EventStream
from graft.server.service import Service
from graft.tasks.batches import run_tokenizer
from graft.tasks.chat import Turn, prompt_ids
from graft.tasks.prompt import PromptEncoder


@dataclass(frozen=True)
class Shape:
    """How one of the two routes writes its answers.

    Attributes:
        prefix: of ids.
        whole, part: names of the objects.
        choice: what a whole answer's choice holds: index, text.
        delta: what a part's choice holds: index, text, whether it is the first.
    """

    prefix: str
    whole: str
    part: str
    choice: Callable[[str], dict[str, Any]]
    delta: Callable[[str, bool], dict[str, Any]]


COMPLETION = Shape(
    "cmpl", "text_completion", "text_completion", lambda text: {"text": text}, lambda text, _: {"text": text}
)
CHAT = Shape(
    "chatcmpl",
    "chat.completion",
    "chat.completion.chunk",
    lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    lambda text, first: {"delta": ({"role": "assistant"} if first else {}) | {"content": text}},
)


async def complete(service: Service, request: Any) -> Any:
    """Continue prompts."""
    form = await read_body(CompletionForm, request, service)
    check_count(len(form.prompts), service)
    _require_writer(service)
    prompts = await service.read(_encode_prompts, form.prompts)
    most = limit_answers(service, prompts, form)
    chosen = await choose_skills(service, request, form.model, form.prompts)
    answers = Answers(service, prompts, form, chosen, most)
    return await _answer(service, request, form, COMPLETION, answers, name_of_all(chosen))


async def answer_chat(service: Service, request: Any) -> Any:
    """Answer a chat by the tokenizer's own template."""
    form = await read_body(ChatForm, request, service)
    _require_writer(service)
    prompt = await service.read(_encode_chat, form.messages, service.turn_marks)
    most = limit_answers(service, [prompt], form)
    said = "\n".join(message.text for message in form.messages if message.role == "user")
    chosen = await choose_skills(service, request, form.model, [said])
    answers = Answers(service, [prompt], form, chosen, most)
    return await _answer(service, request, form, CHAT, answers, name_of_all(chosen))


def _require_writer(service: Service) -> None:
    """Refuse to write where the base does not."""
    if service.resident.why_silent is not None:
        raise Refusal(422, service.resident.why_silent, code="no_lm")


def _encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    encoder = PromptEncoder(tokenizer, "{text}", "mask", 2**31)
    return [encoder.encode_open(prompt) for prompt in prompts]


def _encode_chat(tokenizer: Any, messages: Sequence[Message], marks: Collection[int]) -> list[int]:
    if not tokenizer.chat_template:
        raise Refusal(422, "the base's tokenizer has no chat template: use /v1/completions", code="no_template")
    _refuse_marks(tokenizer, messages, marks)
    roles = {"developer": "system"}  # newer clients' word for it
    turns = [Turn(roles.get(message.role, message.role), message.text) for message in messages]
    return prompt_ids(tokenizer, turns)


def _refuse_marks(tokenizer: Any, messages: Sequence[Message], marks: Collection[int]) -> None:
    """Refuse texts that hold a token by which the template marks turns: they could pass for turns of any role."""
    for number, message in enumerate(messages):
        ids = run_tokenizer(tokenizer, message.text, add_special_tokens=False, verbose=False)["input_ids"]
        if held := [token for token in ids if token in marks]:
            text = tokenizer.convert_ids_to_tokens(held[0])
            fact = f"messages[{number}]: the text holds {text!r}, a token by which the model tells turns apart"
            raise Refusal(400, fact, code="special_token")


async def _answer(
    service: Service, request: Any, form: GenerationForm, shape: Shape, answers: Answers, model: str
) -> Any:
    answers.start()
    head = {"id": f"{shape.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
    if form.stream:
        return EventStream(_stream(answers, form, shape, head | {"object": shape.part}), answers.abandon)
    parts = await service.unless_gone(_gather(answers), request)
    choices = [
        {"index": index, **shape.choice(text), "logprobs": None, "finish_reason": finished}
        for index, (text, finished) in sorted(parts.items())
    ]
    return {**head, "object": shape.whole, "choices": choices, "usage": answers.usage}


async def _gather(answers: Answers) -> dict[int, tuple[str, str | None]]:
    texts: dict[int, tuple[str, str | None]] = {}
    async for part in answers.parts():
        texts[part.index] = (texts.get(part.index, ("", None))[0] + part.text, part.finished)
    return texts


async def _stream(
    answers: Answers, form: GenerationForm, shape: Shape, head: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    """Yield an event for each part, then the usage where it is asked for."""
    begun: set[int] = set()
    async for part in answers.parts():
        yield {**head, "choices": [_chunk(shape, part, part.index not in begun)]}
        begun.add(part.index)
    if form.wants_usage:
        yield {**head, "choices": [], "usage": answers.usage}


def _chunk(shape: Shape, part: Part, first: bool) -> dict[str, Any]:
    return {"index": part.index, **shape.delta(part.text, first), "logprobs": None, "finish_reason": part.finished}
