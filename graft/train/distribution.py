"""Training over several processes: each takes a part of every batch, and torch's own engine adds the gradients up.

The gradient of a batch's mean loss is the weighted mean of its parts' gradients,

    g = sum over ranks r of |B_r| / |B| * g_r = 1/R * sum over r of (R * |B_r| / |B|) * g_r,    |B| the weight of B,

and both engines take the mean over the R ranks; each rank therefore multiplies its own mean loss by R * |B_r| / |B|.
The update is the single process's up to rounding, for the same examples in the same order. Where a batch has fewer
examples than there are ranks, those without one run an example with weight 0, because every rank must take part.

Micro-batches divide a part further: their gradients, each times its share of the batch, accumulate in the weights', and
those of all ranks are added up with the last. Examples that the head has no output for, such as a text of one token,
count nowhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from graft.errors import DataError
from graft.parallel.sharded import is_sharded
from graft.tasks.examples import Example, sort_by_length
from graft.tasks.head import Head
from graft.train.master_weights import MasterWeights


class WeightedLoss(torch.nn.Module):
    """The loss of heads over one model as a module, for engines that wrap modules.

    Attributes:
        model: the model of the heads.
    """

    def __init__(self, model: Any, masters: MasterWeights) -> None:
        super().__init__()
        self.model = model
        self._masters = masters

    def forward(self, head: Head, batch: Sequence[Example], weight: float) -> torch.Tensor:
        """Return the mean cross-entropy in nats times a weight, a scalar."""
        with self._masters.autocast():
            return head.loss(batch) * weight


class SharedLoss:
    """The loss of a batch of which each process takes a part.

    Args:
        head: over the model in training, whole or sharded by FSDP2, with the processes that share the work.
        masters: its weights.
        micro_batch_size: examples that go through the model at once on each process; all of a part where absent.
    """

    def __init__(self, head: Head, masters: MasterWeights, micro_batch_size: int | None = None) -> None:
        self.ranks = head.ranks
        self._size = micro_batch_size
        self._loss: Any = WeightedLoss(head.model, masters)
        if not head.ranks.is_single and not is_sharded(head.model):
            from torch.nn.parallel import DistributedDataParallel

            # unused parameters: a pooler that the head does not read; the buffers of these models are constants
            self._loss = DistributedDataParallel(self._loss, find_unused_parameters=True, broadcast_buffers=False)

    def backward(self, head: Head, batch: Sequence[Example]) -> torch.Tensor:
        """Add the gradient of the whole batch's mean loss on every process; return that loss in nats. Collective."""
        micro_batches, losses = self._split(head, batch), []
        for number, (part, share) in enumerate(micro_batches, start=1):
            with self._sync(number == len(micro_batches)):
                loss = self._loss(head, part, self.ranks.world * share)
                loss.backward()
            losses.append(loss.detach())
        return torch.stack(self.ranks.gather(torch.stack(losses).sum())).mean()

    def _split(self, head: Head, batch: Sequence[Example]) -> list[tuple[Sequence[Example], float]]:
        """Return this process's micro-batches with their shares of the batch: equally many on every process."""
        ranks, largest = self.ranks, -(-len(batch) // self.ranks.world)
        size = min(self._size or largest, largest)
        if ranks.is_single and size == len(batch):
            return [(batch, 1.0)]
        try:
            counted = head.with_outputs(batch)
        except DataError:  # nothing counts, such as where all answers of the batch are cut: the loss says so, or is 0
            counted = list(batch)
        part = counted[ranks.rank :: ranks.world]
        if size < largest:  # examples of similar length together, which saves padding
            part = sort_by_length(part)
        parts = [part[start : start + size] for start in range(0, largest, size)]
        return [(one, head.share(one, counted)) if one else (counted[:1], 0.0) for one in parts]

    def _sync(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Enter a context in which DistributedDataParallel adds gradients up only with the last micro-batch."""
        waits = isinstance(self._loss, torch.nn.parallel.DistributedDataParallel) and not is_last
        return self._loss.no_sync() if waits else contextlib.nullcontext()
