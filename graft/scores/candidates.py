"""Coordinates of a live model as one flat vector: the candidates among which a mask is chosen, the entries of a refit.

Learning a mask, attributing to one and refitting its values all need one model, one tensor's gradient at a time, and a
few numbers per coordinate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

import torch

from graft.parallel.ranks import Ranks
from graft.patch.mask import Mask
from graft.scores.coordinates import Coordinates, Groups, deltas_at
from graft.scores.gradients import GradientSink
from graft.tensors.dtypes import assign, take
from graft.tensors.pair import CheckpointPair
from graft.tensors.shards import is_distributed, local_of, shard_of


class LiveCoordinates(Coordinates):
    """Coordinates of a live model's tensors.

    Attributes:
        weights: base name -> live tensor, for the tensors with coordinates.

    Args:
        weights: base name -> live tensor.
        mask: the coordinates.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], mask: Mask) -> None:
        super().__init__(mask)
        self.weights = {name: weights[name] for name in mask}
        self._indices_on_device = {name: indices.to(weights[name].device) for name, indices in self.indices.items()}

    def gather(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """Return (k_i,) fp32 on the CPU: a gradient's entries at a tensor's coordinates; 0 in the shards of others."""
        indices = self._indices_on_device[name]
        if not is_distributed(gradient):  # else this process holds a shard of the tensor, and some of its coordinates
            return take(gradient, indices).float().cpu()
        positions, local = shard_of(gradient).locate(indices)
        values = take(local_of(gradient), local).float().cpu()
        return torch.zeros(len(indices)).index_copy_(0, positions.cpu(), values)

    def assign(self, name: str, values: torch.Tensor) -> None:
        """Write (k_i,) values of the live tensor's dtype at a tensor's coordinates."""
        assign(self.weights[name], self._indices_on_device[name], values)


class Candidates(LiveCoordinates):
    """Coordinates of a live model, each of which is set to the base's value or the tuned one.

    Attributes:
        deltas: (n,) fp32, tuned - base.
        groups: how the budget is shared out.

    Args:
        pair: base and tuned checkpoints.
        weights: base name -> live tensor, holding the base's values.
        mask: the coordinates.
        groups: how the budget is shared out.
    """

    def __init__(self, pair: CheckpointPair, weights: Mapping[str, torch.Tensor], mask: Mask, groups: Groups) -> None:
        super().__init__(weights, mask)
        self.groups = groups
        self.deltas = deltas_at(pair, self)
        self._values = {name: self._read_endpoints(pair, name) for name in mask}

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Choose exactly the budget, the highest scores of each group: (n,) bool."""
        return self.keep_top(scores, self.groups)

    def write(self, chosen: torch.Tensor) -> None:
        """Set the live coordinates: the tuned value where `chosen` (n,) bool says so, the base's elsewhere."""
        for name, (base, tuned) in self._values.items():
            self.assign(name, torch.where(chosen[self.slices[name]], tuned, base))

    def return_to_base(self) -> None:
        """Set them all to the base's bits."""
        self.write(torch.zeros(len(self), dtype=torch.bool))

    def _read_endpoints(self, pair: CheckpointPair, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self.weights[name].dtype
        base, tuned = (values.to(dtype) for values in pair.read_at(name, self.indices[name]))
        return base, tuned


C = TypeVar("C", bound="LiveCoordinates")


class CandidateSum(GradientSink, Generic[C]):
    """The sum of the gradients of candidates, or of other coordinates of a live model.

    Each of several processes gets the gathered vectors of all (4 bytes travel per candidate, process and micro-batch)
    and adds them in the order in which the micro-batches were dealt out, which gives the bits of one process's sum.

    Attributes:
        total: (n,) fp32 on the CPU, over the micro-batches that ended.
        gathered: (n,) fp32, of the present micro-batch; final when it ends.
    """

    def __init__(self, candidates: C, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - immutable
        self.candidates = candidates
        self.ranks = ranks
        self.total = torch.zeros(len(candidates))
        self.gathered = torch.zeros(len(candidates))

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Gather the candidates' entries."""
        self.add(name, self.candidates.gather(name, gradient))

    def add(self, name: str, values: torch.Tensor) -> None:
        """Take (k_i,) fp32 on the CPU: the gradient at a tensor's candidates."""
        self.gathered[self.candidates.slices[name]] += values

    def end_batch(self, *, counts: bool = True) -> None:
        """Add what was gathered to the sum, in the order of micro-batches; zeros where there was none."""
        # one addition a micro-batch and in their order: sums of fp32 depend on the order, and processes must agree
        for gathered in self.ranks.gather(self.gathered):
            self.total += gathered
        self.gathered.zero_()

    def pop(self) -> torch.Tensor:
        """Return (n,) fp32: the sum so far, which starts at zero again."""
        total, self.total = self.total, torch.zeros_like(self.total)
        return total
