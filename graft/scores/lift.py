"""Principal weights: the largest entries of the best approximation of low rank, without data.

LIFT (Liu et al. 2025, arXiv 2506.00772) tunes the weights that are largest in magnitude after their matrix was replaced
by its best approximation of rank r, by singular value decomposition:

    score_ij = |(W_r)_ij|,   W_r = sum over the r largest s of s u v^T

`lift` takes W = the base's weight, as published. `lift-delta` takes W = delta: a movement that many entries of its row
and column agree on is kept, and one that stands alone counts little.

Differences: r is 1/32 of the smaller side and at least 1, so 128 for sides of 4096; the mask is
chosen once, after tuning, among the entries that moved, and over the scope instead of within each matrix. Of packed
experts each is a matrix of its own. Vectors, packed biases among them, are no matrices and score 0.

    [[2, 2, 0],      of rank 1 the block of twos stays (singular value 4), and the larger entry that
     [2, 2, 0],      stands alone is gone (singular value 3)
     [0, 0, 3]]
"""

from __future__ import annotations

from functools import partial

import torch

from graft.errors import CheckpointError
from graft.scores.inputs import ScoreInput, ScoreTable
from graft.tensors.pair import CheckpointPair
from graft.tensors.transposed import has_inputs, holds_matrices

SHARE = 1 / 32  # of the smaller side


def score_lift(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by the size of the base's approximation of low rank."""
    return {name: partial(_principal_weights, inputs.pair, name) for name in inputs.names}


def score_lift_delta(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by the size of delta's approximation of low rank."""
    return {name: partial(_principal_movement, inputs.pair, name) for name in inputs.names}


def approximate(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the best approximation of (..., rows, columns) fp32 matrices of a rank, by singular values.

    Raises:
        CheckpointError: a value is not finite.
    """
    if not bool(matrix.isfinite().all()):
        raise CheckpointError("a weight is not finite: it has no approximation of low rank")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    nearest: torch.Tensor = (left[..., :rank] * values[..., None, :rank]) @ right[..., :rank, :]
    return nearest


def size_of_principal(values: torch.Tensor, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return (n,) fp32 sizes of the approximation of a tensor of that name and shape, a convolution's by rows."""
    if not has_inputs(name, shape) or not values.numel():
        return torch.zeros(values.numel())
    matrix = values.reshape(shape if holds_matrices(name, shape) else (shape[0], -1))
    rank = max(1, round(SHARE * min(matrix.shape[-2:])))
    return approximate(matrix, rank).abs().flatten()


def _principal_weights(pair: CheckpointPair, name: str) -> torch.Tensor:
    """Return (n,) fp32 sizes of the base's approximation of one tensor."""
    weight, _ = pair.read(name)
    return size_of_principal(weight.float().flatten(), name, tuple(weight.shape))


def _principal_movement(pair: CheckpointPair, name: str) -> torch.Tensor:
    """Return (n,) fp32 sizes of delta's approximation of one tensor."""
    delta, _ = pair.read_delta(name)
    return size_of_principal(delta, name, tuple(pair.base.spec(name).shape))
