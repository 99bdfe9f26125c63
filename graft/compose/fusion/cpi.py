"""Core-parameter isolation, in the style of CPI-FT (EMNLP 2025, arXiv 2508.21741).

The core of a model is the share of all weights that moved furthest in it. The rest is interpolated between the models,
then each core is transplanted over it. Example, two models at five weights, c marks a core entry:

    model 1        1   2c  3   4c  5
    model 2        2   4   6   8c  10c
    interpolated   1.5 3   4.5 6   7.5
    fused          1.5 2   4.5 6   10

What two cores hold (the fourth weight) gets the mean of these models' values, which the paper leaves open.
"""

from __future__ import annotations

import torch

from graft.compose.fusion.stretch import Shared, Stretch, Tensors
from graft.tensors.dtypes import assign, take


def fuse_stretch(stretch: Stretch) -> torch.Tensor:
    """Interpolate the models and transplant their cores, (n,) in the base's dtype."""
    rest = stretch.combine(stretch.coefficients).to(stretch.base.dtype)
    return transplant(rest, stretch.tuned, stretch.selections)


def transplant(rest: torch.Tensor, tuned: Tensors, cores: Tensors) -> torch.Tensor:
    """Write core entries over the rest: the value of the one model whose core it is, bit for bit, or a mean of several.

    Args:
        rest: (n,) in the models' dtype; written into.
        tuned: (n,) the values of each.
        cores: the selection of each model.
    """
    for values, core in zip(tuned, cores, strict=True):
        assign(rest, core, take(values, core))  # not through a sum, which would lose -0.0
    shared = Shared.of(cores)
    if len(shared.places):
        values = torch.stack([take(values, shared.places).float() for values in tuned])
        mean = torch.where(shared.held, values, 0).sum(dim=0) / shared.held.sum(dim=0)
        assign(rest, shared.places, mean.to(rest.dtype))
    return rest
