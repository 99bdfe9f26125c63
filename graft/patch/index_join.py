"""Join sorted index sets of one tensor coordinate by coordinate, so that one pass sees which of them overlap.

For a = [1, 4, 6] and b = [4, 6], five entries laid end to end as [1 4 6 | 4 6]:

    sorted by coordinate    1   4 4   6 6
    order                   0   1 3   2 4      positions in the sets laid end to end
    owner                   a   a b   a b
    union                   1   4     6
    start                   0   1     3
    length                  1   2     2        4 and 6 are shared

Entries of one coordinate stand together, so that overlaps are counted, and values blended, by runs. Intersecting the
sets two by two would read each of them m - 1 times: for 1,000 patches half a million intersections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.patch.mask import Indices

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class IndexJoin:
    """Entries of m index sets, in ascending order of coordinate and, at one coordinate, in the order of the sets.

    Attributes:
        order: (n,) int64, the entry's position in the sets laid end to end.
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


def join_indices(sets: Sequence[Indices]) -> IndexJoin:
    """Join sorted unique int64 indices."""
    joined = np.concatenate(sets)
    # a stable sort of m runs that are sorted already merges them, in n log m; equal coordinates keep the sets' order
    order = np.argsort(joined, kind="stable")
    joined = joined[order]
    start = np.flatnonzero(np.diff(joined, prepend=-1))
    length = np.diff(start, append=joined.size)
    owner = np.repeat(np.arange(len(sets)), [part.size for part in sets])[order]
    return IndexJoin(order, owner, joined[start], start, length)


def count_overlaps(join: IndexJoin, m: int) -> Ints:
    """Count the coordinates that each two of m sets share: (m, m), symmetric, their own sizes on the diagonal."""
    counts = np.zeros((m, m), np.int64)
    # Two sets share a coordinate where both have an entry in its run, at some distance. Lag 0 pairs each entry with
    # itself: a a a b b -> 3 for a, 2 for b. Lag 1 pairs neighbors within runs: (a, b) at 4 and at 6 -> 2 for a and b.
    # So the work is that of the overlaps there are, and not that of the m (m - 1) / 2 that there might be.
    for lag in range(int(join.length.max(initial=0))):
        starts = join.start[join.length > lag]
        lengths = join.length[join.length > lag]
        # every entry that has another one `lag` positions behind it in its run
        first = np.repeat(starts, lengths - lag) + _ramp(lengths - lag)
        np.add.at(counts, (join.owner[first], join.owner[first + lag]), 1)
    return counts + np.triu(counts, 1).T


def _ramp(lengths: Ints) -> Ints:
    """Count up from 0 within each run: [3, 1, 2] -> [0, 1, 2, 0, 0, 1]."""
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
