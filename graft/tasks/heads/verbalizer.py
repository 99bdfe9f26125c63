"""The verbalizer head: a label has the probability of its word in a template, by a masked or causal language model.

The prompt form and the manual templates are LM-BFF's (Gao, Fisch & Chen 2021, arXiv 2012.15723): logits over the
words' tokens at the mask, softmax over these alone, trained by cross-entropy. Under a causal model the word is the
next token after the prompt. Nothing is stored beside the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError, ConfigError
from graft.specs.task import TaskSpec
from graft.tasks.batches import Encoded, Texts
from graft.tasks.chat_prompt import open_prompts
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.label_order import RowNames
from graft.tasks.language_model import Family, load_language_model, logits_of
from graft.tasks.prompt import common_prefix
from graft.tasks.shared_prefix import after_prefix, read_prefix, shared_length
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class Prompted(Encoded):
    """A prompt as a model reads it.

    Attributes:
        read_at: position of the token whose logits are those of the words.
    """

    read_at: int = 0


class VerbalizerHead(Head):
    """Logits by the label words' tokens.

    Attributes:
        shares_prefix: tokens that all rows begin with are read once; not where rows have their own skills.
        runs_whole: the output layer runs on all states, as where rows have their own skills that change it.
    """

    shares_prefix = True
    runs_whole = False

    def __init__(self, model: Any, tokenizer: Any, task: TaskSpec, family: Family) -> None:
        super().__init__(model, tokenizer, task)
        if family == "masked" and tokenizer.mask_token is None:
            raise CheckpointError("the tokenizer of a masked language model has no mask token")
        if family == "causal" and not task.head.pattern.endswith("{mask}"):
            raise ConfigError(
                "head.template must end with {mask} under a causal language model, which reads no further"
            )
        if family == "masked" and task.head.chat:
            raise ConfigError("head.chat needs a causal language model, which answers after the prompt")
        self._family = family
        self._prompts = open_prompts(tokenizer, task.head, "mask", self.limit)
        self._lead: list[int] = []  # tokens that all words begin with, after the prompt
        self.word_ids = self._find_words()  # (n_labels,) int64 on the CPU

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> VerbalizerHead:
        """Load the language model of a folder."""
        loaded, tokenizer, family = load_language_model(model, dtype)
        return cls(loaded, tokenizer, task, family)

    @classmethod
    def on(cls, head: Head, task: TaskSpec) -> VerbalizerHead:
        """Make a head of this kind for a task on the model and tokenizer of another."""
        return cls(head.model, head.tokenizer, task, "masked" if head.kind_of_model == "masked" else "causal")

    @property
    def kind_of_model(self) -> str:
        """The kind of the model at hand, masked or causal."""
        return self._family

    def encode(self, texts: Sequence[Texts]) -> list[Encoded]:
        """Return the prompt of each text, or pair of texts: `Prompted`."""
        return [self._locate(self._shorten(own), own) for own in texts]

    def logits_of(self, rows: Sequence[Prompted]) -> torch.Tensor:
        """Return (n, n_labels) fp32: the logit of each label's word at the mask, or after the prompt."""
        ids = [row.ids for row in rows]
        shared = shared_length(self.model, ids) if self._family == "causal" and self.shares_prefix else 0
        batch, cache = self.pad([own[shared:] for own in ids]), None
        if shared:
            cache = read_prefix(self.model, ids[0][:shared], len(ids), self.device)
            batch = after_prefix(batch, shared)
        width = batch["input_ids"].shape[1]
        tokens = torch.tensor([number * width + row.read_at - shared for number, row in enumerate(rows)])
        words = self.word_ids
        return logits_of(self.model, batch, tokens, words=words, cache=cache, whole=self.runs_whole).float()

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return one batch: the prompts."""
        return [self.pad([row.ids for row in self.read(examples)])]

    def _shorten(self, texts: Texts) -> Texts:
        """Return the texts, cut where their prompt would be too long."""
        if self._family == "causal":
            return self._prompts.shorten(texts, lambda cut: len(self._encode_prompt(cut)))
        mask = self.tokenizer.mask_token
        return self._prompts.shorten(texts, lambda cut: len(self._prompts.encode(self._prompts.fill(cut, mask))))

    def _locate(self, texts: Texts, whole: Texts) -> Prompted:
        """Return the prompt of texts that are short enough, as they were made of the whole ones."""
        is_cut = texts != whole
        if self._family == "causal":
            ids = self._encode_prompt(texts)
            return Prompted(ids, is_cut, read_at=len(ids) - 1)
        mask = self.tokenizer.mask_token
        ids = self._prompts.encode(self._prompts.fill(texts, mask))
        masks = [i for i, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
        own = self._prompts.before(texts).count(mask)  # a text may spell the mask token itself
        return Prompted(ids, is_cut, read_at=masks[own])

    def _encode_prompt(self, texts: Texts) -> list[int]:
        return [*self._prompts.encode_open(self._prompts.opening(texts)), *self._lead]

    def _find_words(self) -> torch.Tensor:
        words = self.task.head.words or self.task.labels
        split_words = [self._split(word) for word in words]
        if self._family == "causal":
            # tokens that all words begin with, such as a space of its own, belong to the prompt
            shared = min(
                [common_prefix(split_words[0], other) for other in split_words]
                + [len(tokens) - 1 for tokens in split_words]
            )
            self._lead = split_words[0][: max(0, shared)]
        ids = [
            self._require_single(word, tokens[len(self._lead) :])
            for word, tokens in zip(words, split_words, strict=True)
        ]
        for i, (word, token) in enumerate(zip(words, ids, strict=True)):
            if token in ids[:i]:
                other = words[ids.index(token)]
                raise ConfigError(f"head.words: {other!r} and {word!r} are the same token to this model")
        return torch.tensor(ids)

    def _split(self, word: str) -> list[int]:
        """Return the tokens of a word where the template has it, with the space before it."""
        texts = ("x",) if isinstance(self.task.text, str) else ("x", "x")
        if self._family == "causal":
            without = self._encode_prompt(texts)
            within = self._prompts.encode_open(self._prompts.fill(texts, word))
            start, end = common_prefix(without, within), 0
            if start < len(without):
                raise ConfigError(f"head.words: {word!r} is not one token in the template: it joins what is before it")
        else:
            masked = self._prompts.encode(self._prompts.fill(texts, self.tokenizer.mask_token))
            within = self._prompts.encode(self._prompts.fill(texts, word))
            start, end = common_prefix(masked, within), common_prefix(masked[::-1], within[::-1])
        return within[start : len(within) - end]

    def _require_single(self, word: str, tokens: list[int]) -> int:
        if len(tokens) != 1:
            shown = " ".join(self.tokenizer.convert_ids_to_tokens(tokens))
            raise ConfigError(f"head.words: {word!r} is not one token in the template, but {len(tokens)}: {shown}")
        if tokens[0] == self.tokenizer.unk_token_id:
            raise ConfigError(f"head.words: {word!r} is not in the tokenizer's vocabulary")
        return tokens[0]
