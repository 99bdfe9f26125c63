"""Heads that skills bring, as the server reads their labels: the backbone runs once for rows of many of them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.errors import ConfigError
from graft.mixture.mixed_model import MixedModel
from graft.patch.head_config import head_settings
from graft.patch.skill_patch import Patch
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
        patch: brings it.

    Raises:
        CheckpointError: the layer is for other labels.
    """

    def __init__(self, mixed: MixedModel, tokenizer: Any, task: TaskSpec, patch: Patch) -> None:
        super().__init__(mixed.model, tokenizer, task)
        self._mixed = mixed
        _, labels, _ = head_settings(patch.provenance.task)
        self._order = list(find_rows(labels, task.labels, "the patch"))
        self._accepted = inspect.signature(getattr(mixed.model, "base_model", mixed.model).forward).parameters

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
        """Return (n, n_labels) fp32 logits, within `skills` that name the patch for every row."""
        batch = self.pad_encoded(rows)
        batch = {name: part for name, part in batch.items() if name in self._accepted}
        return torch.stack([row[self._order] for row in self._mixed.head_logits(**batch)]).float()
