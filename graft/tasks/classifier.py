"""The classifier head: transformers' own sequence classification, its new layer stored dense in the patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.tasks.examples import Example
from graft.tasks.head import Head, load_pretrained
from graft.tasks.loading import load_model
from graft.tasks.spec import TaskSpec


class ClassifierHead(Head):
    """Logits by AutoModelForSequenceClassification."""

    @classmethod
    def load(cls, path: Path, task: TaskSpec, dtype: Any) -> ClassifierHead:
        """Load a folder; a head that it lacks is initialised at random, under the seed that is set."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        names = dict(enumerate(task.labels))
        model, _ = load_model(
            AutoModelForSequenceClassification,
            path,
            dtype,
            may_lack=_is_head,
            num_labels=len(names),
            id2label=names,
            label2id={name: position for position, name in names.items()},
        )
        tokenizer = load_pretrained(AutoTokenizer, path)
        head = cls(model, tokenizer, task)
        model.config.pad_token_id = tokenizer.pad_token_id  # decoders pool at the last token before padding
        return head

    def logits(self, examples: Sequence[Example]) -> torch.Tensor:
        """(n, n_labels) fp32."""
        batch = self.tokenize([example.texts for example in examples])
        logits: torch.Tensor = self.model(**batch).logits.float()
        return logits


def _is_head(prefix: str, name: str) -> bool:
    """Whether a weight is of the new layer, or of the pooler before it, which models without such a head lack."""
    return not name.startswith(f"{prefix}.") or name.startswith(f"{prefix}.pooler.")
