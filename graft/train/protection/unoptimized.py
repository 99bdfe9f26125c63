"""Protection of tensors that the optimizer does not hold: they are only checked."""

from __future__ import annotations

import torch

from graft.tensors.dtypes import clear, take
from graft.tensors.hashing import hash_values
from graft.tensors.shards import local_of
from graft.train.protection.region import ProtectedRegion


class Unoptimized:
    """A tensor that takes no part in the optimizer's steps.

    Attributes:
        region: its protected coordinates.
    """

    way = "watch"
    nbytes = 0

    def __init__(self, region: ProtectedRegion) -> None:
        self.region = region
        self._hash = hash_of_protected(region)

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that clipping does not see them."""
        clear(local_of(gradient), self.region.protected())

    def count_moved(self) -> int:
        """Return k if any protected entry changed its bits, else 0, since only their hash is known."""
        return 0 if hash_of_protected(self.region) == self._hash else self.region.k


def hash_of_protected(region: ProtectedRegion) -> str:
    """Return the hash of the protected values on this process."""
    return hash_values(take(region.local, region.protected()))
