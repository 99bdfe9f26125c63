"""Task arithmetic: theta_0 + scale * sum_i (theta_i - theta_0) (Ilharco et al. 2023, arXiv 2212.04089)."""

from __future__ import annotations

import torch

from graft.compose.fusion.chunk import Chunk


def fuse_chunk(chunk: Chunk) -> torch.Tensor:
    """Add the scaled differences to the base, (n,) fp32."""
    base = chunk.base.float()
    summed = torch.zeros_like(base)
    for values in chunk.tuned:
        summed += values.float().sub(base)
    return summed.mul_(chunk.scale).add_(base)
