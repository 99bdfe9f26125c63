"""Forms: what requests may say, each a dataclass that is read strictly; what would be ignored is refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from graft.errors import ConfigError
from graft.files.header import check_nodes
from graft.server.refusal import Refusal
from graft.specs.block import Block
from graft.specs.ranges import Above, Between, Count, NoText, Within
from graft.specs.reader import read_config

T = TypeVar("T")
Text = str | tuple[str, ...]  # one text, or a pair of them
MOST_VALUES = 2**15  # of a body, keys among them: a message of a chat has five
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a skill


@dataclass(frozen=True)
class EmbeddingForm(Block):
    """A request of /v1/embeddings."""

    input: str | tuple[str, ...]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        super().__post_init__()
        _refuse_given(self, dimensions=None)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, of which there may be one without a list."""
        return (self.input,) if isinstance(self.input, str) else self.input


@dataclass(frozen=True)
class StreamOptions(Block):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool = False

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        super().__post_init__()
        _refuse_given(self, include_obfuscation=False)


@dataclass(frozen=True, kw_only=True)
class GenerationForm(Block):
    """What the requests of both ways to generate have in common."""

    model: str | None = None
    temperature: Annotated[float, NoText(), Within(0, 2)] | None = None
    top_p: Annotated[float, NoText(), Above(0, most=1)] | None = None
    seed: Annotated[int, Between(0, 2**63 - 1)] | None = None
    stop: str | tuple[str, ...] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    presence_penalty: Annotated[float, NoText()] | None = None
    frequency_penalty: Annotated[float, NoText()] | None = None
    user: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is not offered, or is too much of it."""
        super().__post_init__()
        _refuse_given(self, n=1, presence_penalty=0, frequency_penalty=0)
        if len(self.stops) > 4 or not all(self.stops) or any(len(stop) > 256 for stop in self.stops):
            raise ValueError("stop must be up to 4 texts of 1 to 256 characters")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options go with stream: true")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts at which an answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


@dataclass(frozen=True, kw_only=True)
class CompletionForm(GenerationForm):
    """A request of /v1/completions."""

    usual_tokens: ClassVar = 16  # OpenAI's default

    prompt: str | tuple[str, ...]
    max_tokens: Count | None = None
    echo: bool | None = None
    best_of: int | None = None
    logprobs: int | None = None
    suffix: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        super().__post_init__()
        _refuse_given(self, echo=False, best_of=1, logprobs=None, suffix=None)

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts, of which there may be one without a list."""
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be written; None where the request does not say."""
        return self.max_tokens


@dataclass(frozen=True)
class ContentPart(Block):
    """A part of what a message says."""

    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True)
class Message(Block):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant", "developer"]
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is not offered, and a turn that says nothing, as one that calls a tool would."""
        super().__post_init__()
        _refuse_given(self, name=None)
        if self.content is None:
            raise ValueError("content must be a text, or a list of parts of type text: there is none")

    @property
    def text(self) -> str:
        """What it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())


@dataclass(frozen=True, kw_only=True)
class ChatForm(GenerationForm):
    """A request of /v1/chat/completions."""

    usual_tokens: ClassVar = 256

    messages: tuple[Message, ...]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what is not offered."""
        super().__post_init__()
        _refuse_given(self, logprobs=False)
        if not self.messages:
            raise ValueError("messages must hold one or more")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens mean the same: give one of them")

    @property
    def most_tokens(self) -> int | None:
        """How many tokens may be written; None where the request does not say."""
        return self.max_completion_tokens or self.max_tokens


@dataclass(frozen=True)
class ClassifyForm(Block):
    """A request of /classify: texts, or pairs of texts, and the skills that each of them is read with.

    Attributes:
        texts: each one text, or a pair.
        skill: one skill, "a+b" for two composed, "base" for none.
        skills: several, each of which reads every text.
        task: the skill whose labels are asked for; the first of a row's own where absent.
    """

    texts: tuple[Text, ...]
    skill: str | None = None
    skills: tuple[str, ...] | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        """Refuse no texts, or two ways to name skills."""
        super().__post_init__()
        if (self.skill is None) == (self.skills is None):
            raise ValueError("name one skill, or a list of skills")
        if not all(isinstance(text, str) or len(text) == 2 for text in self.texts):
            raise ValueError("texts: each must be a text, or a pair of texts")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The skills, each of which reads every text."""
        return self.skills or () if self.skill is None else (self.skill,)


@dataclass(frozen=True)
class SkillForm(Block):
    """A request to add a skill from the Hub."""

    name: str
    repo: str
    revision: str | None = None

    def __post_init__(self) -> None:
        """Refuse names that a request could not say, or that mean something else."""
        super().__post_init__()
        check_name(self.name)


def check_name(name: str) -> None:
    """Refuse a name that no skill can have.

    Raises:
        ValueError: it holds other characters than a request's `model` may, or means the base.
    """
    if not NAME.fullmatch(name) or name in ("base", "auto"):
        raise ValueError(f"name must be up to 64 letters, digits, '.', '_' and '-', and not base or auto: {name!r:.80}")


def read_form(kind: type[T], body: bytes) -> T:
    """Read a request's body, in which a key whose value is null is as good as absent, however deep it lies.

    Raises:
        Refusal: it is not JSON, holds too many values, or says something else than the form may; the line says what.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_read_object)
        n_values = check_nodes(value)  # also that no half of a character is escaped, which is no text
    except (ValueError, RecursionError) as error:  # not UTF-8, and numbers of thousands of digits, among them
        fact = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refusal(400, f"the body is not JSON ({fact})") from error
    if n_values > MOST_VALUES:
        raise Refusal(400, f"the body holds {n_values:,} keys and values, more than {MOST_VALUES:,}", code="values")
    try:
        return read_config(kind, value, "request")
    except ConfigError as error:
        raise Refusal(400, str(error)[:500]) from error


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return {key: item for key, item in pairs if item is not None}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _refuse_given(form: object, **offered: object) -> None:
    """Refuse a value other than the only one that is offered; absent is as good."""
    for name, only in offered.items():
        if getattr(form, name) not in (None, only):
            raise ValueError(f"{name} is not offered" + ("" if only is None else f", unless it is {only!r}"))
