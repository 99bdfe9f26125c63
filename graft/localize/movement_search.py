"""The k largest movements |tuned - base| of two checkpoints, in one pass over both: exact, ties included.

Each part of a tensor is subtracted in the checkpoints' own dtype. Rounding is monotone, so that an entry whose fp32
|delta| is above a threshold has a rounded one that is not below the rounded threshold: three cheap operations on 16-bit
numbers tell for nearly every part that nothing in it can be among the k largest. The few entries that are left are
compared by their fp32 |delta|, by which alone they are chosen; ties go by tensor name, then index.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from graft.localize.numbering import Numbering
from graft.localize.running_top import RunningTop
from graft.patch.mask import Mask
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair
from graft.tensors.streaming import stream_tensors

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
        self.k = k
        self._numbering = Numbering(pair, names)
        self._local = threading.local()
        self._tops: list[RunningTop] = []

    def run(self) -> Mask | None:
        """The mask; None where fewer than k entries moved.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        for _ in stream_tensors(self._search, self._numbering.names, self.pair.stored, "differences"):
            pass
        best = RunningTop(self.k)  # each thread has kept the best of what it saw
        for top in self._tops:
            best.add(*top.drain())
        _, found = best.drain()
        return self._numbering.mask_of(found.sort().values) if len(found) == self.k else None

    def _search(self, name: str) -> None:
        top, start = self._top, self._numbering.starts[name]
        for place, base, tuned in self.pair.stretches(name):
            floor = max(top.floor, 0.0)
            few = torch.from_numpy(_survivors(base, tuned, floor))
            if len(few):
                sizes = (tuned[few].float() - base[few].float()).abs_()
                if not torch.isfinite(sizes).all():  # or two finite values lie further apart than fp32 reaches
                    self.pair.refuse_not_finite(name, base[few], tuned[few])
                above = sizes > floor  # a thread meets places in ascending order: a tie with the floor comes too late
                top.add(sizes[above], few[above] + (start + place))

    @property
    def _top(self) -> RunningTop:
        """The present thread's own."""
        if not hasattr(self._local, "top"):
            self._local.top = RunningTop(self.k)
            self._tops.append(self._local.top)
        top: RunningTop = self._local.top
        return top


def _survivors(base: torch.Tensor, tuned: torch.Tensor, floor: float) -> npt.NDArray[np.int64]:
    """Indices of a stretch at which |tuned - base| may be above the floor, or is no number."""
    moved = tuned - base if base.dtype in _EXACT else tuned.float() - base.float()
    bits = as_bits(moved)
    bits.bitwise_and_(torch.iinfo(bits.dtype).max)  # the sign: NaN and infinity have the largest bits
    least = max(int(as_bits(torch.tensor(floor, dtype=torch.float32).to(moved.dtype))), 1)
    return np.flatnonzero(bits.numpy() >= least)  # ten times as fast as torch's compare of 16-bit integers
