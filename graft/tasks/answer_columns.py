"""Results of answers: what is right and how sure the model is, a number each, from which every metric is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.tasks.answer_pattern import AnswerPattern
from graft.tasks.answers import Answered

_CUT = -1  # no token: before what is written beside a reference that is cut, so that it is another answer


@dataclass(frozen=True, eq=False)
class AnswerColumns:
    """Columns of answers, in the order of the examples: (n,) each."""

    label: np.ndarray  # int64, of the reference: equal answers have equal numbers
    predicted: np.ndarray  # int64, of what is written; negative where that holds no answer: no match, or no end
    confidence: np.ndarray  # fp64, the probability of all that is written
    log_likelihood: np.ndarray  # fp64, nats, ln of the probability of the learned tokens
    squared_error: np.ndarray  # fp64, 2 (confidence - correct)^2, the Brier score of being right and being wrong, 0..2
    n_tokens: np.ndarray  # int64, the learned tokens
    n_classes: int = 0  # answers are no classes

    @property
    def unanswered(self) -> float:
        """The share of rows for which no answer is written."""
        return float((self.predicted < 0).mean())


@dataclass(frozen=True, eq=False)
class Comparison:
    """The way in which what a model writes is compared with a row's answer.

    Attributes:
        tokenizer: of the model.
        ends: tokens that end an answer.
        pattern: finds what is compared in both; None where all of their tokens are.
    """

    tokenizer: Any
    ends: set[int]
    pattern: AnswerPattern | None

    def compare(self, row: Answered, written: Sequence[int]) -> tuple[int, int]:
        """Return numbers of the reference and of what is written, which are equal where the answers are."""
        if self.pattern is not None:
            found = self.pattern.find(self.text_of(written))
            said = _number_unanswered(written) if found is None else _number(found)
            return _number(self.pattern.find(self.text_of(row.answer))), said
        answer, text = list(row.answer), [_CUT] * row.is_cut + list(written)
        if answer[-1] not in self.ends:  # the template's turns end by plain text
            return _number(answer), _number(text[: len(answer)])
        has_end = bool(written) and written[-1] in self.ends
        return _number(answer[:-1]), _number(text[:-1]) if has_end else _number_unanswered(written)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Return the text in which a pattern looks for the answer.

        References are read off their tokens too: the space that a template has before an answer is in its first token,
        and some tokenizers do not give back every space, so that equal tokens would be unequal texts.
        """
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _number_unanswered(written: Sequence[int]) -> int:
    """Return a negative number, the same for equal tokens, so that two models agree where they write the same."""
    return -1 - _number(written)


def _number(answer: Sequence[int] | str | None) -> int:
    """Return a number of 63 bits that is the same for equal answers, in every process and of every model."""
    plain = answer if isinstance(answer, str | None) else list(answer)
    return int.from_bytes(hashlib.sha256(repr(plain).encode()).digest()[:8], "big") >> 1
