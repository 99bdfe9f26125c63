"""Heads that skills bring, as the server reads their labels: over rows of any skills, the backbone run once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.errors import ConfigError
from graft.mixture.mixed_model import MixedModel
from graft.specs.task import TaskSpec
from graft.tasks.batches import Encoded
from graft.tasks.head import Head
from graft.tasks.label_order import RowNames, find_rows
from graft.tensors.checkpoint import Checkpoint


class CarriedClassifier(Head):
    """A classification layer that lies in a patch and not in the model.

    Args:
        mixed: the resident model, to which the patch was added.
        tokenizer: its tokenizer.
        task: whose labels the layer's rows have, in any order.
        skill: the name of the skill that brings it.

    Raises:
        CheckpointError: the layer is for other labels.
        ConfigError: the skill brings none, or there is no such skill.
    """

    def __init__(self, mixed: MixedModel, tokenizer: Any, task: TaskSpec, skill: str) -> None:
        super().__init__(mixed.model, tokenizer, task)
        labels = mixed.head_labels(skill)
        if labels is None:
            raise ConfigError(f"skill {skill!r} brings no classification layer")
        self._mixed, self._skill = mixed, skill
        self._order = list(find_rows(labels, task.labels, "the patch"))

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> Head:
        """Refuse, always.

        Raises:
            ConfigError: the layer belongs to a resident model.
        """
        raise ConfigError("a head that a patch brings is read on the model that it was added to")

    def logits_of(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Return (n, n_labels) fp32 logits, within `skills`: each row's own give the states that this layer reads."""
        heads, pad = [self._skill] * len(rows), self.tokenizer.pad_token_id
        logits = self._mixed.head_logits(heads=heads, pad_token_id=pad, **self.pad_encoded(rows))
        return torch.stack([row[self._order] for row in logits]).float()
