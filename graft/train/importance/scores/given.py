"""What a score of importance is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graft.tensors.pair import CheckpointPair
from graft.train.importance.consolidation import Consolidation
from graft.train.importance.gathering import GradientMean


@dataclass(frozen=True, eq=False)
class ImportanceInput:
    """What scores are computed from; a score asks only for what it needs.

    Attributes:
        weights: tensor name -> the checkpoint's values, mapped from disk.
        mean: means of functions of the task's gradients, where there is data.
        pair: base and model, where the base is known.
        record: what was recorded while the model was tuned, where it was.
    """

    weights: Mapping[str, torch.Tensor]
    mean: GradientMean | None = None
    pair: CheckpointPair | None = None
    record: Consolidation | None = None

    @property
    def gradients(self) -> GradientMean:
        """The means, which must be there."""
        if self.mean is None:
            raise ValueError("this score needs a task's data")
        return self.mean
