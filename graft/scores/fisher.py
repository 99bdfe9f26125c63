"""Fisher information, and the rise of the loss that it predicts where a weight is put back to the base.

For importance, the diagonal of the empirical Fisher information at the model's weights, EWC's importance (Kirkpatrick
et al. 2017, arXiv 1612.00796):

    F_i = (1/n) * sum over examples of g_i(example)^2

For localization, Fisher-weighted movement. Near the tuned weights, where the mean gradient is about 0, moving weight i
by -delta_i raises the loss by about 1/2 * F_i * delta_i^2 (Laplace's approximation; optimal brain damage, LeCun et al.
1990), with F as in Fisher-weighted merging (Matena and Raffel 2021, arXiv 2111.09832):

    score_i = F_i * delta_i^2,   F at the tuned weights

Differences: Matena and Raffel draw the labels from the model, here they are the task's; and class offsets are set aside
where localization does so everywhere. One backward pass per example. With micro-batches of b, the mean gradient of b
examples is squared instead: b times fewer passes, and an expectation of F / b + (1 - 1/b) * (mean gradient)^2. Up to
the factor 1/b that is the same order of weights where the mean gradient vanishes, and otherwise leans to weights on
which examples agree.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.scores.inputs import ImportanceInput, ScoreInput, ScoreTable
from graft.tensors.pair import CheckpointPair


def weigh_by_fisher(delta: torch.Tensor, fisher: torch.Tensor) -> torch.Tensor:
    """Return F * delta^2, elementwise."""
    return delta.square().mul_(fisher)


def score_fisher_movement(inputs: ScoreInput) -> ScoreTable:
    """Score every weight in scope by F * delta^2, F at the tuned weights."""
    fisher = inputs.model.squared_gradients_at(1.0, micro_batch=inputs.micro_batch)
    inputs.model.return_to_base()
    return {name: partial(_weighted_movement, inputs.pair, name, fisher[name]) for name in inputs.names}


def score_fisher(inputs: ImportanceInput) -> ScoreTable:
    """Score every weight by its mean squared gradient."""
    squares = inputs.gradients.of(torch.square)
    return {name: partial(torch.Tensor.clone, squares[name]) for name in inputs.weights}


def _weighted_movement(pair: CheckpointPair, name: str, fisher: torch.Tensor) -> torch.Tensor:
    """Return (n,) fp32 F * delta^2 of one tensor."""
    delta, _ = pair.read_delta(name)
    return weigh_by_fisher(delta, fisher)
