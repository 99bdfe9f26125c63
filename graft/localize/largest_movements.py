"""The k largest movements |tuned - base| of a model, told stretch by stretch: exact, ties included, without a list.

|delta| is ordered by its fp32 bit pattern, 31 bits. A sample of the weights says between which two patterns the k-th
largest lies, almost surely; one pass counts what is beyond these and, pattern by pattern, what is between them. Then
each stretch can be told which of its entries are among the k. Where the sample was wrong, or too many patterns lie
between, the counts say where to look in another pass. Ties go by tensor name, then index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from graft.patch.mask import Mask
from graft.tensors.deltas import LONG, large_deltas
from graft.tensors.pair import CheckpointPair
from graft.tensors.streaming import Reading, stream_tensors

RUN = 256  # neighbouring weights in the sample, since the disk is read by pages
SAMPLE = 1 << 20  # weights in the sample; fewer are all looked at
SIGMAS = 6  # how far the bracket reaches, in standard errors of the sampled share
APART = 1 << 23  # movements in the bracket that are counted pattern by pattern; more are counted in bins
BINS = 20  # log2 of their number
KEPT = 1 << 24  # entries of a model, of 8 bytes, that are remembered, so as to be told without another look
LAST = 0x7F800000  # the highest pattern: two finite values may lie further apart than fp32 reaches
Ints = npt.NDArray[np.int64]


class Tally(NamedTuple):
    """Movements of some weights.

    Attributes:
        above: how many are beyond the bracket.
        bins: (b,) ascending, those bins in the bracket that hold any.
        counts: (b,) how many each holds.
    """

    above: int
    bins: Ints
    counts: Ints


@dataclass(frozen=True)
class Bracket:
    """Patterns from `low`, at least 1 (0 did not move, and is never selected), to `last`, in bins of 2^shift."""

    low: int
    last: int
    shift: int

    @classmethod
    def holding(cls, low: int, last: int, n: float) -> Bracket:
        """One in which about n movements are expected."""
        low = max(low, 1)
        return cls(low, last, max(0, (last - low).bit_length() - BINS) if n > APART else 0)


class LargestMovements:
    """Selects exactly k entries, or all that moved where these are fewer.

    Args:
        pair: base and tuned checkpoints.
        names: the tensors to choose from, in ascending order.
        k: how many, at least 1.
    """

    def __init__(self, pair: CheckpointPair, names: Sequence[str], k: int) -> None:
        self.pair, self._names, self._k = pair, names, k
        self._threshold: int | None = None
        self._ties: dict[str, int] = {}  # tensor -> how many of its entries at the threshold are selected
        self._total = sum(pair.base.spec(name).numel for name in names)
        self._bracket = _bracket_of(_sample(pair, names), k / self._total, self._total)
        # tensor -> stretch by stretch what the pass found, while that is little
        self._kept: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] | None = {} if k <= KEPT else None
        self._n_kept = 0

    @property
    def needs_base(self) -> bool:
        """Whether `select` looks at the values, or remembers."""
        return self._kept is None

    @property
    def is_found(self) -> bool:
        """Whether `select` can be asked."""
        return self._threshold is not None

    def count(self, name: str) -> Tally:
        """A pass over one tensor.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        bracket = self._bracket
        bounds = _size_of(bracket.low), _size_of(bracket.last)
        above, waiting, n_waiting, done = 0, [], 0, _count(np.empty(0, np.int64))
        kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _, base, tuned in self.pair.chunks(name, LONG):
            few, sizes = large_deltas(self.pair, name, base, tuned, *bounds)
            self._n_kept += len(few)
            if self._n_kept > KEPT:  # many ties, or neighbours: another look costs less than their memory
                self._kept = None
            if self._kept is not None:
                kept.append((few.int(), sizes))
            bits = sizes.view(torch.int32).numpy()
            above += int(np.count_nonzero(bits > bracket.last))
            inside = bits[(bits >= bracket.low) & (bits <= bracket.last)]
            waiting.append((inside - bracket.low) >> bracket.shift)
            n_waiting += len(inside)
            if n_waiting > SAMPLE:
                done, waiting, n_waiting = _merge([done, _count(np.concatenate(waiting))]), [], 0
        if (remembered := self._kept) is not None:  # another thread may give it up at any time
            remembered[name] = _join(kept)
        merged = _merge([done, _count(np.concatenate(waiting))]) if n_waiting else done
        return merged._replace(above=above)

    def settle(self, tallies: Mapping[str, Tally]) -> None:
        """Take up the counts of all tensors: the threshold, or the bracket of the next pass."""
        bracket, whole = self._bracket, _merge(list(tallies.values()))
        within = int(whole.counts.sum())
        kept, self._kept = self._kept, None  # of this bracket alone
        if whole.above >= self._k:
            self._bracket = Bracket.holding(bracket.last + 1, LAST, whole.above)
        elif whole.above + within >= self._k:
            from_top = whole.above + whole.counts[::-1].cumsum()
            place = len(from_top) - 1 - int(np.searchsorted(from_top, self._k))
            found, n = int(whole.bins[place]), int(whole.counts[place])
            start = bracket.low + (found << bracket.shift)
            if bracket.shift:
                self._bracket = Bracket.holding(start, min(start + (1 << bracket.shift) - 1, bracket.last), n)
            else:
                self._threshold, self._kept = start, kept
                self._share_ties(found, self._k - int(from_top[-1 - place]) + n, tallies)
        elif bracket.low == 1:
            self._threshold = 0  # all that moved
        else:
            self._bracket = Bracket.holding(1, bracket.low - 1, self._total - whole.above - within)

    def select(self, name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What tells the selected entries of a tensor, stretch by stretch.

        Returns:
            a function of base and tuned, (n,) as `CheckpointPair.chunks` gives them with a length of `LONG` and in
            that order, that returns (c,) int64 ascending indices into the stretch.
        """
        assert self._threshold is not None
        threshold, left = self._threshold, self._ties.get(name, 0)
        size = _size_of(threshold)
        kept = iter(self._kept[name]) if self._kept is not None else None

        def tell(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
            nonlocal left
            few, sizes = next(kept) if kept else large_deltas(self.pair, name, base, tuned, size, size)
            bits = sizes.view(torch.int32)
            chosen = bits > threshold
            if left:
                ties = (bits == threshold).nonzero().squeeze(1)[:left]
                chosen[ties] = True
                left -= len(ties)
            return few[chosen].long()

        return tell

    def places(self, name: str) -> Ints:
        """(c,) ascending flat indices of a tensor's selected entries."""
        select, found = self.select(name), [np.empty(0, np.int64)]
        for start, base, tuned in self.pair.chunks(name, LONG):
            found.append(select(base, tuned).numpy() + start)
        return np.concatenate(found)

    def _share_ties(self, found: int, left: int, tallies: Mapping[str, Tally]) -> None:
        """Ties go to the first tensors, in order of name, that hold any."""
        for name in self._names:
            here = int(tallies[name].counts[tallies[name].bins == found].sum())
            self._ties[name] = min(here, left)
            left -= self._ties[name]


def find_largest(searches: Sequence[LargestMovements], names: Sequence[str], reads: Callable[[str], Reading]) -> None:
    """Make searches over the same tensors ready to select: one pass over their models, rarely another.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """

    def count(name: str) -> list[Tally]:
        return [search.count(name) for search in left]

    while left := [search for search in searches if not search.is_found]:
        tallies = list(stream_tensors(count, names, reads, "movements"))
        for search, found in zip(left, zip(*tallies, strict=True), strict=True):
            search.settle(dict(zip(names, found, strict=True)))


def find_largest_mask(pair: CheckpointPair, names: Sequence[str], k: int) -> Mask:
    """The mask of the k largest movements, at least 1, or of all where fewer moved.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    names = sorted(names)
    search = LargestMovements(pair, names, k)
    find_largest([search], names, pair.stored)
    reads = pair.stored if search.needs_base else lambda _: ()
    found = dict(zip(names, stream_tensors(search.places, names, reads, "largest"), strict=True))
    return Mask.of({name: pair.base.spec(name) for name in names}, found)


def _sample(pair: CheckpointPair, names: Sequence[str]) -> npt.NDArray[np.int32]:
    """(runs, weights in each) patterns of |delta|: one run by chance in each of as many equal parts of the model."""
    ends = np.cumsum([pair.base.spec(name).numel for name in names])
    total = int(ends[-1])
    n_runs = max(1, min(SAMPLE, total) // RUN)
    length = RUN if total > SAMPLE else math.ceil(total / n_runs)
    part = total / n_runs
    starts = np.arange(n_runs) * part + np.random.default_rng(0).random(n_runs) * max(part - length, 0)
    places = np.minimum(starts.astype(np.int64)[:, None] + np.arange(length), total - 1).ravel()
    found = []
    for name, end, here in zip(names, ends, np.split(places, np.searchsorted(places, ends)), strict=False):
        at = torch.from_numpy(here - (end - pair.base.spec(name).numel))
        base, tuned = pair.read_at(name, at) if len(at) else (torch.empty(0), torch.empty(0))
        found.append((tuned.float() - base.float()).abs_().view(torch.int32))
    return torch.cat(found).numpy().reshape(n_runs, length)


def _bracket_of(sample: npt.NDArray[np.int32], share: float, total: int) -> Bracket:
    """Where the share's threshold lies, as far as the scatter of the runs about the sampled threshold tells."""
    ordered = np.sort(sample, axis=None)
    n = len(ordered)

    def threshold(of: float) -> int:
        return int(ordered[n - 1 - min(n - 1, math.floor(of * n))])

    shares = (sample >= threshold(share)).mean(axis=1)
    # of evenly spread runs the neighbours' differences tell the scatter: tensors may differ as they like
    error = math.sqrt(float((np.diff(shares) ** 2).sum()) / 2) / len(shares)
    margin = SIGMAS * error + 1 / n
    low = threshold(share + margin) if share + margin < 1 else 1
    last = threshold(share - margin) if share > margin else LAST
    return Bracket.holding(low, last, 2 * margin * total)


def _join(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same parts, but views of two arrays: small ones between large temporaries keep freed memory from use."""
    if not parts:
        return []
    few, sizes = (torch.cat(column) for column in zip(*parts, strict=True))
    lengths = [len(part) for part, _ in parts]
    return list(zip(torch.split(few, lengths), torch.split(sizes, lengths), strict=True))


def _count(values: npt.NDArray[np.integer]) -> Tally:
    return Tally(0, *np.unique(values, return_counts=True))


def _merge(tallies: Sequence[Tally]) -> Tally:
    bins, places = np.unique(np.concatenate([tally.bins for tally in tallies]), return_inverse=True)
    counts = np.bincount(places, np.concatenate([tally.counts for tally in tallies]), len(bins))
    return Tally(sum(tally.above for tally in tallies), bins, counts.astype(np.int64))  # exact: fp64 below 2^53


def _size_of(bits: int) -> float:
    """The movement of that pattern."""
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
