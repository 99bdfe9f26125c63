"""The mean of the weights: sum_i theta_i / m (Wortsman et al. 2022, model soups, arXiv 2203.05482)."""

from __future__ import annotations

import torch

from graft.compose.fusion.chunk import Chunk


def fuse_chunk(chunk: Chunk) -> torch.Tensor:
    """Return the mean, (n,) fp32."""
    m = len(chunk.tuned)
    return chunk.combine([1 / m] * m)
