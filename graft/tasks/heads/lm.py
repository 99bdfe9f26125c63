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
from tqdm import tqdm

from graft.errors import ConfigError, DataError
from graft.specs.task import TaskSpec
from graft.tasks.batches import run_tokenizer
from graft.tasks.examples import Example
from graft.tasks.head import Head, Outputs
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import load_language_model, logits_at, token_nll
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
    """The predictions of a batch of chunks: (chunks, tokens, vocabulary) fp32 logits and (chunks, tokens) the rest."""

    logits: torch.Tensor
    targets: torch.Tensor  # int64, the true tokens
    counted: torch.Tensor  # int64, 0 for padding
    text: torch.Tensor  # (chunks,) int64, position of each chunk's text

    def counts(self, n: int) -> torch.Tensor:
        """Return (n,) int64: the predicted tokens of each text."""
        return self.counted.new_zeros(n).index_add(0, self.text, self.counted.sum(1))


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

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Refuse, always.

        Raises:
            ConfigError: texts have no labels; use `loss`, `accuracy` and `predict_columns`.
        """
        raise ConfigError("head.kind lm predicts the next token and has no labels: choose another kind for this")

    def loss(self, examples: Sequence[Example], offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean over texts of the mean over their tokens of -ln p, nats; a scalar.

        Every text has the same weight, so that the mean over batches of equal size is that over all texts.
        """
        tokens = self._predict(examples)
        nll = token_nll(tokens.logits, tokens.targets)
        sums = nll.new_zeros(len(examples)).index_add(0, tokens.text, (nll * tokens.counted).sum(1))
        counts = tokens.counts(len(examples)).to(sums.dtype)
        return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum()

    def outputs(self, examples: Sequence[Example]) -> Outputs:
        """Return the predicted distribution of every token that counts, of all texts one after another."""
        tokens = self._predict(examples)
        counts = tokens.counts(len(examples))
        shares = 1 / (counts[tokens.text].float() * (counts > 0).sum())  # (chunks,), alike for all tokens of a text
        counted = tokens.counted.bool()
        shares = shares.unsqueeze(1).expand_as(counted)[counted]
        return Outputs(tokens.logits[counted], shares)

    def with_outputs(self, examples: Sequence[Example]) -> list[Example]:
        """Return the texts of two tokens or more.

        Raises:
            DataError: there is none.
        """
        return [examples[text] for text in sorted({text for text, _ in self._chunks(examples)})]

    def _predict(self, examples: Sequence[Example]) -> _Tokens:
        chunks = self._chunks(examples)
        batch = self.pad([ids for _, ids in chunks])
        targets = batch["input_ids"][:, 1:]
        positions = torch.arange(targets.shape[1], device=self.device)
        logits = logits_at(self.model, batch, positions).float()
        text = torch.tensor([text for text, _ in chunks], device=self.device)
        return _Tokens(logits, targets, batch["attention_mask"][:, 1:], text)

    def accuracy(self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "") -> float:
        """Return the share of tokens that the model gave the highest probability; NaN where an output is not finite."""
        tokens = self.predict_columns(examples, batch_size=batch_size, label=label)
        if not np.isfinite(tokens.log_likelihood).all():
            return float("nan")
        return float((tokens.predicted == tokens.label).mean())

    def predict_columns(self, examples: Sequence[Example], *, batch_size: int = 64, label: str = "") -> TokenColumns:
        """Predict each token, in evaluation mode and without gradients.

        One chunk's probabilities over the vocabulary are held at a time.

        Raises:
            DataError: no text has a token to predict.
        """
        chunks = self._chunks(examples)
        order = sorted(range(len(chunks)), key=lambda i: len(chunks[i][1]))
        columns: list[list[np.ndarray]] = [[] for _ in chunks]
        n_classes = 0
        with self.evaluating():
            for start in tqdm(range(0, len(order), batch_size), desc=label, disable=None, leave=False):
                chosen = order[start : start + batch_size]
                batch = self.pad([chunks[i][1] for i in chosen])
                width = batch["input_ids"].shape[1]
                logits = logits_at(self.model, batch, torch.arange(width - 1, device=self.device))
                n_classes = logits.shape[-1]
                for i, row in zip(chosen, logits, strict=True):
                    columns[i] = _columns(row, torch.tensor(chunks[i][1][1:], device=self.device))
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


def _columns(logits: torch.Tensor, target: torch.Tensor) -> list[np.ndarray]:
    """Return `TokenColumns`' first five of one chunk: logits (tokens or more, vocabulary) and target (tokens,)."""
    log_p = logits[: len(target)].float().log_softmax(-1)
    of_target = log_p.gather(1, target.unsqueeze(1)).squeeze(1)
    p = log_p.exp()
    confidence, predicted = p.max(-1)
    squared = (p.square().sum(-1) - 2 * of_target.exp() + 1).clamp(min=0)
    floats = [column.double().cpu().numpy() for column in (confidence.clamp(max=1), of_target, squared)]
    return [target.cpu().numpy(), predicted.cpu().numpy(), *floats]
