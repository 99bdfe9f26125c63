"""Text of tokens as they come: whole characters alone, and nothing from a stop text on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_CONTEXT = 6  # tokens of the prompt before an answer, which tell whether it begins with a space
_MOST_BYTES = 4  # of a character, each of which may be a token
_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a part of a character decodes to


class TextWriter:
    """The text of an answer, token by token.

    Args:
        tokenizer: which decodes.
        prompt: the tokens before it.
        stops: texts at which it ends; they are left out.

    Attributes:
        n_tokens: tokens so far.
        is_stopped: whether one of the stop texts came.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._tokens = self._context_of(prompt)
        self._start, self._read = 0, len(self._tokens)  # where decoding begins, and what was decoded before
        self._stops = tuple(stops)
        self._held = ""  # decoded, and perhaps the beginning of a stop text
        self.n_tokens = 0
        self.is_stopped = False

    def _context_of(self, prompt: Sequence[int]) -> list[int]:
        """Return the last tokens of a prompt, from the beginning of a character on.

        A tokenizer that writes bytes for characters it lacks decodes none of those that follow a part of one.
        """
        contexts = [list(prompt[-n:]) for n in range(_CONTEXT, _CONTEXT + _MOST_BYTES)]
        return min(contexts, key=lambda context: self._decode(context).count(_BROKEN))

    def write(self, token: int) -> str:
        """Add a token, and return the text that is certain now."""
        if self.is_stopped:
            return ""
        self._tokens.append(token)
        self.n_tokens += 1
        before = self._decode(self._tokens[self._start : self._read])
        text = self._decode(self._tokens[self._start :])
        if text.endswith(_BROKEN) or len(text) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._tokens)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """Return what was held back."""
        before = self._decode(self._tokens[self._start : self._read])
        rest = self._decode(self._tokens[self._start :])[len(before) :]
        text = self._release(rest) if rest else ""
        held, self._held = ("" if self.is_stopped else self._held), ""
        return text + held

    def _release(self, more: str) -> str:
        text = self._held + more
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:  # the one that is complete first ends the answer, however its tokens come
            self.is_stopped, self._held = True, ""
            return text[: min(found)[1]]
        n_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text begin a stop text."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
