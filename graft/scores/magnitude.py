"""Magnitude of a weight's movement, |tuned - base|, without data.

    score_i = |delta_i|

For localization it is `magnitude`, the starting patch gamma_b of skill localization by grafting (Panigrahi et al.
2023, arXiv 2302.06600). For importance it is `movement`, the core parameters of core-parameter isolation fine-tuning
(arXiv 2508.21741), which isolates the top percent of each task's update. No differences.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.scores.inputs import ImportanceInput, ScoreInput, ScoreTable
from graft.tensors.pair import CheckpointPair


def size_of_delta(delta: torch.Tensor) -> torch.Tensor:
    """Return |delta|, elementwise."""
    return delta.abs()


def score_magnitude(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by |delta|."""
    return {name: partial(magnitude_of, inputs.pair, name) for name in inputs.names}


def score_movement(inputs: ImportanceInput) -> ScoreTable:
    """Score the weights of a tuned model by |delta|; tensors that the base lacks are left out, new rows score -inf."""
    if inputs.pair is None:
        raise ValueError("the magnitude of an update needs the base")
    base_names = {own: name for name, own in inputs.pair.names.items()}
    return {
        name: partial(_movement, inputs.pair, base_names[name], weight.numel())
        for name, weight in inputs.weights.items()
        if name in base_names
    }


def magnitude_of(pair: CheckpointPair, name: str) -> torch.Tensor:
    """Return (n,) fp32 |delta| of one tensor."""
    delta, _ = pair.read_delta(name)
    return size_of_delta(delta)


def _movement(pair: CheckpointPair, name: str, n: int) -> torch.Tensor:
    """Return (n,) fp32 |delta|, -inf for rows that the base lacks."""
    sizes = magnitude_of(pair, name)
    return torch.cat([sizes, torch.full((n - len(sizes),), -torch.inf)])
