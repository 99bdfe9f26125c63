"""The top k |delta| = |tuned - base| of a model, read chunk by chunk: exact, ties included, without a list of all.

A sort or a `topk` would need all |delta| in memory: 4 bytes a weight, and 28 GB for a model of 7 billion. Instead,
|delta| is ordered by its fp32 bit pattern (31 bits; the patterns of non-negative floats are in the order of the
numbers). A sample of the weights says between which two patterns, the bracket, the k-th largest lies, almost surely.
One pass counts what is above the bracket and, pattern by pattern, what is in it. The counts give the k-th largest
pattern itself, the threshold; with it the entries of each chunk that are among the k are known. Where the sample
was wrong, or too many patterns lie in the bracket, the counts give the bracket of another pass. Ties go by tensor
name, then index.

Five weights in two tensors, k = 2, with small numbers for patterns; the sample gave the bracket 5 to 8:

    a    7 3 9    count: 1 above (the 9), bin 7: 1
    b    7 2      count: 0 above,         bin 7: 1

    settle: 1 above < k = 2 <= 1 above + 2 in the bracket, so the 2nd largest is in it. Going down from the top,
    1 + 2 = 3 at 7 reaches k first: the threshold is 7. Above it lies 1, so 1 of the 2 ties is selected: a's, which
    comes first.
    select: a -> the 7 and the 9, b -> none.

Had the sample given 2 to 6, settle would see 3 above >= k and ask for another pass over 7 and up; with 8 to 8, 1 above
and none in it, for one over 1 to 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from graft.localize.context import LocalizationContext
from graft.patch.mask import Mask
from graft.tensors.deltas import LONG, large_deltas
from graft.tensors.pair import CheckpointPair
from graft.tensors.streaming import Reading, stream_tensors

RUN = 256  # neighboring weights in the sample, since the disk is read by pages
SAMPLE = 1 << 20  # weights in the sample; fewer are all looked at
SIGMAS = 6  # how far the bracket reaches, in standard errors of the sampled share
EXACT = 1 << 23  # entries in the bracket that are counted pattern by pattern; more are counted in bins
BIN_BITS = 20  # log2 of the number of bins
CACHED = 1 << 24  # entries of a model, 8 bytes each, kept from the count, so that `select` reads nothing again
LAST = 0x7F800000  # infinity, the highest pattern: two finite values may lie further apart than fp32 reaches
Ints = npt.NDArray[np.int64]


class Tally(NamedTuple):
    """Counts of |delta| of some weights.

    Attributes:
        above: number beyond the bracket.
        bins: (b,) ascending, the bins of the bracket that hold any.
        counts: (b,) number in each.
    """

    above: int
    bins: Ints
    counts: Ints


@dataclass(frozen=True)
class Bracket:
    """A range of patterns from `low` to `last`, in bins of 2^shift; `low` is at least 1, since 0 did not move."""

    low: int
    last: int
    shift: int

    @classmethod
    def around(cls, low: int, last: int, n: float) -> Bracket:
        """Return the bracket, with bins as wide as about n entries in it call for."""
        low = max(low, 1)
        return cls(low, last, max(0, (last - low).bit_length() - BIN_BITS) if n > EXACT else 0)


class TopDeltas:
    """A search for exactly the k entries of largest |delta|, or all that moved where fewer did.

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
        # tensor -> chunk by chunk (indices, |delta|) in the bracket or above, while they are few
        self._cached: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] | None = {} if k <= CACHED else None
        self._n_cached = 0

    @property
    def needs_base(self) -> bool:
        """True where `select` must read the checkpoints again, since nothing was cached."""
        return self._cached is None

    @property
    def is_settled(self) -> bool:
        """True when the threshold is known and `select` can be called."""
        return self._threshold is not None

    def count(self, name: str) -> Tally:
        """Count the entries of one tensor above and in the bracket.

        Raises:
            CheckpointError: a value is NaN or infinite.
        """
        bracket = self._bracket
        bounds = _magnitude_of(bracket.low), _magnitude_of(bracket.last)
        # offsets into the bracket wait until there are many: one `unique` of many costs less than many of few
        above, waiting, n_waiting, counted = 0, [], 0, _count(np.empty(0, np.int64))
        cached: list[tuple[torch.Tensor, torch.Tensor]] = []
        for _, base, tuned in self.pair.chunks(name, LONG):
            indices, magnitudes = large_deltas(self.pair, name, base, tuned, *bounds)
            self._n_cached += len(indices)
            if self._n_cached > CACHED:  # many ties, or close ones: reading again costs less than their memory
                self._cached = None
            if self._cached is not None:
                cached.append((indices.int(), magnitudes))
            bits = magnitudes.view(torch.int32).numpy()
            above += int(np.count_nonzero(bits > bracket.last))
            inside = bits[(bits >= bracket.low) & (bits <= bracket.last)]
            waiting.append((inside - bracket.low) >> bracket.shift)
            n_waiting += len(inside)
            if n_waiting > SAMPLE:
                counted, waiting, n_waiting = _merge([counted, _count(np.concatenate(waiting))]), [], 0
        if (cache := self._cached) is not None:  # another thread may give it up at any time
            cache[name] = _join(cached)
        total = _merge([counted, _count(np.concatenate(waiting))]) if n_waiting else counted
        return total._replace(above=above)

    def settle(self, tallies: Mapping[str, Tally]) -> None:
        """Derive the threshold from the counts of all tensors, or else the bracket of the next pass."""
        bracket, total = self._bracket, _merge(list(tallies.values()))
        within = int(total.counts.sum())
        cached, self._cached = self._cached, None  # it is of use for this bracket alone
        if total.above >= self._k:  # the sample was wrong: the k-th largest lies above
            self._bracket = Bracket.around(bracket.last + 1, LAST, total.above)
        elif total.above + within >= self._k:
            # number at a bin or above it, from the highest bin down; the first bin that reaches k holds the k-th
            from_top = total.above + total.counts[::-1].cumsum()
            position = len(from_top) - 1 - int(np.searchsorted(from_top, self._k))
            boundary, n = int(total.bins[position]), int(total.counts[position])
            start = bracket.low + (boundary << bracket.shift)
            if bracket.shift:  # bins of several patterns: the next pass looks into this one
                self._bracket = Bracket.around(start, min(start + (1 << bracket.shift) - 1, bracket.last), n)
            else:
                self._threshold, self._cached = start, cached
                # of the bin's n ties, those are selected that k has room for beyond what lies above it
                self._share_ties(boundary, self._k - int(from_top[-1 - position]) + n, tallies)
        elif bracket.low == 1:  # nothing is left below
            self._threshold = 0  # all that moved
        else:  # the sample was wrong the other way
            self._bracket = Bracket.around(1, bracket.low - 1, self._total - total.above - within)

    def select(self, name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return a function that selects the entries of a tensor, chunk by chunk.

        Returns:
            A function of base and tuned, (n,) as `CheckpointPair.chunks` gives them with a length of `LONG` and in
            that order, that returns (c,) int64 ascending indices into the chunk.
        """
        assert self._threshold is not None
        threshold, ties_left = self._threshold, self._ties.get(name, 0)
        bound = _magnitude_of(threshold)
        cached = iter(self._cached[name]) if self._cached is not None else None

        def select_chunk(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
            nonlocal ties_left
            if cached is not None:
                indices, magnitudes = next(cached)
            else:
                indices, magnitudes = large_deltas(self.pair, name, base, tuned, bound, bound)
            bits = magnitudes.view(torch.int32)
            chosen = bits > threshold
            if ties_left:
                ties = (bits == threshold).nonzero().squeeze(1)[:ties_left]
                chosen[ties] = True
                ties_left -= len(ties)
            return indices[chosen].long()

        return select_chunk

    def indices_of(self, name: str) -> Ints:
        """Return (c,) ascending flat indices of a tensor's selected entries."""
        select, parts = self.select(name), [np.empty(0, np.int64)]
        for start, base, tuned in self.pair.chunks(name, LONG):
            parts.append(select(base, tuned).numpy() + start)
        return np.concatenate(parts)

    def _share_ties(self, boundary: int, left: int, tallies: Mapping[str, Tally]) -> None:
        """Share out the ties at a bin: to the first tensors, in order of name, that hold any."""
        for name in self._names:
            n_ties = int(tallies[name].counts[tallies[name].bins == boundary].sum())
            self._ties[name] = min(n_ties, left)
            left -= self._ties[name]


def find_top_deltas(searches: Sequence[TopDeltas], names: Sequence[str], reads: Callable[[str], Reading]) -> None:
    """Settle searches over the same tensors in one pass over their models, rarely another.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """

    def count(name: str) -> list[Tally]:
        return [search.count(name) for search in unsettled]

    while unsettled := [search for search in searches if not search.is_settled]:
        tallies = list(stream_tensors(count, names, reads, "movements"))
        for search, by_tensor in zip(unsettled, zip(*tallies, strict=True), strict=True):
            search.settle(dict(zip(names, by_tensor, strict=True)))


def find_top_delta_mask(pair: CheckpointPair, names: Sequence[str], k: int) -> Mask:
    """Find the mask of the top k |delta|, k at least 1, or of all that moved where fewer did.

    Raises:
        CheckpointError: a value is NaN or infinite.
    """
    names = sorted(names)
    search = TopDeltas(pair, names, k)
    find_top_deltas([search], names, pair.stored)
    reads = pair.stored if search.needs_base else lambda _: ()
    indices = dict(zip(names, stream_tensors(search.indices_of, names, reads, "largest"), strict=True))
    return Mask.of({name: pair.base.spec(name) for name in names}, indices)


def choose_top_deltas(context: LocalizationContext) -> Mask:
    """Choose the top k |delta|, without a list of all where one budget holds for all tensors.

    A budget that is shared out, a limited rank, or too few moved weights (which it refuses), goes the way of any other
    score.
    """
    if context.config.allocation == "global" and context.config.max_rank is None:
        mask = find_top_delta_mask(context.pair, context.names, context.k)
        if len(mask) == context.k:
            return mask
    return context.select_by_score("magnitude")


def _sample(pair: CheckpointPair, names: Sequence[str]) -> npt.NDArray[np.int32]:
    """Sample patterns of |delta|, (runs, weights in each): one run at random in each equal part of the model."""
    ends = np.cumsum([pair.base.spec(name).numel for name in names])
    total = int(ends[-1])
    n_runs = max(1, min(SAMPLE, total) // RUN)
    length = RUN if total > SAMPLE else math.ceil(total / n_runs)
    part = total / n_runs
    starts = np.arange(n_runs) * part + np.random.default_rng(0).random(n_runs) * max(part - length, 0)
    positions = np.minimum(starts.astype(np.int64)[:, None] + np.arange(length), total - 1).ravel()
    patterns = []
    by_tensor = np.split(positions, np.searchsorted(positions, ends))
    for name, end, sampled in zip(names, ends, by_tensor, strict=False):
        indices = torch.from_numpy(sampled - (end - pair.base.spec(name).numel))
        base, tuned = pair.read_at(name, indices) if len(indices) else (torch.empty(0), torch.empty(0))
        patterns.append((tuned.float() - base.float()).abs_().view(torch.int32))
    return torch.cat(patterns).numpy().reshape(n_runs, length)


def _bracket_of(sample: npt.NDArray[np.int32], share: float, total: int) -> Bracket:
    """Bracket the threshold of a share: the sampled one, give or take `SIGMAS` standard errors between the runs."""
    ordered = np.sort(sample, axis=None)
    n = len(ordered)

    def threshold(of: float) -> int:
        return int(ordered[n - 1 - min(n - 1, math.floor(of * n))])

    shares = (sample >= threshold(share)).mean(axis=1)
    # differences of neighboring runs measure the scatter, so that tensors may differ from each other
    error = math.sqrt(float((np.diff(shares) ** 2).sum()) / 2) / len(shares)
    margin = SIGMAS * error + 1 / n
    low = threshold(share + margin) if share + margin < 1 else 1
    last = threshold(share - margin) if share > margin else LAST
    return Bracket.around(low, last, 2 * margin * total)


def _join(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the same parts as views of two arrays, since small arrays between large temporaries fragment memory."""
    if not parts:
        return []
    indices, magnitudes = (torch.cat(column) for column in zip(*parts, strict=True))
    lengths = [len(part) for part, _ in parts]
    return list(zip(torch.split(indices, lengths), torch.split(magnitudes, lengths), strict=True))


def _count(values: npt.NDArray[np.integer]) -> Tally:
    return Tally(0, *np.unique(values, return_counts=True))


def _merge(tallies: Sequence[Tally]) -> Tally:
    bins, positions = np.unique(np.concatenate([tally.bins for tally in tallies]), return_inverse=True)
    counts = np.bincount(positions, np.concatenate([tally.counts for tally in tallies]), len(bins))
    return Tally(sum(tally.above for tally in tallies), bins, counts.astype(np.int64))  # exact: fp64 below 2^53


def _magnitude_of(bits: int) -> float:
    """Return the |delta| of a pattern."""
    return float(torch.tensor(bits, dtype=torch.int32).view(torch.float32))
