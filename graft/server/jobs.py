"""Jobs: what requests ask of the model, with where their results go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from graft.mixture.generation.request import GenerationRequest
from graft.server.batching import Row
from graft.server.classification import Question
from graft.server.resident import Names


@dataclass(eq=False, kw_only=True)
class Job:
    """Work for the model.

    Attributes:
        result: given its value, or its error, by the model's thread; one that is abandoned before it begins
            has none.
        is_abandoned: nobody waits for it any more.
    """

    result: Future[Any] = field(default_factory=Future)
    is_abandoned: bool = False

    def abandon(self) -> None:
        """Drop it, where it has not begun; what runs ends before the model's next pass, a generation's token too."""
        self.is_abandoned = True
        self.result.cancel()

    def fail(self, error: Exception) -> None:
        """Give it an error for its result, unless it has one, or is canceled."""
        with contextlib.suppress(InvalidStateError):
            self.result.set_exception(error)

    @property
    def n_rows(self) -> int:
        """How many rows of the queue's limit it takes."""
        return 1


@dataclass(eq=False, kw_only=True)
class EmbedJob(Job):
    """Texts to embed: (n, width) fp32 unit vectors."""

    rows: list[Row]

    @property
    def n_rows(self) -> int:
        """One a text."""
        return len(self.rows)


@dataclass(eq=False, kw_only=True)
class ClassifyJob(Job):
    """Texts to label: an `Answer` each."""

    questions: list[Question]

    @property
    def n_rows(self) -> int:
        """One a question."""
        return len(self.questions)


@dataclass(eq=False, kw_only=True)
class GenerateJob(Job):
    """A prompt to continue; the result is why it ended, "stop" or "length".

    Attributes:
        request: of the engine; its id is no other's.
        take: called with every token but a last stop token, on the model's thread.
    """

    request: GenerationRequest
    take: Callable[[int], None]

    @property
    def skills(self) -> Names:
        """What it is written with."""
        skill = self.request.skill
        return () if skill is None else (skill,) if isinstance(skill, str) else tuple(skill)


@dataclass(eq=False, kw_only=True)
class CallJob(Job):
    """A function that needs the model to itself; its value is the result.

    Attributes:
        call: what is called, on the model's thread.
        leaves: a skill that no generation may carry when it is called; it waits for those that do.
        n_texts: that the model reads in it.
        undo: called after it where nobody waits for it any more, and was told that nothing came of it.
    """

    call: Callable[[], Any]
    leaves: str | None = None
    n_texts: int = 1
    undo: Callable[[], Any] | None = None

    @property
    def n_rows(self) -> int:
        """One a text."""
        return self.n_texts
