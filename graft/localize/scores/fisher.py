"""Fisher-weighted movement F * delta^2: what putting a weight back to the base would cost the tuned model.

Near the tuned weights, where the mean gradient is about 0, moving weight i by -delta_i raises the loss by about
1/2 * F_i * delta_i^2 (Laplace's approximation; optimal brain damage, LeCun et al. 1990), with the diagonal of the
empirical Fisher information at the tuned weights as Fisher-weighted merging takes it (Matena and Raffel 2021, arXiv
2111.09832; theirs draws the labels from the model, here they are the task's):

    score_i = F_i * delta_i^2,   F_i = (1/n) * sum over examples of g_i(example)^2

One backward per example. With micro-batches of b, the mean gradient of b examples is squared instead: b times fewer
backwards, and an expectation of F / b + (1 - 1/b) * (mean gradient)^2. Up to the factor 1/b that is the same order of
weights where the mean gradient vanishes, and otherwise leans to weights on which examples agree.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.localize.scores.table import ScoreInput, ScoreTable
from graft.tensors.pair import CheckpointPair


def score_fisher(given: ScoreInput) -> ScoreTable:
    """F * delta^2 per weight, F at the tuned weights."""
    fisher = given.model.squared_gradients_at(1.0, micro_batch=given.micro_batch)
    given.model.return_to_base()
    return {name: partial(weighted_movement, given.pair, name, fisher[name]) for name in given.names}


def weighted_movement(pair: CheckpointPair, name: str, fisher: torch.Tensor) -> torch.Tensor:
    """(n,) fp32 F * delta^2 of one tensor."""
    delta, _ = pair.read_delta(name)
    return delta.square_().mul_(fisher)
