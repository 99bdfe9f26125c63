"""Core-parameter isolation, in the style of CPI-FT (EMNLP 2025, arXiv 2508.21741).

The core of a model is the share of all weights that changed most in it. The rest is interpolated between the models,
then each core is transplanted over it. Example, two models at five weights, c marks a core entry:

    model 1        1   2c  3   4c  5
    model 2        2   4   6   8c  10c
    interpolated   1.5 3   4.5 6   7.5
    fused          1.5 2   4.5 6   10

A weight in two cores (the fourth) gets the mean of these models' values, a case that the paper leaves open.
"""

from __future__ import annotations

import torch

from graft.compose.fusion.chunk import Chunk, Shared, Tensors
from graft.tensors.dtypes import assign, take


def fuse_chunk(chunk: Chunk) -> torch.Tensor:
    """Interpolate the models and transplant their cores, (n,) in the base's dtype."""
    rest = chunk.combine(chunk.coefficients).to(chunk.base.dtype)
    return transplant(rest, chunk.tuned, chunk.selections, chunk.shared)


def transplant(rest: torch.Tensor, tuned: Tensors, cores: Tensors, shared: Shared) -> torch.Tensor:
    """Write core entries over the rest: bit for bit the value of the model whose core it is, or the mean of several.

    Args:
        rest: (n,) in the models' dtype; written into.
        tuned: (n,) the values of each model.
        cores: the selection of each model.
        shared: the entries that several of them have.
    """
    for values, core in zip(tuned, cores, strict=True):
        assign(rest, core, take(values, core))  # not through a sum, which would lose -0.0
    if len(shared.indices):
        values = torch.stack([take(values, shared.indices).float() for values in tuned])
        mean = torch.where(shared.members, values, 0).sum(dim=0) / shared.members.sum(dim=0)
        assign(rest, shared.indices, mean.to(rest.dtype))
    return rest
