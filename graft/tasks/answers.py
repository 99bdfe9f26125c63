"""Answers: a row of the completion head as token ids, with the tokens that are learned and those that are the answer.

The tokens are those of TRL's SFTTrainer. A plain prompt and its completion, with the token for the end of a text after
it, are tokenized as one text, and the completion begins where that first differs from the prompt alone. In a chat it is
the assistant's turn by the tokenizer's own template (`graft.tasks.chat`). What is longer than the limit is cut at the
end. The answer, by which a row is right or wrong, is the completion, or the assistant's last turn, up to the token that
ends it.

    prompt "2 + 2 ="  completion " 4"      ids      2  +  2  =  4  </s>
                                           learned  .  .  .  .  x  x
                                           answer               4  </s>      start 4
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graft.errors import CheckpointError, ConfigError, DataError
from graft.specs.task import TaskSpec
from graft.tasks.chat import ASSISTANT, Turn, end_token, render, render_answer, require_template
from graft.tasks.examples import Example
from graft.tasks.prompt import PromptEncoder, common_prefix


@dataclass(frozen=True)
class Answered:
    """A row's tokens.

    Attributes:
        ids: at most as many as the limit.
        learned: for each whether the loss is over it.
        context: the tokens before the answer, all of them.
        answer: its tokens, the one that ends it included, all of them.
        is_cut: whether the limit leaves a part of the answer out.
        is_joined: whether the answer's first characters share a token with the prompt's last.
    """

    ids: tuple[int, ...]
    learned: tuple[bool, ...]
    context: tuple[int, ...]
    answer: tuple[int, ...]
    is_cut: bool
    is_joined: bool = False

    @functools.cached_property
    def n_learned(self) -> int:
        """How many tokens the loss is over."""
        return sum(self.learned)


class AnswerEncoder:
    """Encodes the rows of a task, each once.

    Args:
        tokenizer: of the model at hand.
        task: whose head says how prompt and completion are put together.
        limit: longest input in tokens.

    Raises:
        ConfigError: a chat is asked for, and the tokenizer's template cannot be used for one.
        CheckpointError: a plain text is asked for, and the tokenizer has no token that ends one.
    """

    def __init__(self, tokenizer: Any, task: TaskSpec, limit: int) -> None:
        self._tokenizer, self._head, self._limit = tokenizer, task.head, limit
        self._prompts = PromptEncoder(tokenizer, task.head.pattern.replace("{prompt}", "{text}"), "completion", limit)
        self._known: dict[tuple[Example, int], Answered] = {}
        self.ends = {tokenizer.eos_token_id} - {None}  # any of these tokens ends an answer
        if task.messages is not None or task.head.chat:
            require_template(tokenizer)
            self.ends |= {end_token(tokenizer)} - {None}
        elif not self.ends:
            raise CheckpointError("the tokenizer has no token for the end of a text, by which a completion ends")

    def encode(self, examples: Sequence[Example], name: str = "") -> list[Answered]:
        """Return the tokens of rows, of a set that goes by a name.

        Raises:
            DataError: the chat template refuses a row's turns, or marks none of the assistant's tokens; the row is
                named by its place among these examples and by its first words.
        """
        size = len(self._tokenizer)  # a patch may have added tokens
        for number, example in enumerate(examples, start=1):
            if (example, size) in self._known:
                continue
            try:
                self._known[example, size] = self._encode(example)
            except ConfigError as error:
                first = " ".join(example.texts[0].split())[:40]
                where = f"{name and f'{name}, '}example {number:,} of {len(examples):,}, which begins {first!r}"
                raise DataError(f"{where}: {error}") from error
        return [self._known[example, size] for example in examples]

    def _encode(self, example: Example) -> Answered:
        if example.roles:
            turns = self._with_system(map(Turn, example.roles, example.texts))
            ids, learned = render(self._tokenizer, turns)
            return self._finish(ids, learned, _last_run(learned))
        prompt, answer = example.texts
        if self._head.chat:
            asked = Turn("user", self._prompts.before((prompt,)).strip())
            ids, start = render_answer(self._tokenizer, self._with_system([asked, Turn(ASSISTANT, answer)]))
            return self._finish(ids, _from(start, ids), start)
        before, end = self._prompts.before((prompt,)), self._tokenizer.eos_token
        text = self._prompts.fill((prompt,), answer)
        ids = self._prompts.encode_open(text if text.endswith(end) else text + end)
        start = common_prefix(self._prompts.encode_open(before), ids)
        is_joined = start < len(self._prompts.encode_open(before.rstrip()))
        return self._finish(ids, _from(start, ids), start, is_joined)

    def _with_system(self, turns: Any) -> list[Turn]:
        turns, system = list(turns), self._head.system
        return turns if system is None or turns[0].role == "system" else [Turn("system", system), *turns]

    def _finish(self, ids: Sequence[int], learned: Sequence[bool], start: int, is_joined: bool = False) -> Answered:
        n_said = next((i for i, flag in enumerate(learned[start:]) if not flag), len(ids) - start)
        said = ids[start : start + n_said]
        end = next((i + 1 for i, token in enumerate(said) if token in self.ends), len(said))
        kept = [i > 0 and flag for i, flag in enumerate(learned)]  # a token without any before it has no probability
        return Answered(
            ids=tuple(ids[: self._limit]),
            learned=tuple(kept[: self._limit]),
            context=tuple(ids[:start]),
            answer=tuple(said[:end]),
            is_cut=start + end > self._limit,
            is_joined=is_joined,
        )


def _from(start: int, ids: Sequence[int]) -> list[bool]:
    return [i >= start for i in range(len(ids))]


def _last_run(learned: Sequence[bool]) -> int:
    """Return where the last run of learned tokens begins.

    Raises:
        ConfigError: there is none.
    """
    if True not in learned:
        raise ConfigError("the tokenizer's chat template marks none of the assistant's tokens")
    last = len(learned) - 1 - list(reversed(learned)).index(True)
    return next((i + 1 for i in range(last, -1, -1) if not learned[i]), 0)
