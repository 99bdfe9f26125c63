"""The completion head: the answer to a prompt, or in a chat, by a causal language model that writes it.

It learns as TRL's SFTTrainer does from prompt-completion rows, or from chats by the assistant's tokens alone: the loss
of a batch is the mean over its answers' tokens (`graft.tasks.answers` says which these are).

A row is right if the model writes its answer. The greedy answer is the reference, end included, exactly if each of the
reference's tokens is the most probable one after those before it: one forward pass over the reference tells, and only
rows that fail are written out, for what the model says in place of it. A reference of more tokens than the model may
write fails. Where a pattern finds the answer in a longer text, what it finds in both is compared. The confidence is the
probability of the whole answer that the model writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.errors import ConfigError, DataError
from graft.specs.task import TaskSpec
from graft.tasks.answer_columns import AnswerColumns, Comparison
from graft.tasks.answer_pattern import AnswerPattern
from graft.tasks.answers import Answered, AnswerEncoder
from graft.tasks.examples import Example
from graft.tasks.following import Flagged, Followed, follow, predict_flagged
from graft.tasks.generation import write_on
from graft.tasks.head import Head, Outputs
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import load_language_model
from graft.tasks.loading import tell_once
from graft.tensors.checkpoint import Checkpoint

_MARGIN = 16  # tokens that may be written beyond the longest reference


class CompletionHead(Head):
    """The cross-entropy of answers, and whether the model writes them."""

    predicts_tokens = True

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec) -> None:
        super().__init__(model, tokenizer, task)
        self._answers = AnswerEncoder(tokenizer, task, self.limit)
        self._pattern = None if task.head.answer is None else AnswerPattern(task.head.answer)
        self._most = task.head.max_new_tokens
        self._comparison = Comparison(tokenizer, self._answers.ends, self._pattern)

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> CompletionHead:
        """Load the causal language model of a folder."""
        loaded, tokenizer, _ = load_language_model(model, dtype, only="causal")
        return cls(loaded, tokenizer, task)

    def read(self, examples: Sequence[Example]) -> list[Answered]:
        """Return prompts with their answers, or chats."""
        return self._answers.encode(examples)

    def logits_of(self, rows: Sequence[Answered]) -> torch.Tensor:
        """Refuse, always.

        Raises:
            ConfigError: answers have no labels; use `loss`, `accuracy` and `predict_columns`.
        """
        raise ConfigError("head.kind completion writes answers and has no labels: choose another kind for this")

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return one batch: prompts with their answers, or chats, as far as they are learned from."""
        return [self.pad([row.ids for row in self.read(examples)])]

    def loss(self, examples: Sequence[Example], offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean of -ln p, nats, over all learned tokens of the examples; a scalar."""
        logits, targets = predict_flagged(self, _rows_of(self.read(examples)))
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum") / max(1, len(targets))

    def outputs(self, examples: Sequence[Example]) -> Outputs:
        """Return the predicted distribution of every learned token, of all rows one after another, in equal shares."""
        logits, _ = predict_flagged(self, _rows_of(self.read(examples)))
        return Outputs(logits, logits.new_full((len(logits),), 1 / max(1, len(logits))))

    def weigh(self, examples: Sequence[Example]) -> int:
        """Return the number of learned tokens."""
        return sum(row.n_learned for row in self.read(examples))

    def with_outputs(self, examples: Sequence[Example]) -> list[Example]:
        """Return the rows of which a token is learned.

        Raises:
            DataError: there is none.
        """
        rows = self._require_learned(self.read(examples))
        return [example for example, row in zip(examples, rows, strict=True) if row.n_learned]

    def _require_learned(self, rows: list[Answered]) -> list[Answered]:
        if not any(row.n_learned for row in rows):
            raise DataError(f"no answer has a token within max_length {self.limit}: the prompts alone are as long")
        return rows

    def inspect(self, examples: Sequence[Example], name: str = "examples") -> list[Answered]:
        """Return rows as tokens, and say on stderr how many answers are cut, too long, joined, or not found.

        Raises:
            DataError: max_length leaves no token of any answer, or the chat template refuses a row, which is named.
            ConfigError: the pattern finds no answer in any row.
        """
        rows, n = self._require_learned(self._answers.encode(examples, name)), len(examples)
        if n_cut := sum(row.is_cut for row in rows):
            outcome = "their ends are not learned" + ("" if self._pattern else ", and they count as wrong")
            tell_once(f"{n_cut:,} of {n:,} answers are cut by max_length {self.limit}: {outcome}")
        if n_long := sum(not self._is_within(row) for row in rows):
            outcome = "what is written within it is compared" if self._pattern else "they count as wrong"
            tell_once(f"{n_long:,} of {n:,} answers take more than max_new_tokens {self._most}: {outcome}")
        if n_joined := sum(row.is_joined for row in rows):
            tell_once(
                f"{n_joined:,} of {n:,} answers begin within the prompt's last token: put a space or a line between "
                "them, in the rows or by head.template"
            )
        if self._pattern:
            found = self._pattern.find_all([self._comparison.text_of(row.answer) for row in rows])
            if n_lacking := found.count(None):
                tell_once(f"head.answer finds no answer in {n_lacking:,} of {n:,} completions: they count as wrong")
        return rows

    def accuracy(self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "") -> float:
        """Return the share of answers that the model writes; NaN where an output is not finite.

        Without a pattern nothing is written for it: one forward pass over the references tells.
        """
        if self._pattern is not None:
            columns = self.predict_columns(examples, batch_size=batch_size, label=label)
            finite = bool(np.isfinite(columns.log_likelihood).all())
            return float((columns.predicted == columns.label).mean()) if finite else float("nan")
        rows = self.inspect(examples, label)
        followed = follow(self, _rows_of(rows), batch_size=batch_size, label=label)
        finite = all(np.isfinite(log_p).all() for log_p, _ in followed)
        return float(np.mean(list(map(self._is_written, rows, followed)))) if finite else float("nan")

    def flag(self, examples: Sequence[Example], label: str = "") -> list[Flagged]:
        """Return the rows of tokens that count: those of each answer; raise as `inspect`."""
        return _rows_of(self.inspect(examples, label))

    def predict_columns(
        self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "", temperature: float = 1.0
    ) -> AnswerColumns:
        """Let the model answer, each token's logits divided by a temperature, in evaluation mode, without gradients.

        Raises:
            DataError, ConfigError: as `inspect`.
        """
        rows = self.inspect(examples, label)
        follows = partial(follow, self, batch_size=batch_size, label=label, temperature=temperature)
        followed = follows(_rows_of(rows))
        written, confidence = self._write(rows, followed, follows, batch_size, label)
        keys = [self._comparison.compare(row, text) for row, text in zip(rows, written, strict=True)]
        target, predicted = (np.array(column, dtype=np.int64) for column in zip(*keys, strict=True))
        return AnswerColumns(
            label=target,
            predicted=predicted,
            confidence=confidence,
            log_likelihood=np.array([log_p.sum() for log_p, _ in followed]),
            squared_error=2 * (confidence - (target == predicted)) ** 2,
            n_tokens=np.array([len(log_p) for log_p, _ in followed]),
        )

    def _is_within(self, row: Answered) -> bool:
        """Return whether the model may write as many tokens as the reference has."""
        return self._most is None or len(row.answer) <= self._most

    def _is_written(self, row: Answered, followed: Followed) -> bool:
        """Return whether greedy decoding writes the reference: each of its tokens is the most probable one."""
        return not row.is_cut and self._is_within(row) and bool(_of_answer(row, followed).is_best.all())

    def _write(
        self,
        rows: Sequence[Answered],
        followed: Sequence[Followed],
        follows: Callable[[Sequence[Flagged]], list[Followed]],
        batch_size: int,
        label: str,
    ) -> tuple[list[Sequence[int]], np.ndarray]:
        """Return the tokens that the model writes for each row, and (n,) fp64 their probabilities."""
        written: list[Sequence[int]] = [row.answer for row in rows]
        log_p = np.array([_of_answer(row, found).log_p.sum() for row, found in zip(rows, followed, strict=True)])
        pairs = enumerate(zip(rows, followed, strict=True))
        missed = [i for i, (row, found) in pairs if not self._is_written(row, found)]
        most = self._most or max(len(row.answer) for row in rows) + _MARGIN
        contexts = [rows[i].context[: self.limit] for i in missed]
        with self.evaluating():
            texts = self._write_within(contexts, most, batch_size, f"{label}: answers")
        flagged = [
            Flagged([*context, *text], [False] * len(context) + [True] * len(text))
            for context, text in zip(contexts, texts, strict=True)
        ]
        for i, text, found in zip(missed, texts, follows(flagged), strict=True):
            written[i], log_p[i] = text, found.log_p.sum() if text else -np.inf
        return written, np.minimum(np.exp(log_p), 1.0)

    def _write_within(
        self, contexts: Sequence[Sequence[int]], most: int, batch_size: int, label: str
    ) -> list[list[int]]:
        """Write on, by no more tokens than the model has positions for after a context."""
        rooms = [most if self._positions is None else min(most, self._positions - len(text)) for text in contexts]
        written: list[list[int]] = [[] for _ in contexts]
        for room in {room for room in rooms if room > 0}:
            chosen = [i for i, n in enumerate(rooms) if n == room]
            own, ends = [contexts[i] for i in chosen], self._answers.ends
            texts = write_on(self, own, ends, room, batch_size=batch_size, label=label)
            for i, text in zip(chosen, texts, strict=True):
                written[i] = text
        return written


def _rows_of(rows: Sequence[Answered]) -> list[Flagged]:
    return [Flagged(row.ids, row.learned) for row in rows]


def _of_answer(row: Answered, followed: Followed) -> Followed:
    """Return the part of a reference's tokens that is its answer."""
    places = np.flatnonzero(row.learned)
    start = len(row.context)
    inside = (places >= start) & (places < start + len(row.answer))
    return Followed(followed.log_p[inside], followed.is_best[inside])
