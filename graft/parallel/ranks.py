"""Processes of a run as one of them sees them: its share of the work, and collective calls.

In a single process, the usual case, everything here is the identity and no message is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """A process among `world` that run the same program, as `graft.parallel.launch.find_ranks` finds it.

    Methods that say "collective" must be called by all of them in the same order.

    Attributes:
        rank: this process, 0 to world - 1.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_single(self) -> bool:
        """True where there is only one process."""
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and prints."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Return this process's share of some items, dealt out in turn: (item, whether it counts).

        All get equally many, because each may mean a collective call, as a forward pass of sharded weights does:
        where items run out the last one is repeated, and does not count. Of a, b, c in two processes the first gets
        (a, True), (c, True), the second (b, True), (c, False).
        """
        turns = range(-(-len(items) // self.world))
        positions = [turn * self.world + self.rank for turn in turns]
        return [(items[min(position, len(items) - 1)], position < len(items)) for position in positions]

    def collect(self, values: Sequence[float], n: int) -> list[float]:
        """Collect one value per item of n, in the items' order, from those computed here and elsewhere; collective."""
        parts = self.gather(torch.tensor(values, dtype=torch.float64))
        return [float(parts[position % self.world][position // self.world]) for position in range(n)]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Gather every process's tensor, of one shape and dtype, in the order of ranks; collective.

        Tensors arrive bit for bit; each process receives `world` times the tensor's bytes.
        """
        if self.is_single:
            return [tensor]
        sent = tensor.detach().to(_device_of_messages(tensor)).contiguous()
        parts = [torch.empty_like(sent) for _ in range(self.world)]
        torch.distributed.all_gather(parts, sent)
        return [part.to(tensor.device) for part in parts]

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of every process's tensor, added in the order of ranks: the same bits on each; collective."""
        return reduce(torch.Tensor.add, self.gather(tensor))

    def gather_objects(self, item: T) -> list[T]:
        """Gather every process's object, of any size, in the order of ranks; collective."""
        if self.is_single:
            return [item]
        items: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Wait until all processes have called this; collective."""
        self.gather(torch.zeros(1))


def _device_of_messages(tensor: torch.Tensor) -> torch.device:
    """Return a device from which the group can send a tensor: a group made by others may know GPUs alone."""
    device_types = torch.distributed.get_backend_config()
    return tensor.device if tensor.device.type in device_types else torch.device("cuda", torch.cuda.current_device())
