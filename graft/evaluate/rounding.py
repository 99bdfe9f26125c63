"""Comparisons of shares: what lies apart by no more than floats round is equal.

Accuracies of 0.5 before tuning, 0.6 after it and 0.59 of a graft are a gain of nine tenths, but in floats
(0.59 - 0.5) / (0.6 - 0.5) is 0.8999999999999999.
"""

from __future__ import annotations

from collections.abc import Sequence

ROUNDING = 1e-9  # 0.01 of accuracy is a difference of shares of n


def reaches(value: float, goal: float) -> bool:
    """Return whether a number is at least another, up to rounding."""
    return value >= goal - ROUNDING


def exceeds(value: float, other: float) -> bool:
    """Return whether a number is larger than another by more than rounding."""
    return value > other + ROUNDING


def dominates(values: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether numbers are at least as large as others in every place, and larger in one, up to rounding."""
    pairs = list(zip(values, others, strict=True))
    return all(reaches(*pair) for pair in pairs) and any(exceeds(*pair) for pair in pairs)
