"""Mantel test of the agreement of two matrices over the same items: Spearman's correlation of their pairs, with p.

The m (m - 1) / 2 pairs depend on each other, since each item is in m - 1 of them; permuting pairs would count evidence
several times over. So the items are permuted, rows and columns alike (Mantel 1967, Cancer Research 27: 209-220).
Example: the six pairs of four items have 720 orders, of which permuting items gives 4! = 24. These alone are possible
under the null, so that p is never below 1/24.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
_EXACT = 7  # items up to which all permutations are tried: 5,040
_DRAWS = 10_000


def mantel_test(left: Matrix, right: Matrix, *, seed: int = 0) -> tuple[float, float]:
    """Correlate the upper triangles by rank, and count the permutations of the items that correlate as well.

    Args:
        left, right: (m, m) symmetric, m >= 3; the diagonals are ignored.
        seed: of the permutations, where there are too many to try them all.

    Returns:
        rho, -1 to 1, NaN where all pairs of a matrix are equal; and p, one-sided, the identity included.

    Raises:
        ValueError: other shapes.
    """
    from scipy.spatial.distance import squareform
    from scipy.stats import rankdata

    m = len(left)
    if m < 3 or left.shape != (m, m) or right.shape != (m, m):
        raise ValueError(f"two (m, m) matrices of three items or more are needed, not {left.shape} and {right.shape}")
    pairs = np.triu_indices(m, 1)
    # Spearman's rho is Pearson's r of the ranks; equal values share the mean of theirs
    left_ranks, right_ranks = rankdata(left[pairs]), rankdata(right[pairs])
    if np.ptp(left_ranks) == 0 or np.ptp(right_ranks) == 0:
        return math.nan, math.nan
    ranks = squareform(right_ranks)  # (m, m): a permutation moves the ranks along with the items
    rhos = np.array([_correlation(left_ranks, ranks[np.ix_(order, order)][pairs]) for order in _orders(m, seed)])
    rho = float(rhos[0])
    return rho, float(np.mean(rhos >= rho - 1e-12))  # a tie up to rounding counts


def _orders(m: int, seed: int) -> Iterable[npt.NDArray[np.int64]]:
    """Return permutations of the items, the identity first."""
    if m <= _EXACT:
        return (np.array(order) for order in itertools.permutations(range(m)))
    draw = np.random.default_rng(seed)
    return itertools.chain([np.arange(m)], (draw.permutation(m) for _ in range(_DRAWS - 1)))


def _correlation(a: Matrix, b: Matrix) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
