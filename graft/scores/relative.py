"""Relative movement |delta| / |theta|: a weight's movement in proportion to its own size, without data.

It is the per-weight form of the ratio of update to weight that LARS keeps equal over layers (You et al. 2017, arXiv
1708.03888): a small weight that doubled counts more than a large one that moved as far.

    score_i = |delta_i| / (|theta_i| + eps),   eps = 1e-2 * root mean square of theta over the scope

Without eps every weight that is exactly 0 in the base (biases, pruned weights) and moved at all would score infinity,
and all of these would tie. With it, weights far below a hundredth of the usual size are ordered by |delta| alone. The
mean is over the scope and not over the tensor, because a tensor can be all zeros.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from graft.scores.inputs import ScoreInput, ScoreTable
from graft.tensors.pair import CheckpointPair

FLOOR = 1e-2  # of the usual size of a weight


def score_relative(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by |delta| / (|theta| + eps)."""
    eps = FLOOR * usual_size(inputs.pair, inputs.names)
    return {name: partial(_relative_movement, inputs.pair, name, eps) for name in inputs.names}


def usual_size(pair: CheckpointPair, names: tuple[str, ...]) -> float:
    """Return the root mean square of the base's weights; 1 where all are 0, so that |delta| itself decides."""
    squares = sum(float(pair.base.read(name).double().square().sum()) for name in names)
    n = sum(pair.base.spec(name).numel for name in names)
    return math.sqrt(squares / n) if squares else 1.0


def relate_to_size(delta: torch.Tensor, theta: torch.Tensor, eps: float) -> torch.Tensor:
    """Return |delta| / (|theta| + eps), elementwise."""
    return delta.abs().div_(theta.abs() + eps)


def _relative_movement(pair: CheckpointPair, name: str, eps: float) -> torch.Tensor:
    """Return (n,) fp32 |tuned - base| / (|base| + eps) of one tensor."""
    delta, _ = pair.read_delta(name)
    return relate_to_size(delta, pair.base.read(name).flatten().float(), eps)
