"""How a movement is spread over weights: moments and the share of the largest, exactly, two passes, any size.

Sizes |delta| are ordered by their fp32 bit patterns. The first pass sums counts, |delta| and delta^2 over the upper 16
bits (32,768 bins); the second counts the lower 16 bits within the bins in which a wanted k-th largest lies. Entries
of equal bits have equal values, so that the sums over the k largest follow exactly, ties and all, without a sort,
and without more than a part of one tensor in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

HALF = 1 << 16
BINS = HALF >> 1  # of the upper half: the sign bit of a size is 0
PART = 1 << 22  # entries looked at together, which bounds the fp64 copies

DeltaSource = Mapping[str, Callable[[], torch.Tensor]]  # tensor name -> a function that gives its (n,) fp32 delta


@dataclass(frozen=True)
class Concentration:
    """What is known of all entries together.

    Attributes:
        n: number of entries.
        moments: mean of delta, delta^2, delta^3, delta^4.
        absolute: sum of |delta|.
        squared: sum of delta^2.
        largest: k -> (sum of |delta|, sum of delta^2) over the k largest |delta|.
    """

    n: int
    moments: tuple[float, float, float, float]
    absolute: float
    squared: float
    largest: Mapping[int, tuple[float, float]]

    @property
    def excess_kurtosis(self) -> float:
        """m4 / m2^2 - 3 with central moments: 0 for a normal distribution; 0 too where all entries are equal."""
        first, second, third, fourth = self.moments
        variance = second - first**2
        central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
        return central / variance**2 - 3 if variance > 0 else 0.0

    @property
    def participation(self) -> float:
        """(sum delta^2)^2 / sum delta^4: k where k entries moved alike (inverse participation ratio)."""
        return self.n * self.moments[1] ** 2 / self.moments[3] if self.moments[3] else 0.0

    @property
    def participation_l1(self) -> float:
        """(sum |delta|)^2 / sum delta^2: the same from lower powers, which a few outliers decide less."""
        return self.absolute**2 / self.squared if self.squared else 0.0


def measure_concentration(deltas: DeltaSource, ks: Sequence[int]) -> Concentration:
    """Measure all tensors together.

    Args:
        deltas: tensor name -> function that gives its (n,) fp32 delta, finite; called twice.
        ks: for how many of the largest entries to sum; more than there are counts as all.
    """
    powers = np.zeros(4)
    counts, absolute, squared = np.zeros(BINS, np.int64), np.zeros(BINS), np.zeros(BINS)
    for part in _parts(deltas):
        exact = part.double()
        powers += [float((exact**power).sum()) for power in (1, 2, 3, 4)]
        size, bins = exact.abs(), _bits(part) >> 16
        counts += torch.bincount(bins, minlength=BINS).numpy()
        absolute += torch.bincount(bins, size, BINS).numpy()
        squared += torch.bincount(bins, size.square_(), BINS).numpy()
    n = int(counts.sum())
    wanted = {k: _bin_of(counts, min(k, n)) for k in ks}
    fine = _count_lower(deltas, set(wanted.values()))
    largest = {}
    for k, place in wanted.items():
        rest = min(k, n) - int(counts[place + 1 :].sum())
        sums = _sum_largest(place, fine[place], rest)
        largest[k] = (float(absolute[place + 1 :].sum()) + sums[0], float(squared[place + 1 :].sum()) + sums[1])
    first, second, third, fourth = (powers / max(n, 1)).tolist()
    return Concentration(n, (first, second, third, fourth), float(absolute.sum()), float(squared.sum()), largest)


def _parts(deltas: DeltaSource) -> Iterator[torch.Tensor]:
    for name in deltas:
        delta = deltas[name]()
        yield from (delta[start : start + PART] for start in range(0, len(delta), PART))


def _bits(part: torch.Tensor) -> torch.Tensor:
    """(n,) int32: the bits of |delta|, in the order of the sizes."""
    return part.view(torch.int32) & 0x7FFFFFFF


def _bin_of(counts: np.ndarray, k: int) -> int:
    """The bin of the k-th largest."""
    from_top = np.cumsum(counts[::-1])
    return len(counts) - 1 - int(np.searchsorted(from_top, k))


def _count_lower(deltas: DeltaSource, places: set[int]) -> dict[int, np.ndarray]:
    """Bin -> (65536,) int64 counts of the lower 16 bits within it."""
    fine = {place: np.zeros(HALF, np.int64) for place in places}
    for part in _parts(deltas):
        bits = _bits(part)
        for place, counts in fine.items():
            counts += torch.bincount(bits[bits >> 16 == place] & (HALF - 1), minlength=HALF).numpy()
    return fine


def _sum_largest(place: int, counts: np.ndarray, k: int) -> tuple[float, float]:
    """Sums of |delta| and delta^2 over the k largest entries of one bin."""
    values = ((place << 16) + np.arange(HALF, dtype=np.int32)).astype(np.int32).view(np.float32).astype(np.float64)
    above = np.cumsum(counts[::-1])[::-1] - counts  # entries of the bin that are larger
    taken = np.clip(k - above, 0, counts)
    finite = np.where(taken > 0, values, 0.0)  # the last bins hold the patterns of infinity and NaN
    return float(taken @ finite), float(taken @ finite**2)
