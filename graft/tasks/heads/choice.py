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
from graft.tasks.chat_prompt import open_prompts
from graft.tasks.examples import Example
from graft.tasks.head import Head, pad_rows
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import load_language_model, logits_of
from graft.tasks.packing import Packed, can_pack, pack, pack_inputs
from graft.tasks.prompt import common_prefix
from graft.tensors.checkpoint import Checkpoint

_Begun = tuple[list[int], int]  # token ids of prompt and choice, and the position at which the choice begins


class ChoiceHead(Head):
    """Logits by log likelihood, in nats, per unit of length."""

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec) -> None:
        super().__init__(model, tokenizer, task)
        self._prompts = open_prompts(tokenizer, task.head, "choice", self.limit)

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> ChoiceHead:
        """Load the causal language model of a folder."""
        loaded, tokenizer, _ = load_language_model(model, dtype, only="causal")
        return cls(loaded, tokenizer, task)

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """Return (n, most choices) fp32 logits; -inf where a row has fewer choices."""
        scores, n_tokens = self._score([self._encode(example) for example in examples])
        unit = self.task.head.normalize or "tokens"
        if unit == "tokens":
            scores = scores / n_tokens
        elif unit == "bytes":
            n_bytes = [len(choice.encode()) for example in examples for choice in example.choices]
            scores = scores / torch.tensor(n_bytes, device=self.device)
        return pad_rows(scores, [len(example.choices) for example in examples])

    def _score(self, groups: Sequence[Sequence[_Begun]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Score all choices of all rows: (n,) fp32 sums of log probabilities, nats, and (n,) numbers of tokens."""
        batch, packed, groups = self._batch(groups)
        width, texts = batch["input_ids"].shape[1], [text for group in groups for text in group]
        places = [
            number * width + row.place(choice, position - 1)
            for number, (row, group) in enumerate(zip(packed, groups, strict=True))
            for choice, (ids, start) in enumerate(group)
            for position in range(start, len(ids))
        ]
        n_tokens = torch.tensor([len(ids) - start for ids, start in texts])
        targets = torch.tensor([token for ids, start in texts for token in ids[start:]], device=self.device)
        owners = torch.arange(len(texts)).repeat_interleave(n_tokens).to(self.device)
        logits = logits_of(self.model, batch, torch.tensor(places)).float()  # (all tokens, vocabulary)
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return -nll.new_zeros(len(texts)).index_add(0, owners, nll), n_tokens.to(self.device)

    def _batch(
        self, groups: Sequence[Sequence[_Begun]]
    ) -> tuple[dict[str, torch.Tensor], list[Packed], Sequence[Sequence[_Begun]]]:
        """Return a batch, its rows, and the choices in each: those of an example together where that is less work."""
        alone = [[text] for group in groups for text in group]
        together = [pack([ids for ids, _ in group]) for group in groups]
        width = max(len(row.ids) for row in together)
        if can_pack(self.model) and len(together) * width < len(alone) * max(len(ids) for ((ids, _),) in alone):
            batch = self.pad([row.ids for row in together])
            return batch | {k: v.to(self.device) for k, v in pack_inputs(together, width).items()}, together, groups
        return self.pad([ids for ((ids, _),) in alone]), [pack([ids]) for ((ids, _),) in alone], alone

    def _encode(self, example: Example) -> list[_Begun]:
        """Return, for each choice, the token ids of prompt and choice, and the position at which the choice begins.

        The prompt is cut alike for all choices of a row, so that they follow the same text.
        """
        choices = example.choices
        texts = self._prompts.shorten(example.texts, lambda cut: max(len(self._encode_choice(cut, x)) for x in choices))
        prompt = self._prompts.encode_open(self._prompts.opening(texts))
        encoded = [self._encode_choice(texts, choice) for choice in choices]
        # a token without any before it has no probability
        return [(ids, max(1, min(common_prefix(prompt, ids), len(ids) - 1))) for ids in encoded]

    def _encode_choice(self, texts: Texts, choice: str) -> list[int]:
        return self._prompts.encode_open(self._prompts.fill(texts, choice))
