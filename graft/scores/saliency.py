"""Saliency |g * theta|: the change of the loss, to first order, if a weight were set to 0.

    score_i = |theta_i| * mean over micro-batches of |g_i|

SNIP's connection sensitivity (Lee et al. 2019, arXiv 1810.02340) before its normalization, with the absolute value
taken per micro-batch, so that examples that pull a weight in opposite ways both count. It is the default of what
selective parameter optimization (arXiv 2604.17051) calls gradient-based element importance; its own formula was not
available, hence "in the style of".
"""

from __future__ import annotations

from functools import partial

import torch

from graft.scores.inputs import ImportanceInput, ScoreTable


def score_saliency(inputs: ImportanceInput) -> ScoreTable:
    """Score every weight by |theta| * mean |g|."""
    sizes = inputs.gradients.of(torch.abs)
    return {name: partial(weigh_by_size, weight, sizes[name]) for name, weight in inputs.weights.items()}


def weigh_by_size(weight: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return (n,) fp32 |theta| * mean |g| of one tensor, whose mean |g| is `size` (n,) fp32."""
    return weight.flatten().float().abs().mul_(size)
