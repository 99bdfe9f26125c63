"""A head of one file: the longer a text, the more probable the last label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from graft.specs.task import TaskSpec
from graft.tasks.batches import Encoded
from graft.tasks.head import Head
from graft.tasks.label_order import RowNames
from graft.tasks.loading import load_model, load_tokenizer
from graft.tasks.registry import HeadEntry
from graft.tensors.checkpoint import Checkpoint

ROW = HeadEntry(
    name="length",
    help="the length of the text in tokens",
    target="tests.tasks.toy_head:LengthHead",
    keys=("words",),
)


class LengthHead(Head):
    """Logits from the length of a text alone."""

    @classmethod
    def load(
        cls, model: Path | Checkpoint, task: TaskSpec, dtype: Any, *, rows: RowNames | None = None, renew: bool = False
    ) -> LengthHead:
        """Load the bare model, which is not looked at."""
        from transformers import AutoModel

        loaded, _ = load_model(AutoModel, model, dtype, may_lack=lambda prefix, name: name.startswith("pooler."))
        return cls(loaded, load_tokenizer(model), task)

    def logits_of(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """(n, n_labels) fp32."""
        lengths = torch.tensor([len(row.ids) for row in rows], dtype=torch.float32)
        return lengths.unsqueeze(1) * torch.arange(len(self.task.labels))
