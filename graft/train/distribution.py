"""Training over several processes: each takes a part of every batch, and torch's own engine adds the gradients up.

The gradient of a batch's mean loss is the weighted mean of its parts' gradients,

    g = sum over ranks r of |B_r| / |B| * g_r = 1/R * sum over r of (R * |B_r| / |B|) * g_r,    |B| the weight of B,

and both engines take the mean over the R ranks; each rank therefore multiplies its own mean loss by R * |B_r| / |B|.
The update is the single process's up to rounding, for the same examples in the same order. Where a batch has fewer
examples than there are ranks, those without one run an example with weight 0, because every rank must take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graft.parallel.sharded import is_sharded
from graft.tasks.examples import Example
from graft.tasks.head import Head


class WeightedLoss(torch.nn.Module):
    """The loss of heads over one model as a module, for engines that wrap modules.

    Attributes:
        model: the model of the heads.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, head: Head, batch: Sequence[Example], weight: float) -> torch.Tensor:
        """Return the mean cross-entropy in nats times a weight, a scalar."""
        return head.loss(batch) * weight


class SharedLoss:
    """The loss of a batch of which each process takes a part.

    Args:
        head: over the model in training, whole or sharded by FSDP2, with the processes that share the work.
    """

    def __init__(self, head: Head) -> None:
        self.ranks = head.ranks
        self._loss: Any = WeightedLoss(head.model)
        if not head.ranks.is_single and not is_sharded(head.model):
            from torch.nn.parallel import DistributedDataParallel

            # unused parameters: a pooler that the head does not read; the buffers of these models are constants
            self._loss = DistributedDataParallel(self._loss, find_unused_parameters=True, broadcast_buffers=False)

    def backward(self, head: Head, batch: Sequence[Example]) -> torch.Tensor:
        """Add the gradient of the whole batch's mean loss on every process; return that loss in nats. Collective."""
        ranks = self.ranks
        part = batch[ranks.rank :: ranks.world]
        loss = self._loss(head, part or batch[:1], ranks.world * head.share(part, batch))
        loss.backward()
        losses = torch.stack(ranks.gather(loss.detach()))
        return losses.mean()
