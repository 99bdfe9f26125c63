"""A stretch of weights: what a method of fusion is given, short enough for the processor's cache.

A selection is (c,) int64 ascending indices into the stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Stretch:
    """Some weights of one tensor, of the base and of m tuned models.

    Attributes:
        base: (n,) the base's values.
        tuned: (n,) of each model, in the base's dtype.
        selections: of each model the entries that moved furthest; empty where the method selects none.
        coefficients: m factors whose sum over the models is the spherical mean; 1/m where no angle is asked for.
        scale: factor of the differences.
    """

    base: torch.Tensor
    tuned: Tensors
    selections: Tensors
    coefficients: Sequence[float]
    scale: float

    def combine(self, coefficients: Sequence[float]) -> torch.Tensor:
        """Return sum_i c_i theta_i, (n,) fp32."""
        result = self.tuned[0].to(torch.float32, copy=True).mul_(coefficients[0])
        for values, coefficient in zip(self.tuned[1:], coefficients[1:], strict=True):
            result.add_(values.float(), alpha=coefficient)
        return result


def within(selections: Tensors, start: int, n: int) -> list[torch.Tensor]:
    """Return the parts of selections among n entries from `start` on, as indices into these."""
    bounds = [np.searchsorted(places, (start, start + n)) for places in selections]
    return [places[first:last] - start for places, (first, last) in zip(selections, bounds, strict=True)]


class Shared(NamedTuple):
    """Where m selections of one stretch meet.

    Attributes:
        places: (c,) int64 ascending indices of what two of them or more hold.
        held: (m, c) bool, which of them.
        sizes: of each.
    """

    places: torch.Tensor
    held: torch.Tensor
    sizes: list[int]

    @classmethod
    def of(cls, selections: Tensors) -> Shared:
        """Find where the selections of one stretch meet."""
        every = np.sort(np.concatenate([item.numpy() for item in selections]))
        places = np.unique(every[1:][every[1:] == every[:-1]])
        held = np.zeros((len(selections), len(places)), np.bool_)
        for row, item in zip(held, selections, strict=True):
            if len(item):
                row[:] = item.numpy().take(np.searchsorted(item, places), mode="clip") == places
        return cls(torch.from_numpy(places), torch.from_numpy(held), [len(item) for item in selections])

    @property
    def met(self) -> torch.Tensor:
        """Count, (m, m) int64, in how many entries each two selections meet; sizes in the diagonal."""
        counts = self.held.float()
        met = (counts @ counts.T).round().long()  # a stretch has fewer than 2^24 weights: exact in fp32
        return met.fill_diagonal_(0) + torch.tensor(self.sizes).diag()
