"""The k weights with the largest |gradient| of the task's mean loss at the base: which few weights to train.

With f the mean loss over the training examples and w the base's weights, the first steps of any training move along
-grad f(w). To first order a step of one size on k weights lowers f most where |df/dw_i| is largest, so that no training
is needed to choose them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from graft.localize.budget import resolve_budget
from graft.parallel.ranks import Ranks
from graft.patch.mask import Indices, Mask
from graft.scores.gradients import DenseSum, sum_mean_gradients
from graft.scores.selection import select_top
from graft.specs.train import TrainSpec
from graft.tensors.checkpoint import Checkpoint
from graft.train.multitask_data import MultiTaskData
from graft.train.protection.protected_set import ProtectedSet, protected_entries
from graft.train.stepper import set_trainable
from graft.train.trainable_weights import find_trainable


def find_gradient_support(
    data: MultiTaskData, base: Checkpoint, config: TrainSpec, density: float, core: ProtectedSet
) -> Mask:
    """Find exactly the share of a base's parameters whose gradients are largest; ties go by tensor name, then index.

    One backward pass over the training examples, without dropout; a sum takes 4 bytes of host memory per weight.

    Args:
        data: the examples, and the heads over the live base.
        base: its checkpoint.
        config: the train block: which weights are in scope, and how many examples fit into one pass.
        density: the share.
        core: what may not move, and so is not taken.

    Raises:
        BudgetError: there are fewer weights than that.
        CheckpointError: the loss or a gradient is not finite.
    """
    model, held = data.heads[0].model, protected_entries(base, core)
    set_trainable(model, config)
    weights = find_trainable(model, base.names)
    sums, ranks = _sum_gradients(data, weights, config.examples_at_once), data.heads[0].ranks
    scores = {name: partial(_score, sums[name], held[name], ranks) for name in weights}
    indices = select_top(scores, list(weights), resolve_budget(base.n_parameters, density, None))
    return Mask.of({name: base.spec(name) for name in indices}, indices)


def _sum_gradients(
    data: MultiTaskData, weights: Mapping[str, torch.Tensor], batch_size: int
) -> dict[str, torch.Tensor]:
    """Return this process's part of the gradient of the mean loss over all tasks' examples: name -> (n,) fp32."""
    sink, n = DenseSum(weights), sum(data.sizes)
    for head, examples in zip(data.heads, data.train, strict=True):
        sum_mean_gradients(head, weights, sink, examples, batch_size, n=n)
    return sink.sums


def _score(part: torch.Tensor, held: Indices, ranks: Ranks) -> torch.Tensor:
    """Return (n,) fp32 |gradient|, added up over processes; -inf at what may not move."""
    return ranks.add(part).abs().index_fill_(0, torch.tensor(held), -torch.inf)
