"""Prompts: a template filled with a row's texts, as token ids; only the texts are ever cut.

Whole strings are tokenized, not parts that are then joined, so that a word has the same tokens as in running text,
however the tokenizer treats spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from graft.errors import DataError
from graft.tasks.batches import Texts, run_tokenizer


class PromptEncoder:
    """A template with its tokenizer.

    Args:
        tokenizer: of the model at hand.
        template: with {text}, or {text_a} and {text_b}, and the slot.
        slot: the name of the placeholder for something other than a row's text, such as "mask".
        limit: longest prompt in tokens.
    """

    def __init__(self, tokenizer: Any, template: str, slot: str, limit: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.slot = slot
        self.limit = limit
        special = run_tokenizer(tokenizer, "x", return_special_tokens_mask=True)["special_tokens_mask"]
        # an end-of-text token that the tokenizer adds would stand between a prompt and what follows it
        self._n_closing = list(reversed(special)).index(0) if 0 in special else 0

    def fill(self, texts: Texts, content: str) -> str:
        """Return the template with texts and slot filled in, in one pass: braces within a text stay."""
        return self._substitute(self.template, texts, content)

    def before(self, texts: Texts) -> str:
        """Return the filled template up to the slot."""
        return self._substitute(self.template.partition(f"{{{self.slot}}}")[0], texts, "")

    def opening(self, texts: Texts) -> str:
        """Return the filled template as a prompt to be continued: a space before the slot belongs to what follows."""
        return self.before(texts).rstrip()

    def encode(self, text: str) -> list[int]:
        """Return token ids with the special tokens that the tokenizer adds."""
        return list(run_tokenizer(self.tokenizer, text, verbose=False)["input_ids"])

    def encode_open(self, text: str) -> list[int]:
        """Return token ids as `encode` does, without special tokens at the end: a text to be continued."""
        ids = self.encode(text)
        return ids[: len(ids) - self._n_closing]

    def shorten(self, texts: Texts, length: Callable[[Texts], int]) -> Texts:
        """Shorten the texts, the longer one first, until `length` of them is within the limit.

        Raises:
            DataError: even one character of each is too long; the template or the choices are.
        """
        if length(texts) <= self.limit:
            return texts
        low, high = 1, max(map(len, texts))  # `low` characters fit, `high` do not
        if length(_cut(texts, low)) > self.limit:
            n = length(_cut(texts, low))
            raise DataError(
                f"{texts[0][:40]!r}: the prompt takes {n} tokens without its text, and max_length is {self.limit}"
            )
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if length(_cut(texts, middle)) <= self.limit else (low, middle)
        return _cut(texts, low)

    def _substitute(self, template: str, texts: Texts, content: str) -> str:
        names = ("text",) if len(texts) == 1 else ("text_a", "text_b")
        values = dict(zip(names, texts, strict=True)) | {self.slot: content}
        return re.sub(r"\{(\w+)\}", lambda placeholder: values[placeholder[1]], template)


def common_prefix(left: Sequence[object], right: Sequence[object]) -> int:
    """Return the length of the longest common prefix of two sequences of tokens, or of two texts."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))


def _cut(texts: Texts, characters: int) -> Texts:
    return tuple(text[:characters] for text in texts)
