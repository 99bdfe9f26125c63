"""A uniformly random score: the control that every localization must beat at the same k."""

from __future__ import annotations

import hashlib
from functools import partial

import torch

from graft.scores.inputs import ScoreInput, ScoreTable


def score_random(inputs: ScoreInput) -> ScoreTable:
    """Draw U[0, 1) for every weight in scope, by seed and tensor name alone, whatever else is in scope."""
    return {name: partial(draw, name, inputs.pair.base.spec(name).numel, inputs.seed) for name in inputs.names}


def draw(name: str, n: int, seed: int) -> torch.Tensor:
    """Return (n,) fp32 uniform draws for one tensor."""
    key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
    return torch.rand(n, generator=generator)
