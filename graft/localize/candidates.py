"""Candidates: the coordinates that a mask may keep, as live weights and as one flat vector.

A mask is learned, or attributed to, with one model, one tensor's gradient at a time, and a few numbers per candidate.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from graft.localize.coordinates import Coordinates, Groups, movement_at
from graft.localize.gradients import GradientSink
from graft.parallel.ranks import Ranks
from graft.patch.mask import Mask
from graft.tensors.dtypes import assign, take
from graft.tensors.pair import CheckpointPair
from graft.tensors.shards import is_distributed, local_of, shard_of


class Candidates(Coordinates):
    """Coordinates of a live model that are the base's or the tuned model's, one by one.

    Attributes:
        movement: (n,) fp32, tuned - base.
        weights: base name -> live tensor, for the tensors with candidates.
        groups: how the budget is shared out.

    Args:
        pair: base and tuned checkpoints.
        weights: base name -> live tensor, holding the base's values.
        mask: the coordinates.
        groups: how the budget is shared out.
    """

    def __init__(self, pair: CheckpointPair, weights: Mapping[str, torch.Tensor], mask: Mask, groups: Groups) -> None:
        super().__init__(mask)
        self.groups = groups
        self.weights = {name: weights[name] for name in mask}
        self.movement = movement_at(pair, self)
        self._values = {name: self._endpoints(pair, name) for name in mask}
        self._places = {name: indices.to(weights[name].device) for name, indices in self.indices.items()}

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """(n,) bool: exactly the budget, the highest scores of each group."""
        return self.keep_top(scores, self.groups)

    def write(self, kept: torch.Tensor) -> None:
        """Set the live coordinates: the tuned value where `kept` (n,) bool says so, the base's elsewhere."""
        for name, (base, tuned) in self._values.items():
            assign(self.weights[name], self._places[name], torch.where(kept[self.slices[name]], tuned, base))

    def return_to_base(self) -> None:
        """Set them all to the base's bits."""
        self.write(torch.zeros(len(self), dtype=torch.bool))

    def gather(self, name: str, gradient: torch.Tensor) -> torch.Tensor:
        """(k_i,) fp32 on the CPU: a gradient's entries at the coordinates in a tensor; 0 in the pieces of others."""
        places = self._places[name]
        if not is_distributed(gradient):
            return take(gradient, places).float().cpu()
        here, local = shard_of(gradient).locate(places)
        return torch.zeros(len(places)).index_copy_(0, here.cpu(), take(local_of(gradient), local).float().cpu())

    def _endpoints(self, pair: CheckpointPair, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = self.weights[name].dtype
        base, tuned = (values.to(dtype) for values in pair.read_at(name, self.indices[name]))
        return base, tuned


class CandidateSum(GradientSink):
    """The sum of the gradients of candidates.

    Over several processes every one gets the gathered vectors of all (4 bytes a candidate, process and micro-batch
    travel) and adds them in the order in which the micro-batches were dealt out: the bits of one process's sum.

    Attributes:
        total: (n,) fp32 on the CPU, over the micro-batches that ended.
        gathered: (n,) fp32, of the present micro-batch; final when it ends.
    """

    def __init__(self, candidates: Candidates, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - immutable
        self.candidates = candidates
        self.ranks = ranks
        self.total = torch.zeros(len(candidates))
        self.gathered = torch.zeros(len(candidates))

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Gather the candidates' entries."""
        self.gathered[self.candidates.slices[name]] += self.candidates.gather(name, gradient)

    def end_batch(self, *, counts: bool = True) -> None:
        """Add what was gathered to the sum, in the order of micro-batches; zeros where there was none."""
        for gathered in self.ranks.gather(self.gathered):
            self.total += gathered
        self.gathered.zero_()

    def drain(self) -> torch.Tensor:
        """(n,) fp32: the sum so far, which starts at zero again."""
        total, self.total = self.total, torch.zeros_like(self.total)
        return total
