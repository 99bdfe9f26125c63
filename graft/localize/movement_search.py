"""The k largest movements |tuned - base| of two checkpoints, in one pass over both: exact, ties included.

The threshold rises with what was seen, so that soon few entries of a stretch are above it; ties go by tensor name, then
index.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from graft.localize.numbering import Numbering
from graft.localize.running_top import RunningTop
from graft.patch.mask import Mask
from graft.tensors.movements import large_movements
from graft.tensors.pair import CheckpointPair
from graft.tensors.streaming import stream_tensors


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
            few, sizes = large_movements(self.pair, name, base, tuned, floor)
            if len(few):
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
