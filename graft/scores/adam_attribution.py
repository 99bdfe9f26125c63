"""Attribution in Adam's metric: the first-order fall of the loss over the size of a weight's own gradients.

    score_i = -g_i * delta_i / (sqrt(v_i) + eps),   v_i = (1/n) * sum over examples of g_i(example)^2

with g the mean gradient, both at the base. Adam (Kingma and Ba 2014, arXiv 1412.6980) divides a weight's step by
sqrt(v_i), its running mean of squared gradients: it moves all weights about as far, whatever their gradients' scale. In
that metric -g * delta, which its steps inflate where gradients are large, becomes a ratio of signal to noise: how
consistently the examples pull the weight the way it went.

Differences: eps is a hundredth of the root of v's mean over the scope, where Adam has 1e-8, so that no factor of the
loss matters, and weights that no prediction depends on, whose gradients are rounding noise, score about 0; v is the
plain mean over the task's examples at one point and not a running one along training. It takes one backward pass an
example, or a micro-batch where `micro_batch` says so, as for the Fisher information (`graft.scores.fisher`).

Two weights that moved by -1: gradients .9 and 1.1 of two examples score 1 / 1.005, gradients 9 and -5 score 2 / 7.28
though the second's mean is twice the first's.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from graft.scores.inputs import ScoreInput, ScoreTable
from graft.tensors.pair import CheckpointPair

FLOOR = 1e-2  # of the usual size of a gradient


def score_adam_attribution(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by -g * delta / sqrt(v), at the base."""
    path = inputs.model
    squares = path.squared_gradients_at(0.0, micro_batch=inputs.micro_batch)
    mean = path.gradients_at(0.0)
    n = sum(len(squares[name]) for name in inputs.names)
    eps = FLOOR * math.sqrt(sum(float(squares[name].double().sum()) for name in inputs.names) / n)
    eps = eps or 1.0  # all scores are 0
    return {name: partial(_attribute, inputs.pair, name, mean[name], squares[name], eps) for name in inputs.names}


def attribute_by_adam(delta: torch.Tensor, gradient: torch.Tensor, square: torch.Tensor, eps: float) -> torch.Tensor:
    """Return -g * delta / (sqrt(v) + eps), elementwise."""
    return (delta * gradient).neg_().div_(square.sqrt() + eps)


def _attribute(
    pair: CheckpointPair, name: str, gradient: torch.Tensor, square: torch.Tensor, eps: float
) -> torch.Tensor:
    """Return (n,) fp32 scores of one tensor."""
    delta, _ = pair.read_delta(name)
    return attribute_by_adam(delta, gradient, square, eps)
