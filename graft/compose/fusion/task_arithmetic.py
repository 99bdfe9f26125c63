"""Task arithmetic: theta_0 + scale * sum_i (theta_i - theta_0) (Ilharco et al. 2023, arXiv 2212.04089)."""

from __future__ import annotations

import torch

from graft.compose.fusion.stretch import Stretch


def fuse_stretch(stretch: Stretch) -> torch.Tensor:
    """Add the scaled differences to the base, (n,) fp32."""
    base = stretch.base.float()
    moved = torch.zeros_like(base)
    for values in stretch.tuned:
        moved += values.float().sub(base)
    return moved.mul_(stretch.scale).add_(base)
