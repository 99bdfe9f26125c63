"""Protection by restoring: the values of the protected entries are stored, and written back after each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from graft.tensors.dtypes import as_bits, assign, clear, take
from graft.tensors.shards import local_of
from graft.train.protection.region import ProtectedRegion

_CHUNK = 1 << 20  # entries unpacked at a time


class ProtectedIndices(Protocol):
    """Indices of a tensor's protected entries, part by part."""

    nbytes: int

    def __iter__(self) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield (m,) int64 flat indices, and the slice of their values among all k."""
        ...


class ResidentIndices:
    """Indices in memory as they are: 8 bytes an entry, no work at a step."""

    def __init__(self, region: ProtectedRegion) -> None:
        self.indices = region.protected()
        self.nbytes = self.indices.nbytes

    def __iter__(self) -> Iterator[tuple[torch.Tensor, slice]]:
        yield self.indices, slice(0, len(self.indices))


class PackedBits:
    """Indices as one bit for every entry of the tensor, unpacked part by part at each step."""

    def __init__(self, region: ProtectedRegion) -> None:
        n = region.local.numel()
        protected = torch.zeros(-(-n // 8) * 8, dtype=torch.bool, device=region.local.device)
        protected[region.protected()] = True
        # protected entries 0 and 3 of the first eight: 2^0 + 2^3 = 9; eight different powers of 2 sum to 255 at most
        self.bits = (protected.view(-1, 8).to(torch.uint8) << _shifts(protected)).sum(1, dtype=torch.uint8)
        self.nbytes = self.bits.nbytes

    def __iter__(self) -> Iterator[tuple[torch.Tensor, slice]]:
        done = 0
        for start in range(0, len(self.bits), _CHUNK // 8):
            indices = _set_bits(self.bits[start : start + _CHUNK // 8]) + 8 * start
            yield indices, slice(done, done + len(indices))
            done += len(indices)


class Restored:
    """A tensor whose protected entries are put back after each step of the optimizer.

    Attributes:
        region: its protected coordinates.
        indices: those of the protected entries.
        values: (k,) what they held when protection began.
    """

    def __init__(self, region: ProtectedRegion, *, packed: bool = False) -> None:
        self.region = region
        self.values = take(region.local, region.protected())
        self.indices: ProtectedIndices = PackedBits(region) if packed else ResidentIndices(region)

    @property
    def way(self) -> str:
        """The implementation's name."""
        return "restore" if isinstance(self.indices, ResidentIndices) else "bits"

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self.values.nbytes + self.indices.nbytes

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that neither clipping nor moments see them."""
        for indices, _ in self.indices:
            clear(local_of(gradient), indices)

    def restore(self) -> None:
        """Put the protected entries back, bit for bit."""
        for indices, part in self.indices:
            assign(self.region.local, indices, self.values[part])

    def count_moved(self) -> int:
        """Count the protected entries whose bits changed."""
        return sum(self._count_moved(indices, self.values[part]) for indices, part in self.indices)

    def _count_moved(self, indices: torch.Tensor, values: torch.Tensor) -> int:
        present = take(self.region.local, indices)
        return int((as_bits(present) != as_bits(values.to(present.device))).sum())


def _set_bits(packed: torch.Tensor) -> torch.Tensor:
    """Return (m,) int64 positions of the bits that are set in (n,) uint8, least significant first."""
    if packed.device.type == "cpu":  # eight times as fast as `nonzero` there
        return torch.from_numpy(np.flatnonzero(np.unpackbits(packed.numpy(), bitorder="little")))
    return ((packed[:, None] >> _shifts(packed)) & 1).view(-1).nonzero().view(-1)


def _shifts(like: torch.Tensor) -> torch.Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
