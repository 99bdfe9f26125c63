"""The running spherical mean of the weights, t = 1/j for the j-th model (Shoemake 1985, SIGGRAPH).

slerp(u, v; t) is linear in u and v once the angle between them is known, so that the mean of all models is one sum with
coefficients from their dot products (`graft.compose.fusion.angles`), and each weight is touched once. Example: of two
unit vectors 60 degrees apart the mean is (u + v) sin 30 / sin 60 = .577 (u + v), again of length 1; their plain mean
.5 (u + v) has length .866.
"""

from __future__ import annotations

import torch

from graft.compose.fusion.chunk import Chunk


def fuse_chunk(chunk: Chunk) -> torch.Tensor:
    """Return the spherical mean, (n,) fp32."""
    return chunk.combine(chunk.coefficients)
