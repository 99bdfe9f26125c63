"""Inputs of a score, for localization and for importance, and the table of scores that it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from graft.scores.coordinates import Groups
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import GradientMean
from graft.specs.localize import CandidateSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tensors.pair import CheckpointPair

# tensor name -> a function that gives its (n,) fp32 scores, higher = more likely to hold the skill; calling it
# again gives the same, so that a selection may take several passes and never hold more than one tensor
ScoreTable = Mapping[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class ScoreInput:
    """Inputs of a score for localization, of which each score uses what it needs.

    Attributes:
        pair: base and tuned checkpoints.
        names: the tensors in scope, ascending.
        seed: for scores that draw.
        points: of the path from base to tuned, for scores that follow it.
        path: the model on the path from base to tuned with the task's data; None for scores without data.
        straight: take the straight path, instead of the graft's own.
        groups: how the budget is shared out, for scores that look at their own graft or at candidates.
        candidates: how to find the candidates that attribution looks at alone; None scores every weight, which takes
            4 bytes per weight in scope of host memory.
        micro_batch: examples whose gradients are averaged before they are squared, for scores that square them.
        general: texts that have no part in the skill, for scores that contrast the task's with them.
        general_head: over the same model, which reads these in their task's template; None: the texts alone are read.
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
    general: Sequence[Example] = ()
    general_head: Head | None = None

    @property
    def model(self) -> GradientPath:
        """The path, which must be there."""
        if self.path is None:
            raise ValueError("this score needs a task's data")
        return self.path


@dataclass(frozen=True, eq=False)
class ImportanceInput:
    """Inputs of a score of importance, of which each score uses what it needs.

    Attributes:
        weights: tensor name -> the checkpoint's values, mapped from disk.
        mean: means of functions of the task's gradients; None without data.
        pair: base and model; None where the base is not known.
        record: Omega as it was recorded while the model was tuned, -inf where it was not; None without a record.
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
