"""The processes of a run, seen from one of them: how work is dealt out, and what they tell one another.

Alone (one process, the usual case) everything here is the identity and talks to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among `world` processes that run the same program; `graft.parallel.launch.find_ranks` knows them.

    Methods that say "collective" must be called by all of them in the same order.

    Attributes:
        rank: this process, 0 to world - 1.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def is_single(self) -> bool:
        """True where there is but one process."""
        return self.world == 1

    @property
    def is_first(self) -> bool:
        """True in the process that writes files and speaks."""
        return self.rank == 0

    def shard(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """Return this process's share of some items, one in turn for each: (item, whether it counts).

        All get equally many, because each may mean a collective call, as a forward pass of sharded weights does:
        where items run out the last one is repeated, and does not count.
        """
        rounds = range(-(-len(items) // self.world))
        places = [number * self.world + self.rank for number in rounds]
        return [(items[min(place, len(items) - 1)], place < len(items)) for place in places]

    def collect(self, values: Sequence[float], n: int) -> list[float]:
        """Collect one value per item of n, in the items' order, from those computed here and elsewhere; collective."""
        parts = self.gather(torch.tensor(values, dtype=torch.float64))
        return [float(parts[place % self.world][place // self.world]) for place in range(n)]

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Gather every process's tensor, of one shape and dtype, in the order of ranks; collective.

        What the others hold arrives bit for bit: world times the tensor's bytes come in.
        """
        if self.is_single:
            return [tensor]
        sent = tensor.detach().to(_device_of_messages(tensor)).contiguous()
        parts = [torch.empty_like(sent) for _ in range(self.world)]
        torch.distributed.all_gather(parts, sent)
        return [part.to(tensor.device) for part in parts]

    def gather_objects(self, item: T) -> list[T]:
        """Gather every process's object, of any size, in the order of ranks; collective."""
        if self.is_single:
            return [item]
        items: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Wait until all are here; collective."""
        self.gather(torch.zeros(1))


def _device_of_messages(tensor: torch.Tensor) -> torch.device:
    """Return where the group can take a tensor from: a group made by others may know GPUs alone."""
    known = torch.distributed.get_backend_config()
    return tensor.device if tensor.device.type in known else torch.device("cuda", torch.cuda.current_device())
