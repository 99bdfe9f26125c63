"""TIES: trim, elect signs, mean of what agrees (Yadav et al. 2023, arXiv 2306.01708).

Example, the differences of three models at five weights, already trimmed (0 is what was cut):

    model 1           .3   .2    0   .1  -.2
    model 2           .1  -.5    0   .4   .2
    model 3          -.1    0    0    0    0
    sum of them       .3  -.3    0   .5    0
    elected sign       +    -    0    +    0
    mean of agreeing  .2  -.5    0  .25    0

The mean is over the models that agree and not over all, so that a skill which a single model has is not diluted.
"""

from __future__ import annotations

import torch

from graft.compose.fusion.stretch import Stretch
from graft.tensors.dtypes import take


def fuse_stretch(stretch: Stretch) -> torch.Tensor:
    """Add to the base the scaled mean of those kept differences that have the sign of their sum, (n,) fp32."""
    base = stretch.base
    moved = torch.zeros(len(stretch.tuned), len(base))
    for row, values, kept in zip(moved, stretch.tuned, stretch.selections, strict=True):
        row.index_copy_(0, kept, take(values, kept).float().sub_(take(base, kept).float()))
    sign = moved.sum(dim=0).sign_()
    agreeing = moved.mul_(sign).clamp_(min=0)  # sizes of the differences with the elected sign, and 0 for all others
    elected = agreeing.sum(dim=0)
    elected /= agreeing.sign_().sum(dim=0).clamp_(min=1)  # in place: each is counted as 1
    return elected.mul_(sign).mul_(stretch.scale).add_(base)
