"""The mean of the weights over the second half of a training's steps, which is steadier than the last of them.

Polyak averaging (Polyak and Juditsky 1992); of neural networks' weights arXiv 1803.05407.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graft.parallel.ranks import Ranks
from graft.parallel.sharded import gather_whole, spread_like
from graft.tensors.dtypes import assign, take
from graft.train.protection.region import ProtectedRegion


class WeightAverage:
    """A running mean of what trains, in fp32, 4 bytes per weight, or in the weight's own dtype where that is wider.

    Args:
        weights: those that the optimizer moves.
        regions: protected coordinates; of a tensor of which few are free, only these are held.
    """

    def __init__(self, weights: Sequence[torch.Tensor], regions: Sequence[ProtectedRegion] = ()) -> None:
        free = {id(region.tensor): torch.tensor(region.indices) for region in regions if region.inverted}
        self._weights = [(weight, free.get(id(weight))) for weight in weights]
        self._means = [_start_mean(_read(*item)) for item in self._weights]
        self._n = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take up the present weights."""
        self._n += 1
        for item, mean in zip(self._weights, self._means, strict=True):
            mean += (_read(*item).to(mean.dtype) - mean) / self._n

    @torch.no_grad()
    def write(self) -> None:
        """Set the weights to their means, each rounded to its dtype; what never moved keeps its bits."""
        for (weight, free), mean in zip(self._weights, self._means, strict=True):
            present = _read(weight, free)
            values = torch.where(mean == present, present, mean.to(present.dtype))  # equal: -0.0 too
            if free is None:
                weight.copy_(values)
            else:
                assign(weight, free, values)

    def state_dict(self, ranks: Ranks) -> dict[str, Any]:
        """Return the state that an interrupted training needs to go on; collective."""
        return {"means": [gather_whole(mean, ranks) for mean in self._means], "n": self._n}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a state."""
        self._n = state["n"]
        for mean, saved in zip(self._means, state["means"], strict=True):
            mean.copy_(spread_like(saved, mean))


def _start_mean(weight: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))


def _read(weight: torch.Tensor, free: torch.Tensor | None) -> torch.Tensor:
    """Return a weight, or its entries at the free indices."""
    return weight.detach() if free is None else take(weight, free)
