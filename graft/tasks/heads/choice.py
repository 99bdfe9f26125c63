"""The choice head: multiple choice by the likelihood of each choice after the text, by a causal language model.

Log probabilities of a choice's tokens are summed and divided by its length in tokens, as GPT-3 was evaluated
(arXiv 2005.14165, section 2.4), or in UTF-8 bytes, which does not depend on the tokenizer, or by nothing, which
favors short choices; the three are compared in https://blog.eleuther.ai/multiple-choice-normalization/. With
"none" the softmax over choices is the model's own P(choice | text, one of these); a mean per token is a flatter
one of the same order within equal lengths, so calibration depends on this option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.specs.task import TaskSpec
from graft.tasks.batches import Texts
from graft.tasks.chat_prompt import open_prompts
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import load_language_model, logits_of
from graft.tasks.packing import Packed, can_pack, pack, pack_inputs
from graft.tasks.padded_logits import pad_rows
from graft.tasks.prompt import common_prefix
from graft.tasks.shared_prefix import read_prefix, shared_length
from graft.tensors.checkpoint import Checkpoint

_Begun = tuple[list[int], int]  # token ids of prompt and choice, and the position at which the choice begins


@dataclass(frozen=True)
class _Row:
    """The choices of an example, each after its prompt, and in UTF-8 bytes how long they are."""

    begun: list[_Begun]
    n_bytes: list[int]
    is_cut: bool


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

    def read(self, examples: Sequence[Example]) -> list[_Row]:
        """Return the choices of each example after their prompt, of which alone a part may be cut."""
        return [self._encode(example) for example in examples]

    def logits_of(self, rows: Sequence[_Row]) -> torch.Tensor:
        """Return (n, most choices) fp32 logits; -inf where a row has fewer choices."""
        scores, n_tokens = self._score([row.begun for row in rows])
        unit = self.task.head.normalize or "tokens"
        if unit == "tokens":
            scores = scores / n_tokens
        elif unit == "bytes":
            scores = scores / torch.tensor([n for row in rows for n in row.n_bytes], device=self.device)
        return pad_rows(scores, [len(row.begun) for row in rows])

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return one batch: each choice after its prompt."""
        return [self.pad([ids for row in self.read(examples) for ids, _ in row.begun])]

    def _score(self, groups: Sequence[Sequence[_Begun]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Score all choices of all rows: (n,) fp32 sums of log probabilities, nats, and (n,) numbers of tokens."""
        rows, groups = self._arrange(groups)
        texts = [text for group in groups for text in group]
        most = min([start - 1 for _, start in texts] + [row.n_shared for row in rows])
        n_read = shared_length(self.model, [row.ids for row in rows], most)
        width = max(len(row.ids) for row in rows) - n_read
        places = [
            number * width + row.place(choice, position - 1) - n_read
            for number, (row, group) in enumerate(zip(rows, groups, strict=True))
            for choice, (ids, start) in enumerate(group)
            for position in range(start, len(ids))
        ]
        n_tokens = torch.tensor([len(ids) - start for ids, start in texts])
        targets = torch.tensor([token for ids, start in texts for token in ids[start:]], device=self.device)
        owners = torch.arange(len(texts)).repeat_interleave(n_tokens).to(self.device)
        logits = self._logits_at(rows, n_read, torch.tensor(places), targets).float()  # (all tokens, vocabulary)
        nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return -nll.new_zeros(len(texts)).index_add(0, owners, nll), n_tokens.to(self.device)

    def _arrange(self, groups: Sequence[Sequence[_Begun]]) -> tuple[list[Packed], Sequence[Sequence[_Begun]]]:
        """Return a batch's rows, and the choices in each: those of an example together where that is less work."""
        alone = [[text] for group in groups for text in group]
        rows, together = ([pack([ids for ids, _ in group]) for group in parts] for parts in (alone, groups))
        work, packed_work = (len(parts) * max(len(row.ids) for row in parts) for parts in (rows, together))
        return (together, groups) if can_pack(self.model) and packed_work < work else (rows, alone)

    def _logits_at(
        self, rows: Sequence[Packed], n_read: int, places: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Return logits (m, vocabulary) at places in the rows without their first `n_read` tokens, which come first."""
        batch, cache = self.pad([row.ids[n_read:] for row in rows]), None
        if n_read or any(len(row.offsets) > 1 for row in rows):
            more = pack_inputs(rows, batch["input_ids"].shape[1], n_read)
            batch |= {name: part.to(self.device) for name, part in more.items()}
        if n_read:
            cache = read_prefix(self.model, rows[0].ids[:n_read], len(rows), self.device)
        return logits_of(self.model, batch, places, own=targets, cache=cache)

    def _encode(self, example: Example) -> _Row:
        """Return the choices after their prompt.

        The prompt is cut alike for all choices of a row, so that they follow the same text.
        """
        choices = example.choices
        texts = self._prompts.shorten(example.texts, lambda cut: max(len(self._encode_choice(cut, x)) for x in choices))
        prompt = self._prompts.encode_open(self._prompts.opening(texts))
        encoded = [self._encode_choice(texts, choice) for choice in choices]
        # a token without any before it has no probability
        begun = [(ids, max(1, min(common_prefix(prompt, ids), len(ids) - 1))) for ids in encoded]
        return _Row(begun, [len(choice.encode()) for choice in choices], texts != example.texts)

    def _encode_choice(self, texts: Texts, choice: str) -> list[int]:
        return self._prompts.encode_open(self._prompts.fill(texts, choice))
