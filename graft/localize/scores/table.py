"""What a score is given, and what it gives: per tensor, fp32 scores that are made when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from graft.localize.path import GradientPath
from graft.patch.mask import Mask
from graft.tensors.pair import CheckpointPair

# tensor name -> a function that gives its (n,) fp32 scores, higher = more likely to hold the skill; calling it
# again gives the same, so that a selection may take several passes and never hold more than one tensor
ScoreTable = Mapping[str, Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class ScoreInput:
    """What scores are computed from.

    Attributes:
        pair: base and tuned checkpoints.
        names: the tensors in scope, ascending.
        seed: for scores that draw.
        points: for scores that walk from base to tuned.
        path: the model on its way from base to tuned with the task's data; None for scores without data.
        choose: from a table of scores to the mask that they would select, for scores that look at their own graft;
            None keeps to the straight path.
        micro_batch: examples whose gradients are averaged before they are squared, for scores that square them.
    """

    pair: CheckpointPair
    names: tuple[str, ...]
    seed: int = 0
    points: int = 8
    path: GradientPath | None = None
    choose: Callable[[ScoreTable], Mask] | None = None
    micro_batch: int = 1
