"""A mask as one flat vector: a number for each of its coordinates, ordered by tensor name, then index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from graft.errors import CheckpointError
from graft.patch.mask import Mask
from graft.scores.running_top import indices_of_largest
from graft.tensors.pair import CheckpointPair

Groups = Sequence[tuple[tuple[str, ...], int]]  # (names, share of the budget), as `allocate` gives


class Coordinates:
    """The n coordinates of a mask in order.

    Attributes:
        mask: the coordinates.
        slices: tensor name -> its part of a vector over all coordinates.
        indices: tensor name -> (k_i,) int64 flat indices in the tensor.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.indices = {name: torch.tensor(mask[name]) for name in mask}
        ends = torch.tensor([0, *(len(mask[name]) for name in mask)]).cumsum(0).tolist()
        self.slices: Mapping[str, slice] = dict(zip(mask, map(slice, ends, ends[1:]), strict=True))

    def __len__(self) -> int:
        return len(self.mask)

    def keep_top(self, scores: torch.Tensor, groups: Groups) -> torch.Tensor:
        """Return (n,) bool: in each group its share of the highest scores; ties go to the earlier coordinate.

        Raises:
            CheckpointError: a score is NaN, by which nothing can be ordered; the tensor is named.
        """
        for name, part in self.slices.items():
            if torch.isnan(scores[part]).any():
                raise CheckpointError(f"tensor {name!r}: a score is NaN: its gradient or its weights are not finite")
        chosen = torch.zeros(len(self), dtype=torch.bool)
        for names, share in groups:
            positions = self._positions_in(names)
            if len(positions):
                chosen[positions[indices_of_largest(scores[positions], positions, min(share, len(positions)))]] = True
        return chosen

    def mask_of(self, chosen: torch.Tensor) -> Mask:
        """Return the coordinates where (n,) bool says so."""
        indices = {name: self.mask[name][chosen[part].numpy()] for name, part in self.slices.items()}
        return Mask.of(self.mask.specs, indices)

    def positions_of(self, mask: Mask) -> torch.Tensor:
        """Return (k,) int64 positions of a mask among the coordinates, of which it must be a part."""
        parts = [
            self.slices[name].start + torch.searchsorted(self.indices[name], torch.tensor(mask[name])) for name in mask
        ]
        return torch.cat([torch.empty(0, dtype=torch.int64), *parts])

    def _positions_in(self, names: Sequence[str]) -> torch.Tensor:
        parts = [self.slices[name] for name in sorted(names) if name in self.slices]
        return torch.cat([torch.empty(0, dtype=torch.int64), *(torch.arange(part.start, part.stop) for part in parts)])


def deltas_at(pair: CheckpointPair, coordinates: Coordinates) -> torch.Tensor:
    """Return (n,) fp32, tuned - base in the base's dtype."""
    ends = (pair.read_at(name, indices) for name, indices in coordinates.indices.items())
    return torch.cat([torch.empty(0), *(tuned.float() - base.float() for base, tuned in ends)])
