"""Results of answers: what is right and how sure the model is, a number each, from which every metric is computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graft.tasks.answer_pattern import AnswerPattern
from graft.tasks.answers import Answered

UNANSWERED = -1  # what was written holds no answer: no match of the pattern, or no end
_CUT = -2  # what is written stands beside a reference that is cut


@dataclass(frozen=True, eq=False)
class AnswerColumns:
    """Columns of answers, in the order of the examples: (n,) each."""

    label: np.ndarray  # int64, of the reference: equal answers have equal numbers
    predicted: np.ndarray  # int64, of what is written; `UNANSWERED` where that is no answer
    confidence: np.ndarray  # fp64, the probability of all that is written
    log_likelihood: np.ndarray  # fp64, nats, ln of the probability of the learned tokens
    squared_error: np.ndarray  # fp64, 2 (confidence - correct)^2, the Brier score of being right and being wrong, 0..2
    n_tokens: np.ndarray  # int64, the learned tokens
    n_classes: int = 0  # answers are no classes


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
            found = self.pattern.find(self.tokenizer.decode(list(written), skip_special_tokens=True))
            return _number(self.pattern.find(row.text)), UNANSWERED if found is None else _number(found)
        if row.answer[-1] not in self.ends:  # the template's turns end by plain text
            return _number(row.answer), _CUT if row.is_cut else _number(written[: len(row.answer)])
        has_end = bool(written) and written[-1] in self.ends
        said = UNANSWERED if not has_end else _CUT if row.is_cut else _number(written[:-1])
        return _number(row.answer[:-1]), said


def _number(answer: Sequence[int] | str | None) -> int:
    """Return a number of 63 bits that is the same for equal answers, in every process and of every model."""
    plain = answer if isinstance(answer, str | None) else list(answer)
    return int.from_bytes(hashlib.sha256(repr(plain).encode()).digest()[:8], "big") >> 1
