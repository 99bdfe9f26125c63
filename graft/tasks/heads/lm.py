"""The language modeling head: the next token of the text itself, by a causal language model, without any label.

A text longer than max_length is read in chunks, each of which begins with the last token of the one before it, so
that every token but the text's first is predicted exactly once. A token without context is not predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft.errors import ConfigError, DataError
from graft.specs.task import TaskSpec
from graft.tasks.batches import run_tokenizer
from graft.tasks.examples import Example
from graft.tasks.following import Flagged, each_flagged, run_flagged
from graft.tasks.head import Head, Outputs
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import load_language_model
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True, eq=False)
class TokenColumns:
    """Columns of true and predicted tokens, in the order of texts and tokens: (n_tokens,) each."""

    label: np.ndarray  # int64, the true token
    predicted: np.ndarray  # int64, the most probable token
    confidence: np.ndarray  # fp64, its probability
    log_likelihood: np.ndarray  # fp64, nats, ln of the probability of the true token
    squared_error: np.ndarray  # fp64, Σ over the vocabulary of (p - one-hot)², in 0..2
    group: np.ndarray  # int64, position of the text among the examples
    n_classes: int  # the vocabulary


@dataclass(frozen=True, eq=False)
class _Tokens:
    """The predictions of some texts' tokens: (m, vocabulary) fp32 logits and (m,) int64 the rest."""

    logits: torch.Tensor
    targets: torch.Tensor  # the true tokens
    text: torch.Tensor  # position of each token's text

    def counts(self, n: int) -> torch.Tensor:
        """Return (n,) int64: the predicted tokens of each text."""
        return self.text.new_zeros(n).index_add(0, self.text, torch.ones_like(self.text))


class LanguageModelHead(Head):
    """Next-token prediction and its cross-entropy."""

    predicts_tokens = True

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> LanguageModelHead:
        """Load the causal language model of a folder."""
        loaded, tokenizer, _ = load_language_model(model, dtype, only="causal")
        return cls(loaded, tokenizer, task)

    def count_cut(self, examples: Sequence[Example]) -> int:
        """Return 0: long texts are read in chunks."""
        return 0

    def logits_of(self, rows: Sequence[Any]) -> torch.Tensor:
        """Refuse, always.

        Raises:
            ConfigError: texts have no labels; use `loss`, `accuracy` and `predict_columns`.
        """
        raise ConfigError("head.kind lm predicts the next token and has no labels: choose another kind for this")

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return one batch: the texts, long ones in chunks.

        Raises:
            DataError: no text has a token to predict.
        """
        return [self.pad([ids for _, ids in self._chunks(examples)])]

    def loss(self, examples: Sequence[Example], offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean over texts of the mean over their tokens of -ln p, nats; a scalar.

        Every text has the same weight, so that the mean over batches of equal size is that over all texts.
        """
        tokens = self._predict(examples)
        nll = torch.nn.functional.cross_entropy(tokens.logits, tokens.targets, reduction="none")
        sums = nll.new_zeros(len(examples)).index_add(0, tokens.text, nll)
        counts = tokens.counts(len(examples)).to(sums.dtype)
        return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum()

    def outputs(self, examples: Sequence[Example]) -> Outputs:
        """Return the predicted distribution of every token that counts, of all texts one after another."""
        tokens = self._predict(examples)
        counts = tokens.counts(len(examples))
        return Outputs(tokens.logits, 1 / (counts[tokens.text].float() * (counts > 0).sum()))  # alike within a text

    def with_outputs(self, examples: Sequence[Example]) -> list[Example]:
        """Return the texts of two tokens or more.

        Raises:
            DataError: there is none.
        """
        return [examples[text] for text in sorted({text for text, _ in self._chunks(examples)})]

    def _predict(self, examples: Sequence[Example]) -> _Tokens:
        chunks = self._chunks(examples)
        logits, targets = self._predict_chunks([ids for _, ids in chunks])
        n_tokens = torch.tensor([len(ids) - 1 for _, ids in chunks])
        text = torch.tensor([text for text, _ in chunks]).repeat_interleave(n_tokens)
        return _Tokens(logits.float(), targets, text.to(self.device))

    def _predict_chunks(self, chunks: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (m, vocabulary) and true tokens (m,) of all tokens but the chunks' first, chunk by chunk."""
        return run_flagged(self, list(map(_flag, chunks)))

    def accuracy(self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "") -> float:
        """Return the share of tokens that the model gave the highest probability; NaN where an output is not finite."""
        tokens = self.predict_columns(examples, batch_size=batch_size, label=label)
        if not np.isfinite(tokens.log_likelihood).all():
            return float("nan")
        return float((tokens.predicted == tokens.label).mean())

    def flag(self, examples: Sequence[Example], label: str = "") -> list[Flagged]:
        """Return the rows of tokens that count: every token of each chunk but the first.

        Raises:
            DataError: no text has a token to predict.
        """
        return [_flag(ids) for _, ids in self._chunks(examples)]

    def predict_columns(
        self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "", temperature: float = 1.0
    ) -> TokenColumns:
        """Predict each token, its logits divided by a temperature, in evaluation mode and without gradients.

        One chunk's probabilities over the vocabulary are held at a time.

        Raises:
            DataError: no text has a token to predict.
        """
        chunks = self._chunks(examples)
        columns: list[list[np.ndarray]] = [[] for _ in chunks]
        n_classes, rows = 0, [_flag(ids) for _, ids in chunks]
        with self.evaluating():
            for i, logits, targets in each_flagged(self, rows, batch_size=batch_size, label=label):
                columns[i], n_classes = _columns(logits.float() / temperature, targets), logits.shape[-1]
        group = np.repeat([text for text, _ in chunks], [len(ids) - 1 for _, ids in chunks])
        target, predicted, confidence, log_likelihood, squared = map(np.concatenate, zip(*columns, strict=True))
        return TokenColumns(target, predicted, confidence, log_likelihood, squared, group, n_classes)

    def _chunks(self, examples: Sequence[Example]) -> list[tuple[int, list[int]]]:
        """Return (position of the text, token ids) of every chunk that predicts a token."""
        texts = [example.texts[0] for example in examples]
        encoded = run_tokenizer(self.tokenizer, texts, verbose=False)["input_ids"]
        step = max(1, self.limit - 1)
        chunks = [
            (text, ids[start : start + step + 1])
            for text, ids in enumerate(encoded)
            for start in range(0, len(ids) - 1, step)
        ]
        if not chunks:
            raise DataError("no text has two tokens, so that there is none to predict")
        return chunks


def _flag(ids: list[int]) -> Flagged:
    return Flagged(ids, [True] * len(ids))


def _columns(logits: torch.Tensor, target: torch.Tensor) -> list[np.ndarray]:
    """Return `TokenColumns`' first five of one chunk: fp32 logits (tokens, vocabulary) and target (tokens,)."""
    p = logits.softmax(-1)
    confidence, predicted = p.max(-1)
    # ln p by the most probable token's, since a p may be too small for its own logarithm
    highest, of_target = (logits.gather(1, token.unsqueeze(1)).squeeze(1) for token in (predicted, target))
    log_p = of_target - highest + confidence.log()
    squared = (torch.linalg.vector_norm(p, dim=-1).square() - 2 * log_p.exp() + 1).clamp(min=0)
    floats = [column.double().cpu().numpy() for column in (confidence.clamp(max=1), log_p.clamp(max=0), squared)]
    return [target.cpu().numpy(), predicted.cpu().numpy(), *floats]
