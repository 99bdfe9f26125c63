"""The similarity head: the zero-shot analogue of prompts for a sentence encoder.

Sentence and label texts are embedded by the model at hand, mean-pooled over tokens and normalised;
logits = 20 x cosine. Both sides are trained through, and nothing is stored beside the weights. Mean pooling
and the scale of 20 are those of Sentence-BERT (arXiv 1908.10084; its multiple-negatives ranking loss). Where rows
bring their own choices, these stand in the place of the label texts; so do, for pairs, label texts that say what
the second text would be under each label: an encoder of single sentences compares two of them, it cannot read both
as one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.model_config import architecture_in
from graft.specs.head import SECOND
from graft.specs.task import TaskSpec
from graft.tasks.batches import run_model
from graft.tasks.examples import Example
from graft.tasks.head import Head, pad_rows
from graft.tasks.label_order import RowNames
from graft.tasks.loading import load_model, load_pretrained

SCALE = 20.0


class SimilarityHead(Head):
    """Logits by cosine similarity to the label texts."""

    _cached: torch.Tensor | None = None

    @classmethod
    def load(
        cls, path: Path, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> SimilarityHead:
        """Load the bare model of a folder: encoder and decoder, unless the folder holds the former alone."""
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
        from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as ENCODERS

        load_pretrained(AutoConfig, path)  # refuses a folder without a config that it knows
        named = architecture_in(path)
        kind = AutoModelForTextEncoding if named in ENCODERS.values() else AutoModel
        model, lacking = load_model(kind, path, dtype, may_lack=lambda prefix, name: name.startswith("pooler."))
        if lacking:
            model.pooler = None  # sentences are pooled here; drawn at random it would only travel with the weights
        return cls(model, load_pretrained(AutoTokenizer, path), task)

    @property
    def label_texts(self) -> list[tuple[str, ...]]:
        """The text of each label, put into the template; none where rows bring their own choices."""
        return self._filled(self.task.head.texts or self.task.labels) if self.has_classes else []

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """(n, n_labels) fp32: 20 x cosine(sentence, label text); -inf where a row has fewer choices."""
        if self.task.head.completes_pairs:
            first = self.embed([example.texts[:1] for example in examples])
            return self._logits_of_choices(first, [self._completed(example.texts[1]) for example in examples])
        texts = self.embed([example.texts for example in examples])
        if not self.has_classes:
            return self._logits_of_choices(texts, [example.choices for example in examples])
        labels = self.embed(self.label_texts) if self._cached is None else self._cached
        return SCALE * texts @ labels.T

    def embed(self, texts: Sequence[tuple[str, ...]]) -> torch.Tensor:
        """(n, width) fp32 unit vectors."""
        batch = self.tokenize(texts)
        hidden = self._states(batch).float()  # (n, tokens, width)
        weight = batch["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _states(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(n, tokens, width): the last layer's, of the encoder where there is a decoder too.

        The whole model runs, its decoder over one token, since FSDP2 gathers the shared embeddings for the whole only.
        """
        first = batch["input_ids"].new_zeros(len(batch["input_ids"]), 1)
        output = run_model(self.model, {**batch, "decoder_input_ids": first})
        found = output.get("encoder_last_hidden_state", output.get("last_hidden_state"))
        if found is None:
            raise CheckpointError(f"{type(self.model).__name__} gives no states of tokens to pool: no text encoder")
        return torch.as_tensor(found)

    def _logits_of_choices(self, texts: torch.Tensor, choices: Sequence[tuple[str, ...]]) -> torch.Tensor:
        sizes = [len(row) for row in choices]
        embedded = self.embed(self._filled([choice for row in choices for choice in row]))  # (all choices, width)
        owners = texts.repeat_interleave(torch.tensor(sizes, device=self.device), dim=0)
        return pad_rows(SCALE * (owners * embedded).sum(-1), sizes)

    def _completed(self, second: str) -> tuple[str, ...]:
        return tuple(text.replace(SECOND, second) for text in self.task.head.texts or ())

    def _filled(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        return [(self.task.head.pattern.replace("{}", text),) for text in texts]

    @contextlib.contextmanager
    def _repeated_work_done_once(self) -> Iterator[None]:
        alike = self.has_classes and not self.task.head.completes_pairs  # label texts are the same in every row
        self._cached = self.embed(self.label_texts) if alike else None
        try:
            yield
        finally:
            self._cached = None
