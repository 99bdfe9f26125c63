"""Soft targets: a head whose loss is the cross-entropy to given probabilities, in place of the task's labels.

    loss = -(1/n) * sum over examples and labels of q * ln p,   q the targets, p the model's probabilities

With the outputs of another model as q it is distillation (Hinton et al. 2015, arXiv 1503.02531) at temperature 1, the
Kullback-Leibler divergence up to a constant: its gradient is zero where both models agree. With q = 1 / n_labels it is
the loss of outlier exposure (Hendrycks et al. 2019, arXiv 1812.04606), for rows that are of no class.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from graft.tasks.examples import Example
from graft.tasks.head import Head


def aim_at(head: Head, examples: Sequence[Example], targets: torch.Tensor) -> Head:
    """Return a head over the same model, whose loss on these examples is the cross-entropy to their targets.

    Args:
        head: of a task with labels or choices.
        examples: the n examples that the loss will be asked for.
        targets: (n, n_labels) fp32 probabilities; 0 where a row has no such choice.
    """
    aimed = copy.copy(head)
    rows = dict(zip(examples, targets, strict=True))

    def loss(batch: Sequence[Example], offsets: torch.Tensor | None = None) -> torch.Tensor:
        """Return the mean cross-entropy to the batch's targets, in nats, with offsets added to the logits."""
        logits = aimed.logits(batch)
        logits = logits if offsets is None else logits + offsets
        wanted = torch.stack([rows[example] for example in batch])[:, : logits.shape[1]].to(logits.device)
        # -inf marks choices that a row lacks: 0 * -inf would be NaN
        return -(wanted * logits.log_softmax(-1)).masked_fill(wanted == 0, 0.0).sum(-1).mean()

    aimed.loss = loss  # type: ignore[method-assign, assignment]
    return aimed
