"""What a score is computed from, for localization and for importance, and the table of scores that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from graft.scores.coordinates import Groups
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import GradientMean
from graft.specs.localize import CandidateSpec
from graft.tensors.pair import CheckpointPair

# tensor name -> a function that gives its (n,) fp32 scores, higher = more likely to hold the skill; calling it
# again gives the same, so that a selection may take several passes and never hold more than one tensor
ScoreTable = Mapping[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class ScoreInput:
    """What a score for localization is computed from; a score asks only for what it needs.

    Attributes:
        pair: base and tuned checkpoints.
        names: the tensors in scope, ascending.
        seed: for scores that draw.
        points: for scores that walk from base to tuned.
        path: the model on its way from base to tuned with the task's data; None for scores without data.
        straight: whether that walk is the straight one, instead of the graft's own.
        groups: how the budget is shared out, for scores that look at their own graft or at candidates.
        candidates: how to find the candidates that attribution looks at alone; None scores every weight, which takes
            4 bytes per weight in scope of host memory.
        micro_batch: examples whose gradients are averaged before they are squared, for scores that square them.
    """

    pair: CheckpointPair
    names: tuple[str, ...]
    seed: int = 0
    points: int = 8
    path: GradientPath | None = None
    straight: bool = True
    groups: Groups = ()
    candidates: CandidateSpec | None = None
    micro_batch: int = 1

    @property
    def model(self) -> GradientPath:
        """The path, which must be there."""
        if self.path is None:
            raise ValueError("this score needs a task's data")
        return self.path


@dataclass(frozen=True, eq=False)
class ImportanceInput:
    """What a score of importance is computed from; a score asks only for what it needs.

    Attributes:
        weights: tensor name -> the checkpoint's values, mapped from disk.
        mean: means of functions of the task's gradients, where there is data.
        pair: base and model, where the base is known.
        record: Omega of what was recorded while the model was tuned, -inf where nothing was, where there is a record.
    """

    weights: Mapping[str, torch.Tensor]
    mean: GradientMean | None = None
    pair: CheckpointPair | None = None
    record: ScoreTable | None = None

    @property
    def gradients(self) -> GradientMean:
        """The means, which must be there."""
        if self.mean is None:
            raise ValueError("this score needs a task's data")
        return self.mean
