"""Several sorted index sets of one tensor lined up coordinate by coordinate, so that one pass sees who meets whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.patch.mask import Indices

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lineup:
    """All entries of m index sets, in ascending order of coordinate and, at one coordinate, in the order of the sets.

    Attributes:
        order: (n,) int64, the entry's place in the sets laid end to end.
        owner: (n,) int64, the set that it is from.
        union: (k,) int64 the sorted distinct coordinates.
        start: (k,) int64, where each coordinate's run of entries begins.
        length: (k,) int64, how many sets hold it, 1 or more.
    """

    order: Ints
    owner: Ints
    union: Indices
    start: Ints
    length: Ints

    @property
    def shared(self) -> int:
        """Number of coordinates that two or more sets hold."""
        return int((self.length > 1).sum())


def line_up(sets: Sequence[Indices]) -> Lineup:
    """Line up sorted unique int64 indices; a stable sort of runs that are sorted already, n log m."""
    joined = np.concatenate(sets)
    order = np.argsort(joined, kind="stable")
    joined = joined[order]
    start = np.flatnonzero(np.diff(joined, prepend=-1))
    length = np.diff(start, append=joined.size)
    owner = np.repeat(np.arange(len(sets)), [part.size for part in sets])[order]
    return Lineup(order, owner, joined[start], start, length)


def count_meetings(lineup: Lineup, m: int) -> Ints:
    """(m, m) counts of the coordinates that two of m sets share; symmetric, the sets' own sizes on the diagonal."""
    counts = np.zeros((m, m), np.int64)
    for lag in range(int(lineup.length.max(initial=0))):
        starts = lineup.start[lineup.length > lag]
        lengths = lineup.length[lineup.length > lag]
        # every entry that has another `lag` places behind it in its run
        first = np.repeat(starts, lengths - lag) + _ramp(lengths - lag)
        np.add.at(counts, (lineup.owner[first], lineup.owner[first + lag]), 1)
    return counts + np.triu(counts, 1).T


def _ramp(lengths: Ints) -> Ints:
    """[3, 1, 2] -> [0, 1, 2, 0, 0, 1]."""
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
