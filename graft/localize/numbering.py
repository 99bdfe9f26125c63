"""Every weight of some tensors by one number, which counts through the tensors in order of name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.tensors.pair import CheckpointPair


class Numbering:
    """Positions, int64, of the weights of a pair's tensors.

    Attributes:
        names: the tensors, in ascending order.
        starts: tensor name -> the position of its first entry.

    Args:
        pair: base and tuned checkpoints.
        names: the tensors.
    """

    def __init__(self, pair: CheckpointPair, names: Sequence[str]) -> None:
        self.names = sorted(names)
        self._specs: Mapping[str, TensorSpec] = {name: pair.base.spec(name) for name in self.names}
        ends = [0, *np.cumsum([spec.numel for spec in self._specs.values()], dtype=np.int64).tolist()]
        self.starts: Mapping[str, int] = dict(zip(self.names, ends, strict=False))

    def mask_of(self, positions: torch.Tensor) -> Mask:
        """The mask of (k,) ascending positions."""
        found, indices = positions.numpy(), {}
        for name, spec in self._specs.items():
            start = self.starts[name]
            first, last = np.searchsorted(found, [start, start + spec.numel])
            indices[name] = found[first:last] - start
        return Mask.of(self._specs, indices)
