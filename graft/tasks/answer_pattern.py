"""The answer within a text: what a task's pattern finds in it, in a form in which equal answers are equal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graft.errors import ConfigError


class AnswerPattern:
    """A regular expression that finds the answer.

    Args:
        pattern: its first group, or all of it where it has none, is the answer.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def find(self, text: str) -> str | None:
        """Return the first answer in a text, without space around it and without commas within numbers.

        None where there is none: nothing matches, or what matches is empty, as of a pattern of which all is optional.
        """
        found = self._pattern.search(text)
        if found is None:
            return None
        answer = found[1] if self._pattern.groups else found[0]
        return re.sub(r"(?<=\d),(?=\d{3})", "", (answer or "").strip()) or None

    def find_all(self, texts: Sequence[str]) -> list[str | None]:
        """Return the answers of the reference texts of a set.

        Raises:
            ConfigError: it finds none at all.
        """
        answers = [self.find(text) for text in texts]
        if texts and not any(answers):
            raise ConfigError(
                f"head.answer {self._pattern.pattern!r} finds no answer in any of {len(texts)} completions: "
                f"the first is {texts[0][:60]!r}"
            )
        return answers
