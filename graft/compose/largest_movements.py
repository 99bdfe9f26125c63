"""The k largest movements of a model, stretch by stretch: exact, ties included, without a list of their indices.

|delta| is ordered by its fp32 bit pattern, 31 bits. A first pass counts the upper 16, a second the lower 15 of the bin
in which the k-th largest lies; then each stretch of weights can be told which of its entries are among the k. Ties go
to whoever comes first, so that the third pass must take the stretches in one order.
"""

from __future__ import annotations

import torch

LOWER = 15


class LargestMovements:
    """Selects exactly k entries, or all that moved where these are fewer.

    Args:
        k: how many, at least 1.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._upper = torch.zeros(1 << 16, dtype=torch.int64)
        self._lower = torch.zeros(1 << LOWER, dtype=torch.int64)
        self._bin = self._threshold = -1
        self._ties_left = 0

    def count_upper(self, moved: torch.Tensor) -> None:
        """First pass: (n,) fp32 differences."""
        self._upper += torch.bincount(_bits(moved) >> LOWER, minlength=1 << 16)

    def count_lower(self, moved: torch.Tensor) -> None:
        """Second pass, over the same stretches in any order."""
        if self._bin < 0:
            self._bin, _ = _boundary(self._upper, self._k)
        bits = _bits(moved)
        inside = bits[(bits >> LOWER) == self._bin] & ((1 << LOWER) - 1)
        self._lower += torch.bincount(inside, minlength=1 << LOWER)

    def select(self, moved: torch.Tensor) -> torch.Tensor:
        """Third pass: (n,) bool, which of the entries are among the k; what did not move never is."""
        if self._threshold < 0:
            _, above = _boundary(self._upper, self._k)
            lower, inside = _boundary(self._lower, self._k - above)
            self._threshold = (self._bin << LOWER) + lower
            self._ties_left = self._k - above - inside
        bits = _bits(moved)
        chosen = bits > self._threshold
        if self._ties_left and self._threshold > 0:
            ties = (bits == self._threshold).nonzero().squeeze(1)[: self._ties_left]
            chosen[ties] = True
            self._ties_left -= len(ties)
        return chosen


def _bits(moved: torch.Tensor) -> torch.Tensor:
    return moved.abs().view(torch.int32)


def _boundary(counts: torch.Tensor, k: int) -> tuple[int, int]:
    """The highest bin in which the k-th largest lies, and how many lie above that bin."""
    from_top = counts.flip(0).cumsum(0)
    place = min(int(torch.searchsorted(from_top, k)), len(counts) - 1)
    return len(counts) - 1 - place, int(from_top[place] - counts[len(counts) - 1 - place])
