"""Chunk of weights that a method of fusion works on, short enough for the processor's cache.

A selection is (c,) int64 ascending indices into the chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Chunk:
    """Consecutive weights of one tensor, of the base and of m tuned models.

    Attributes:
        base: (n,) the base's values.
        tuned: (n,) of each model, in the base's dtype.
        selections: of each model the entries that changed most; empty where the method selects none.
        coefficients: m factors whose sum over the models is the spherical mean; 1/m where the method needs no angle.
        scale: factor of the differences.
    """

    base: torch.Tensor
    tuned: Tensors
    selections: Tensors
    coefficients: Sequence[float]
    scale: float

    @functools.cached_property
    def shared(self) -> Shared:
        """The entries that two or more selections have; found once, for the method and for the overlap of cores."""
        return Shared.of(self.selections)

    def combine(self, coefficients: Sequence[float]) -> torch.Tensor:
        """Return sum_i c_i theta_i, (n,) fp32."""
        result = self.tuned[0].to(torch.float32, copy=True).mul_(coefficients[0])
        for values, coefficient in zip(self.tuned[1:], coefficients[1:], strict=True):
            result.add_(values.float(), alpha=coefficient)
        return result


def select_within(selections: Tensors, start: int, n: int) -> list[torch.Tensor]:
    """Return the parts of selections among n entries from `start` on, as indices into these."""
    bounds = [np.searchsorted(indices, (start, start + n)) for indices in selections]
    return [indices[first:last] - start for indices, (first, last) in zip(selections, bounds, strict=True)]


class Shared(NamedTuple):
    """Entries that two or more of m selections share.

    Attributes:
        indices: (c,) int64 ascending indices of the shared entries.
        members: (m, c) bool, the selections that have them.
        sizes: of every selection.
    """

    indices: torch.Tensor
    members: torch.Tensor
    sizes: list[int]

    @classmethod
    def of(cls, selections: Tensors) -> Shared:
        """Find the entries that selections of the same weights share."""
        # Example: of 1 4 7 and 4 7 9 the sorted concatenation is 1 4 4 7 7 9, in which the shared 4 and 7 stand twice.
        merged = np.sort(np.concatenate([selection.numpy() for selection in selections]))
        indices = np.unique(merged[1:][merged[1:] == merged[:-1]])
        members = np.zeros((len(selections), len(indices)), np.bool_)
        for row, selection in zip(members, selections, strict=True):
            if len(selection):
                row[:] = selection.numpy().take(np.searchsorted(selection, indices), mode="clip") == indices
        sizes = [len(selection) for selection in selections]
        return cls(torch.from_numpy(indices), torch.from_numpy(members), sizes)

    @property
    def pair_counts(self) -> torch.Tensor:
        """(m, m) int64 numbers of entries that each pair of selections shares, with their sizes on the diagonal."""
        members = self.members.float()
        counts = (members @ members.T).round().long()  # of fewer than 2^24 weights: exact in fp32
        return counts.fill_diagonal_(0) + torch.tensor(self.sizes).diag()
