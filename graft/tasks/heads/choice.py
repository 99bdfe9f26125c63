"""The choice head: multiple choice by the likelihood of each choice after the text, by a causal language model.

Log probabilities of a choice's tokens are summed and divided by its length in tokens, as GPT-3 was evaluated
(arXiv 2005.14165, section 2.4), or in UTF-8 bytes, which does not depend on the tokenizer, or by nothing, which
favors short choices; the three are compared in https://blog.eleuther.ai/multiple-choice-normalization/. With
"none" the softmax over choices is the model's own P(choice | text, one of these); a mean per token is a flatter
one of the same order within equal lengths, so calibration depends on this option.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.specs.task import TaskSpec
from graft.tasks.batches import Texts
from graft.tasks.examples import Example
from graft.tasks.head import Head, pad_rows
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import load_language_model, logits_at, token_nll
from graft.tasks.prompt import PromptEncoder, common_prefix
from graft.tensors.checkpoint import Checkpoint


class ChoiceHead(Head):
    """Logits by log likelihood, in nats, per unit of length."""

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec) -> None:
        super().__init__(model, tokenizer, task)
        self._prompts = PromptEncoder(tokenizer, task.head.pattern, "choice", self.limit)

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> ChoiceHead:
        """Load the causal language model of a folder."""
        loaded, tokenizer, _ = load_language_model(model, dtype, only="causal")
        return cls(loaded, tokenizer, task)

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return (n, most choices) fp32 logits; -inf where a row has fewer choices."""
        encoded = [pair for example in examples for pair in self._encode(example)]
        rows, starts = zip(*encoded, strict=True)
        scores, n_tokens = self._score(rows, starts)
        unit = self.task.head.normalize or "tokens"
        if unit == "tokens":
            scores = scores / n_tokens
        elif unit == "bytes":
            n_bytes = [len(choice.encode()) for example in examples for choice in example.choices]
            scores = scores / torch.tensor(n_bytes, device=self.device)
        return pad_rows(scores, [len(example.choices) for example in examples])

    def _score(self, rows: Sequence[list[int]], starts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Score the tokens from `starts` on: (n,) fp32 sums of log probabilities, nats, and (n,) numbers of tokens."""
        batch = self.pad(rows)
        ids = batch["input_ids"]
        targets = torch.arange(min(starts), ids.shape[1], device=self.device)  # (m,) positions that some row predicts
        logits = logits_at(self.model, batch, targets - 1).float()  # (n, m, vocabulary)
        nll = token_nll(logits, ids[:, targets])
        counted = targets >= torch.tensor(starts, device=self.device).unsqueeze(1)
        counted = counted & batch["attention_mask"][:, targets].bool()  # (n, m)
        return -(nll * counted).sum(1), counted.sum(1)

    def _encode(self, example: Example) -> list[tuple[list[int], int]]:
        """Return, for each choice, the token ids of prompt and choice, and the position at which the choice begins.

        The prompt is cut alike for all choices of a row, so that they follow the same text.
        """
        choices = example.choices
        texts = self._prompts.shorten(example.texts, lambda cut: max(len(self._encode_choice(cut, x)) for x in choices))
        prompt = self._prompts.encode_open(self._prompts.before(texts).rstrip())
        encoded = [self._encode_choice(texts, choice) for choice in choices]
        # a token without any before it has no probability
        return [(ids, max(1, min(common_prefix(prompt, ids), len(ids) - 1))) for ids in encoded]

    def _encode_choice(self, texts: Texts, choice: str) -> list[int]:
        return self._prompts.encode_open(self._prompts.fill(texts, choice))
