"""The shard of a tensor that this process holds: flat indices of the whole mapped to a DTensor's local shard.

A mask speaks of whole tensors: flat row-major indices, the same on every process. FSDP2 (`fully_shard`) and other
users of `torch.distributed.tensor` leave each process a box of each tensor, cut along one or more dimensions, which
may be smaller than its neighbors' or empty. Everything here is about that box. A plain tensor is one shard, the whole,
so that code written with these functions runs on one process and on many; only `sum_over_shards` communicates.

    shard = shard_of(weight)
    positions, local = shard.locate(indices)  # indices[positions] are here, at these flat indices of local_of(weight)
    local_of(weight)                          # the local tensor, sharing the weight's memory
    shard.cut(tensor)                         # the same box of a full tensor, such as the base's, as a view

Of a 4 x 3 weight cut between two processes the second holds rows 2 and 3, offset (2, 0) and size (2, 3). Of the indices
[1, 7, 11] it has positions [1, 2], which are [1, 5] in its shard: 7 is [2, 1] there, [0, 1] here.

`graft.tensors.dtypes.take` and `assign` do all this by themselves: `assign` writes what falls into the shard here, and
`take` gives the values to every process that holds a shard, which makes it a collective call.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch

from graft.errors import CheckpointError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Shard:
    """A box of a tensor.

    Attributes:
        shape: of the whole tensor.
        offset: of the box's first element, per dimension.
        size: of the box, per dimension; a 0 makes it empty.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of_splits(cls, shape: Sequence[int], splits: Sequence[tuple[int, int, int]]) -> Shard:
        """Return the box that is left after splits (dimension, number of parts, which part), one after another.

        Each split is that of `torch.chunk`: parts of ceil(size / number), the last ones smaller or empty.
        """
        offset, size = [0] * len(shape), list(shape)
        for dimension, number, part in splits:
            chunk = -(-size[dimension] // number)
            start = min(chunk * part, size[dimension])
            offset[dimension] += start
            size[dimension] = min(chunk, size[dimension] - start)
        return cls(tuple(shape), tuple(offset), tuple(size))

    @property
    def numel(self) -> int:
        """Number of elements here."""
        return math.prod(self.size)

    @property
    def is_whole(self) -> bool:
        """True where every element is here."""
        return self.size == self.shape

    @property
    def start(self) -> int:
        """Flat index of its first element; the others follow it where the cut is along the first dimension."""
        if any(length != full for length, full in zip(self.size[1:], self.shape[1:], strict=True)):
            raise CheckpointError("weights must be cut along their first dimension, as fully_shard does by itself")
        return self.offset[0] * math.prod(self.shape[1:]) if self.shape else 0

    def locate(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Find which of some elements of the whole are here, and where.

        Args:
            indices: (k,) int64 flat row-major indices of the whole, in any order.

        Returns:
            positions: (m,) int64, m <= k, ascending: indices[positions] are the elements here.
            local: (m,) int64, their flat row-major indices in the shard.
        """
        if self.is_whole:
            return torch.arange(len(indices), device=indices.device), indices
        coordinates = torch.unravel_index(indices, self.shape)
        inside = torch.ones_like(indices, dtype=torch.bool)
        local = torch.zeros_like(indices)
        for coordinate, start, length in zip(coordinates, self.offset, self.size, strict=True):
            inside &= (coordinate >= start) & (coordinate < start + length)
            local = local * length + (coordinate - start)
        positions = inside.nonzero().squeeze(1)
        return positions, local[positions]

    def globalize(self, local: torch.Tensor) -> torch.Tensor:
        """Map (m,) int64 flat indices in the shard to (m,) int64 of the whole, in the same order."""
        if self.is_whole or not len(local):
            return local
        result = torch.zeros_like(local)
        coordinates = torch.unravel_index(local, self.size)
        for coordinate, start, length in zip(coordinates, self.offset, self.shape, strict=True):
            result = result * length + (coordinate + start)
        return result

    def cut(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the box of a full tensor of that shape: a view of shape `size`."""
        for dimension, (start, length) in enumerate(zip(self.offset, self.size, strict=True)):
            tensor = tensor.narrow(dimension, start, length)
        return tensor


def is_distributed(tensor: torch.Tensor) -> TypeGuard[DTensor]:
    """Return whether a tensor is a DTensor, sharded over processes; asking costs no import."""
    module: Any = sys.modules.get("torch.distributed.tensor")  # where nothing imported it, nothing can be one
    return module is not None and isinstance(tensor, module.DTensor)


def local_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the elements of a tensor that are here: a DTensor's local shard, anything else itself, detached.

    It shares the tensor's memory, so that writing into it writes into the weight.
    """
    tensor = tensor.detach()
    return tensor.to_local() if is_distributed(tensor) else tensor


def shard_of(tensor: torch.Tensor) -> Shard:
    """Return the shard of a tensor that is here: of a plain tensor the whole.

    Raises:
        CheckpointError: a layout that has no box, such as a pending sum or interleaved shards.
    """
    if not is_distributed(tensor):
        return Shard.of_splits(tuple(tensor.shape), [])
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor import Shard as ShardPlacement

    splits, mesh = [], tensor.device_mesh
    for axis, placement in enumerate(tensor.placements):
        if type(placement) is ShardPlacement:
            splits.append((placement.dim, mesh.size(axis), mesh.get_local_rank(axis)))
        elif type(placement) is not Replicate:
            raise CheckpointError(f"a tensor placed as {placement} has no shard of its own: use FSDP2 (fully_shard)")
    return Shard.of_splits(tuple(tensor.shape), splits)


def sum_over_shards(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum a vector over the processes that hold the shards of a tensor: a collective call of all of them.

    Args:
        tensor: a DTensor, or a plain tensor, for which nothing happens.
        values: of any shape, on the local tensor's device, zero where an element is not here; changed in place.
    """
    if is_distributed(tensor):
        for axis, placement in enumerate(tensor.placements):
            if placement.is_shard():
                torch.distributed.all_reduce(values, group=tensor.device_mesh.get_group(axis))
    return values
