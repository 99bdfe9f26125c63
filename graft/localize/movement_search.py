"""The k largest movements |tuned - base| of two checkpoints, in one pass over both: exact, ties included.

Each part of a tensor is subtracted in the checkpoints' own dtype. Rounding is monotone, so that an entry whose fp32
|delta| is above a threshold has a rounded one that is not below the rounded threshold: three cheap operations on 16-bit
numbers tell for nearly every part that nothing in it can be among the k largest. The few entries that are left are
compared by their fp32 |delta|, by which alone they are chosen; ties go by tensor name, then index.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from graft.localize.running_top import RunningTop
from graft.patch.mask import Mask
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair, refuse_not_finite
from graft.tensors.streaming import PART, stream_tensors

_SIZE = {2: 0x7FFF, 4: 0x7FFFFFFF}  # all bits but the sign, by bytes per element
_EXACT = (torch.bfloat16, torch.float16, torch.float32)  # dtypes whose subtraction is the rounded fp32 difference


class MovementSearch:
    """The search for exactly k entries.

    Args:
        pair: base and tuned checkpoints.
        names: the tensors to choose from.
        k: how many, at least 1.
    """

    def __init__(self, pair: CheckpointPair, names: Sequence[str], k: int) -> None:
        self.pair = pair
        self.names = sorted(names)
        self.k = k
        ends = [0, *np.cumsum([pair.base.spec(name).numel for name in self.names], dtype=np.int64).tolist()]
        self._starts = dict(zip(self.names, ends, strict=False))  # a position counts through all tensors
        self._local = threading.local()
        self._tops: list[RunningTop] = []

    def run(self) -> Mask | None:
        """The mask; None where fewer than k entries moved.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        for _ in stream_tensors(self._search, self.names, self.pair.stored, "differences"):
            pass
        best = RunningTop(self.k)  # each thread has kept the best of what it saw
        for top in self._tops:
            best.add(*top.drain())
        _, found = best.drain()
        return self._mask_of(found.sort().values.numpy()) if len(found) == self.k else None

    def _search(self, name: str) -> None:
        top = self._top
        for place, base, tuned in self._parts(name):
            bits = as_bits(tuned - base).bitwise_and_(_SIZE[base.element_size()])  # of |tuned - base|
            largest = int(bits.max())
            if largest >= _bits_of(torch.inf, base.dtype):  # or the difference of two finite values overflows
                refuse_not_finite(base, name, self.pair.base.path)
                refuse_not_finite(tuned, name, self.pair.tuned.path)
            # what a thread meets comes in ascending order, so that a tie with the floor comes too late
            least = _bits_of(max(top.floor, 0.0), base.dtype)
            if largest >= max(least, 1):
                sizes, indices = _above(base, tuned, bits, max(least, 1), max(top.floor, 0.0))
                top.add(sizes, indices + (self._starts[name] + place))

    def _parts(self, name: str) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """(place, base, tuned) of a tensor, both in one dtype of `_EXACT`."""
        base, tuned = (checkpoint.read(stored).flatten() for checkpoint, stored in self.pair.stored(name))
        for place in range(0, len(base), PART):
            left, right = base[place : place + PART], tuned[place : place + PART].to(base.dtype)
            yield place, *((left, right) if base.dtype in _EXACT else (left.float(), right.float()))

    @property
    def _top(self) -> RunningTop:
        """The present thread's own."""
        if not hasattr(self._local, "top"):
            self._local.top = RunningTop(self.k)
            self._tops.append(self._local.top)
        top: RunningTop = self._local.top
        return top

    def _mask_of(self, found: np.ndarray) -> Mask:
        specs = {name: self.pair.base.spec(name) for name in self.names}
        indices = {}
        for name, spec in specs.items():
            start = self._starts[name]
            first, last = np.searchsorted(found, [start, start + spec.numel])
            indices[name] = found[first:last] - start
        return Mask.of(specs, indices)


def _above(
    base: torch.Tensor, tuned: torch.Tensor, bits: torch.Tensor, least: int, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The fp32 sizes above the floor and their (n,) indices, all of them with rounded bits of at least `least`."""
    indices = (bits >= least).nonzero().squeeze(1)
    sizes = (tuned[indices].float() - base[indices].float()).abs_()
    above = sizes > floor
    return sizes[above], indices[above]


def _bits_of(size: float, dtype: torch.dtype) -> int:
    """The bits of a size of at least 0 in a dtype, rounded to it as a difference would be."""
    return int(as_bits(torch.tensor(size, dtype=torch.float32).to(dtype)))
