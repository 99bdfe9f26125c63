"""The similarity head: the zero-shot analogue of prompts for a sentence encoder.

Sentence and label texts are embedded by the model at hand, mean-pooled over tokens and normalized;
logits = 20 x cosine. Gradients flow through both sides, and nothing is stored beside the weights. Mean pooling
and the scale of 20 are those of Sentence-BERT (arXiv 1908.10084; its multiple-negatives ranking loss). Where rows
have their own choices, these replace the label texts. For pairs, a label text is the second text as it would read
under that label, since an encoder of single sentences compares two of them and cannot read both as one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.model_config import architecture_in
from graft.sources.made_checkpoint import folder_of
from graft.specs.head import SECOND
from graft.specs.task import TaskSpec
from graft.tasks.batches import Encoded, run_model
from graft.tasks.cuts import tell_cut_labels
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.label_order import RowNames
from graft.tasks.loading import load_model, load_pretrained, load_tokenizer
from graft.tasks.padded_logits import pad_rows
from graft.tensors.checkpoint import Checkpoint

SCALE = 20.0


@dataclass(frozen=True)
class _Row:
    """A text, and the choices or label texts that it has to itself."""

    text: Encoded
    own: list[Encoded]

    @property
    def is_cut(self) -> bool:
        """Whether the text or one of its own inputs is cut."""
        return any(encoded.is_cut for encoded in (self.text, *self.own))


class SimilarityHead(Head):
    """Logits by cosine similarity to the label texts."""

    _label_embeddings: torch.Tensor | None = None  # (n_labels, width), while `_caching`

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> SimilarityHead:
        """Load the bare model of a folder: with its decoder, unless the folder holds an encoder alone."""
        from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding
        from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as ENCODERS

        path = folder_of(model)
        load_pretrained(AutoConfig, path)  # refuses a folder without a config that it knows
        named = architecture_in(path)
        kind = AutoModelForTextEncoding if named in ENCODERS.values() else AutoModel
        loaded, lacking = load_model(kind, model, dtype, may_lack=lambda prefix, name: name.startswith("pooler."))
        if lacking:
            loaded.pooler = None  # sentences are pooled here; a random pooler would only be saved with the weights
        return cls(loaded, load_tokenizer(model), task)

    @property
    def label_texts(self) -> list[tuple[str, ...]]:
        """Text of each label, put into the template; none where rows have their own choices."""
        return self._fill(self.task.head.texts or self.task.labels) if self.has_classes else []

    def read(self, examples: Sequence[Example]) -> list[_Row]:
        """Return each text, of pairs the first, with the choices or label texts that it has to itself."""
        if self.task.head.completes_pairs:
            texts, own = [x.texts[:1] for x in examples], [self._complete(x.texts[1]) for x in examples]
        else:
            texts = [x.texts for x in examples]
            own = [() if self.has_classes else x.choices for x in examples]
        encoded, choices = self.encode(texts), [choice for row in own for choice in row]
        filled = iter(self.encode(self._fill(choices)) if choices else [])
        return [_Row(text, list(islice(filled, len(row)))) for text, row in zip(encoded, own, strict=True)]

    def logits_of(self, rows: Sequence[_Row]) -> torch.Tensor:
        """Return (n, n_labels) fp32: 20 x cosine(sentence, label text); -inf where a row has fewer choices."""
        texts = self._embed_encoded([row.text for row in rows])
        if rows[0].own:
            return self._logits_of_choices(texts, [row.own for row in rows])
        labels = self._embed_labels() if self._label_embeddings is None else self._label_embeddings
        with torch.autocast(self.device.type, enabled=False):  # fp32, as where the model's products are narrower
            return SCALE * texts @ labels.T

    def inputs(self, examples: Sequence[Example]) -> list[dict[str, torch.Tensor]]:
        """Return a batch of the texts, and one of the choices or label texts that a row has to itself."""
        rows = self.read(examples)
        parts = [row.text for row in rows], [choice for row in rows for choice in row.own]
        return [self.pad_encoded(part) for part in parts if part]

    def embed(self, texts: Sequence[tuple[str, ...]]) -> torch.Tensor:
        """Return (n, width) fp32 unit vectors."""
        return self._embed_encoded(self.encode(texts))

    def _embed_labels(self) -> torch.Tensor:
        labels = self.encode(self.label_texts)
        tell_cut_labels(self, labels)
        return self._embed_encoded(labels)

    def _embed_encoded(self, texts: Sequence[Encoded]) -> torch.Tensor:
        return self.embed_batch(self.pad_encoded(texts))

    def embed_batch(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (n, width) fp32 unit vectors of a padded batch, as `tokenize` and `pad` make one."""
        hidden = self._states(batch).float()  # (n, tokens, width)
        weight = batch["attention_mask"].unsqueeze(-1).float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(pooled, dim=-1)

    def _states(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the last layer's states (n, tokens, width), those of the encoder where there is a decoder too.

        The whole model runs, its decoder over one token, since FSDP2 gathers the shared embeddings for the whole only.
        """
        first = batch["input_ids"].new_zeros(len(batch["input_ids"]), 1)
        output = run_model(self.model, {**batch, "decoder_input_ids": first})
        states = output.get("encoder_last_hidden_state", output.get("last_hidden_state"))
        if states is None:
            raise CheckpointError(f"{type(self.model).__name__} gives no states of tokens to pool: no text encoder")
        return torch.as_tensor(states)

    def _logits_of_choices(self, texts: torch.Tensor, choices: Sequence[list[Encoded]]) -> torch.Tensor:
        sizes = [len(row) for row in choices]
        embedded = self._embed_encoded([choice for row in choices for choice in row])  # (all choices, width)
        owners = texts.repeat_interleave(torch.tensor(sizes, device=self.device), dim=0)
        return pad_rows(SCALE * (owners * embedded).sum(-1), sizes)

    def label_texts_for(self, second: str) -> list[tuple[str, ...]]:
        """Return what the second text of a pair would be under each label, put into the template."""
        return self._fill(self._complete(second))

    def _complete(self, second: str) -> tuple[str, ...]:
        return tuple(text.replace(SECOND, second) for text in self.task.head.texts or ())

    def _fill(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        return [(self.task.head.pattern.replace("{}", text),) for text in texts]

    @contextlib.contextmanager
    def _caching(self) -> Iterator[None]:
        is_fixed = self.has_classes and not self.task.head.completes_pairs  # label texts are the same in every row
        self._label_embeddings = self._embed_labels() if is_fixed else None
        try:
            yield
        finally:
            self._label_embeddings = None
