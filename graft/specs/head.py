"""The block `head` of a TASK file: the kind of head and what it reads."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from graft.specs.block import Block
from graft.specs.ranges import Count, OneOf
from graft.tasks.registry import HEADS, HeadEntry

SECOND = "{text_b}"


@dataclass(frozen=True)
class HeadSpec(Block):
    """The way in which a model's outputs become logits over the labels.

    Attributes:
        kind: which head of `graft.tasks.registry` reads labels off the model's outputs.
        texts: similarity: one text per label; the label names where absent. Texts that hold {text_b} are, for a pair,
            what its second text would be under each label, and are compared with the first text alone.
        template: similarity: a text in whose "{}" each label text, or choice, is put; "{}" where absent. verbalizer,
            where it is required: such as "{text} It was {mask}."; under a causal model {mask} comes last. choice: such
            as "Question: {text} Answer: {choice}", {choice} last; "{text} {choice}" where absent. The texts of a pair
            are {text_a} and {text_b}. completion: such as "{prompt}\\nAnswer: {completion}", {completion} last;
            "{prompt}{completion}" where absent; of a chat what is before {completion} is the user's turn.
        words: verbalizer: one word per label, each a single token; the label names where absent.
        normalize: choice: what the log likelihood of a choice is divided by: "none" (by nothing), its "tokens" (where
            absent) or its UTF-8 "bytes".
        chat: put the prompt into the tokenizer's chat template as the user's turn, and what follows it (word, choice or
            completion) at the start of the assistant's.
        system: text of the system's turn before a chat that has none.
        answer: completion: a regular expression that finds the answer in a completion, such as
            "#### (-?[0-9.,]+)"; its first group, or all of it, is compared. Where absent the whole completion is.
        max_new_tokens: completion: most tokens that the model may write; 16 more than the longest completion of the
            set where absent.
    """

    kind: Annotated[str, OneOf(HEADS)] = "similarity"
    texts: tuple[str, ...] | None = None
    template: str | None = None
    words: tuple[str, ...] | None = None
    normalize: Literal["none", "tokens", "bytes"] | None = None
    chat: bool | None = None
    system: str | None = None
    answer: str | None = None
    max_new_tokens: Count | None = None

    def __post_init__(self) -> None:
        """Refuse keys that the kind does not read, and a template without a slot.

        Raises:
            ValueError: naming the key and the kinds that it goes with.
        """
        super().__post_init__()
        for key in (field.name for field in dataclasses.fields(self) if field.name != "kind"):
            if getattr(self, key) is not None and key not in self.entry.keys:
                kinds = " and ".join(name for name, entry in HEADS.items() if key in entry.keys)
                raise ValueError(f"{key} goes with kind {kinds}, not with {self.kind}")
        if self.entry.slot == "{}" and "{}" not in self.pattern:
            raise ValueError("template needs a {} where the label text goes")
        if self.entry.slot is not None and self.template is None and self.entry.template is None:
            raise ValueError(f'the {self.kind} needs a template, such as "{self.entry.example}"')
        if self.answer is not None:
            _require_pattern(self.answer)

    @property
    def entry(self) -> HeadEntry:
        """Return the registry's row of the kind."""
        return HEADS[self.kind]

    @property
    def pattern(self) -> str:
        """Return the template, or that of the kind where none is given; empty for a kind without."""
        return (self.entry.template or "") if self.template is None else self.template

    @property
    def completes_pairs(self) -> bool:
        """Return whether label texts are made of each row's second text."""
        return any(SECOND in text for text in self.texts or ())

    def check_for(self, *, labels: int, pair: bool, choices: bool, messages: bool = False) -> None:
        """Refuse what does not go with the rest of the TASK file.

        Args:
            labels: how many labels the task has.
            pair: whether a row has two texts.
            choices: whether a row has choices of its own.
            messages: whether a row is the messages of a chat.

        Raises:
            ValueError: it does not go together; the message says why.
        """
        self._check_columns(labels, pair, choices)
        if self.completes_pairs and not pair:
            raise ValueError(f"head.texts with {SECOND} need a pair: text: [first column, second column]")
        if choices and self.texts is not None:
            raise ValueError("head.texts belong to labels: with choices each row brings its own")
        for key in ("texts", "words"):
            values = getattr(self, key)
            if values is not None and len(values) != labels:
                raise ValueError(f"head.{key} has {len(values)} {key} for {labels} labels")
        self._check_chat(messages)
        slot = self.entry.slot
        if slot not in (None, "{}"):
            _check_places(self.pattern, [*self._places(pair), str(slot)], str(slot))
        if self.entry.ends_with_slot and not self.pattern.endswith(str(slot)):
            raise ValueError(f"head.template must end with {slot}: its likelihood is that after all the rest")

    def _places(self, pair: bool) -> list[str]:
        """Return the places of a row's texts in a template."""
        if self.entry.has_answers:
            return ["{prompt}"]
        return ["{text_a}", "{text_b}"] if pair else ["{text}"]

    def _check_chat(self, messages: bool) -> None:
        if messages and (self.template is not None or self.chat is False):
            key = "chat: false" if self.template is None else "template"
            raise ValueError(f"head.{key} goes with prompts: messages are put into the tokenizer's chat template")
        if self.chat and not self.pattern.endswith(str(self.entry.slot)):
            raise ValueError(f"head.template must end with {self.entry.slot}: in a chat it begins the assistant's turn")
        if self.system is not None and not (self.chat or messages):
            raise ValueError("head.system is a turn of a chat: it goes with chat: true or with messages")

    def _check_columns(self, labels: int, pair: bool, choices: bool) -> None:
        if choices and self.entry.choices == "refused":
            kinds = " and ".join(name for name, entry in HEADS.items() if entry.choices != "refused")
            raise ValueError(f"choices go with head.kind {kinds}, not with {self.kind}")
        if not choices and self.entry.choices == "required":
            raise ValueError(f"head.kind {self.kind} needs choices: the column that holds each row's list of texts")
        if not self.entry.has_labels and (labels or pair):
            read = "prompts and completions, or messages," if self.entry.has_answers else "one text column"
            raise ValueError(f"head.kind {self.kind} reads {read}{' and no labels' if labels else ''}")


def _require_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"answer: {pattern!r} is no regular expression ({error})") from error


def _check_places(template: str, allowed: list[str], slot: str) -> None:
    slots = re.findall(r"\{\w*\}", template)
    if set(slots) != set(allowed) or slots.count(slot) != 1:
        raise ValueError(f"head.template {template!r} must hold {', '.join(allowed)} and no other place, {slot} once")
