"""Encoding: what heads read of a request's texts, by the thread that reads texts and not the model's.

Each text is turned into tokens once a head, however often it is asked for, and only where there are not too many
characters; what the model would read is bounded by its tokens then, label texts that it has yet to embed among them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from graft.server.classification import Encoding, Question, completes_pairs, encode_for
from graft.server.limits import Limits
from graft.server.refusal import Refusal, refuse_tokens
from graft.server.resident import Names
from graft.tasks.batches import Encoded, Texts
from graft.tasks.head import Head
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.sharing import with_tokenizer


def encode_questions(
    tokenizer: Any,
    questions: Sequence[Question],
    heads: Mapping[str, Head],
    is_kept: Callable[[Names, str], bool],
    limits: Limits,
) -> list[Question]:
    """Return questions with what their heads read of them.

    Of label texts that would have to be embedded, with some skills, the longest do not count, so that a task can
    always be asked for alone.

    Args:
        tokenizer: a copy of the model's, which this thread alone uses.
        questions: of one request, which their heads can read (`require_readable`).
        heads: by task.
        is_kept: whether the label texts of a task, as skills embed them, are kept.
        limits: of characters, and of tokens.

    Raises:
        Refusal: too many characters or tokens.
        DataError, ConfigError, CheckpointError: as `Head.encode`.
    """
    encoders = {name: HeadEncoder(head, tokenizer) for name, head in heads.items()}
    asked = dict.fromkeys((question.task, question.texts) for question in questions)
    sets = dict.fromkeys((question.skills, question.task) for question in questions)
    new = [task for skills, task in sets if encoders[task].has_label_texts and not is_kept(skills, task)]
    n_characters = sum(encoders[task].count_characters(texts) for task, texts in asked)
    n_characters += _all_but_most([encoders[task].n_label_characters for task in dict.fromkeys(new)])
    if n_characters > limits.characters:
        fact = f"{n_characters:,} characters, counted once for each head that reads them"
        raise Refusal(400, f"{fact}, are more than {limits.characters:,} in one request", code="characters")
    read = {(task, texts): encoders[task].read(texts, with_labels=task in new) for task, texts in asked}
    n_labels = _all_but_most([_count_tokens(encoders[task].label_texts) for task in new])
    n_tokens = sum(_count_tokens(read[question.task, question.texts].rows) for question in questions)
    if n_tokens + n_labels > limits.tokens:
        raise refuse_tokens(n_tokens + n_labels, limits.tokens, n_labels)
    return [dataclasses.replace(question, encoding=read[question.task, question.texts]) for question in questions]


class HeadEncoder:
    """What a head reads of texts, by a tokenizer that is not the model's own.

    Args:
        head: of the model.
        tokenizer: a copy of its tokenizer.

    Attributes:
        has_label_texts: whether the head embeds texts of its labels, the same for every row.
    """

    def __init__(self, head: Head, tokenizer: Any) -> None:
        self._head, self._apart = head, with_tokenizer(head, tokenizer)
        self.has_label_texts = isinstance(head, SimilarityHead) and not completes_pairs(head)

    @cached_property
    def label_texts(self) -> list[Encoded]:
        """The label texts as tokens, each cut to the head's limit."""
        assert isinstance(self._apart, SimilarityHead)
        return self._apart.encode(self._apart.label_texts)

    @cached_property
    def n_label_characters(self) -> int:
        """The characters of the label texts."""
        assert isinstance(self._apart, SimilarityHead)
        return sum(len(text) for (text,) in self._apart.label_texts)

    def count_characters(self, texts: Texts) -> int:
        """Return how many characters are turned into tokens for a text, or a pair of texts."""
        if not completes_pairs(self._head):
            return sum(map(len, texts))
        n_written, n_places = self._label_size
        return len(texts[0]) + n_written + n_places * len(texts[1])

    @cached_property
    def _label_size(self) -> tuple[int, int]:
        """The characters of all label texts without a pair's second text, and how often that stands in them."""
        assert isinstance(self._head, SimilarityHead)
        without, within = (sum(len(text) for (text,) in self._head.label_texts_for(second)) for second in ("", "x"))
        return without, within - without

    def read(self, texts: Texts, *, with_labels: bool) -> Encoding:
        """Return a text, or a pair of texts, as the head reads it, beside the label texts where they are asked for."""
        return Encoding(self._head, encode_for(self._apart, texts), self.label_texts if with_labels else None)


def _count_tokens(rows: Sequence[Encoded]) -> int:
    return sum(len(row.ids) for row in rows)


def _all_but_most(sizes: Sequence[int]) -> int:
    return sum(sizes) - max(sizes, default=0)
