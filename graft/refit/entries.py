"""The entries of a refit: k weights of a live model as one vector that trains, whatever the model's dtype.

The vector is kept in fp32 and rounded to the checkpoint's dtype as it is written, so that updates below half a step of
bf16 are not lost, and a model that is loaded in a wider dtype holds what a patch of these values will give it. No other
weight is ever written.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graft.patch.mask import Mask
from graft.scores.candidates import LiveCoordinates
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, take


class Entries(LiveCoordinates):
    """The weights at a mask.

    Attributes:
        values: (k,) fp32 parameter on the CPU; the base's values at first.
        base: (k,) fp32, the base's values.

    Args:
        weights: base name -> live tensor.
        mask: the coordinates.
        base: the checkpoint whose values the live tensors hold.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], mask: Mask, base: Checkpoint) -> None:
        super().__init__(weights, mask)
        self._stored = {name: take(base.read(name), indices) for name, indices in self.indices.items()}
        self.base = torch.cat([torch.empty(0), *(values.float() for values in self._stored.values())])
        self.values = torch.nn.Parameter(self.base.clone())

    def write(self, values: torch.Tensor) -> None:
        """Write (k,) fp32 values into the model, as it would load them from a checkpoint that stores them."""
        for name, stored in self.rounded(values).items():
            self.assign(name, stored.to(self.weights[name].dtype))

    def hold(self, values: torch.Tensor) -> None:
        """Set the vector to (k,) fp32 values, and write them into the model."""
        self.values.data.copy_(values)
        self.write(values)

    def return_to_base(self) -> None:
        """Set the live weights to what a model of the base holds, bit for bit."""
        for name, values in self._stored.items():
            self.assign(name, values.to(self.weights[name].dtype))

    def adopt(self, others: Entries) -> Entries:
        """Take over the values of others where both have an entry, unrounded and into no model; return self."""
        shared = self.mask & others.mask
        self.values.data[self.positions_of(shared)] = others.values.data[others.positions_of(shared)]
        return self

    def rounded(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return (k,) fp32 values by tensor, rounded to nearest-even in the checkpoint's dtype: base name -> (k_i,)."""
        specs = self.mask.specs
        return {name: values[part].to(TORCH_DTYPES[specs[name].dtype]) for name, part in self.slices.items()}
