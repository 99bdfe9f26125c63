"""Protection of tensors that no optimizer holds: they are checked, and nothing else."""

from __future__ import annotations

import torch

from graft.tensors.dtypes import clear, take
from graft.tensors.hashing import hash_values
from graft.tensors.shards import local_of
from graft.train.protection.region import Region


class Unoptimized:
    """One tensor that takes no part in the optimizer's steps.

    Attributes:
        region: its protected coordinates.
    """

    way = "watch"
    nbytes = 0

    def __init__(self, region: Region) -> None:
        self.region = region
        self._hash = hash_of_protected(region)

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that clipping does not see them."""
        clear(local_of(gradient), self.region.protected())

    def moved(self) -> int:
        """Return k if any protected entry does not hold the bits it held, else 0: only their hash is kept."""
        return 0 if hash_of_protected(self.region) == self._hash else self.region.k


def hash_of_protected(region: Region) -> str:
    """Return the hash of the protected values that are here."""
    return hash_values(take(region.local, region.protected()))
