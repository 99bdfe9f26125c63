"""Protection of what no optimizer holds: it is looked at, and nothing else."""

from __future__ import annotations

import torch

from graft.tensors.dtypes import clear, take
from graft.tensors.pieces import local_of
from graft.tensors.prints import print_of
from graft.train.protection.region import Region


class Watched:
    """One tensor that takes no part in the optimizer's steps.

    Attributes:
        region: its protected coordinates.
    """

    way = "watch"
    nbytes = 0

    def __init__(self, region: Region) -> None:
        self.region = region
        self._print = print_of_protected(region)

    def mask_gradient(self, gradient: torch.Tensor) -> None:
        """Set the gradients of the protected entries to 0, so that clipping does not see them."""
        clear(local_of(gradient), self.region.protected())

    def moved(self) -> int:
        """k if any protected entry does not hold the bits it held, else 0: only their print is kept."""
        return 0 if print_of_protected(self.region) == self._print else self.region.k


def print_of_protected(region: Region) -> str:
    """The print of the protected values that are here."""
    return print_of(take(region.local, region.protected()))
