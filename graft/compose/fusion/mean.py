"""The mean of the weights: sum_i theta_i / m (Wortsman et al. 2022, model soups, arXiv 2203.05482)."""

from __future__ import annotations

import torch

from graft.compose.fusion.stretch import Stretch


def fuse_stretch(stretch: Stretch) -> torch.Tensor:
    """Return the mean, (n,) fp32."""
    m = len(stretch.tuned)
    return stretch.combine([1 / m] * m)
