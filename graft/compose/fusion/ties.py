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

from graft.compose.fusion.chunk import Chunk
from graft.tensors.dtypes import take


def fuse_chunk(chunk: Chunk) -> torch.Tensor:
    """Add to the base the scaled mean of the selected differences that have the sign of their sum, (n,) fp32."""
    base = chunk.base
    deltas = torch.zeros(len(chunk.tuned), len(base))
    for row, values, selected in zip(deltas, chunk.tuned, chunk.selections, strict=True):
        row.index_copy_(0, selected, take(values, selected).float().sub_(take(base, selected).float()))
    sign = deltas.sum(dim=0).sign_()
    agreeing = deltas.mul_(sign).clamp_(min=0)  # sizes of the differences with the elected sign, and 0 for all others
    elected = agreeing.sum(dim=0)
    elected /= agreeing.sign_().sum(dim=0).clamp_(min=1)  # in place: each is counted as 1
    return elected.mul_(sign).mul_(chunk.scale).add_(base)
