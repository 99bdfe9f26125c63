"""Entries of a matrix that share an input or an output dimension, against what chance gives, in closed form.

The measure is Simpson's index (1949), the share of pairs of entries that lie in one dimension: 1 / C where they spread
evenly over C, 1 where one holds them all. Of T, the number of such pairs among k entries of an R x C matrix (rows are
outputs, columns inputs), chance gives mean and variance exactly:

- Inputs, against k entries anywhere in the matrix. Pairs of cells of one column are E = C R (R-1) / 2 edges of a graph,
  of which A = C R (R-1) (R-2) / 2 pairs meet in a cell and D = E (E-1) / 2 - A do not; with p_m the chance that m given
  cells are drawn, k (k-1) ... / (RC (RC-1) ...), the mean is E p_2 and the mean square E p_2 + 2 A p_3 + 2 D p_4.
- Outputs, against masks with as many entries in each column, anywhere in it. Columns of c and d entries share a
  hypergeometric number of rows, of mean c d / R and variance c d (R-c) (R-d) / (R^2 (R-1)); given one of them the
  number has the same mean, so that pairs of columns are uncorrelated and their variances add up.

A 3 x 3 matrix with column 0 full and one entry in column 1, k = 4: 3 of 6 pairs share an input, by chance 6 * 2/8; one
pair shares an output, as it must.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from graft.patch.mask import Indices


@dataclass(frozen=True)
class Sharing:
    """Pairs of entries of the same matrix that share a dimension; `+` joins those of several matrices.

    Attributes:
        pairs: all pairs of entries.
        shared: those in one dimension.
        expected, variance: of `shared` by chance.
    """

    pairs: int = 0
    shared: int = 0
    expected: float = 0.0
    variance: float = 0.0

    def __add__(self, other: Sharing) -> Sharing:
        return Sharing(
            self.pairs + other.pairs,
            self.shared + other.shared,
            self.expected + other.expected,
            self.variance + other.variance,
        )

    @property
    def index(self) -> float | None:
        """Share of pairs in one dimension, 0 to 1; None without pairs."""
        return self.shared / self.pairs if self.pairs else None

    @property
    def ratio(self) -> float | None:
        """How many times chance that is; None where chance gives none."""
        return self.shared / self.expected if self.expected else None

    def to_json(self) -> dict[str, float]:
        """Return index, the index by chance, their ratio and its distance in standard deviations, what there is."""
        plain = {"index": self.index, "by_chance": self.expected / self.pairs if self.pairs else None}
        z = (self.shared - self.expected) / self.variance**0.5 if self.variance > 1e-9 * self.expected else None
        return {key: value for key, value in (plain | {"ratio": self.ratio, "z": z}).items() if value is not None}


def share_inputs(columns: Indices, n_rows: int, n_columns: int) -> Sharing:
    """Compare pairs in one input dimension with as many entries anywhere; `columns` (k,) are the entries' inputs."""
    k, cells = len(columns), n_rows * n_columns
    edges = cells * (n_rows - 1) // 2
    adjacent = cells * (n_rows - 1) * (n_rows - 2) // 2
    apart = edges * (edges - 1) // 2 - adjacent
    mean = edges * _chance(k, cells, 2)
    square = mean + 2 * adjacent * _chance(k, cells, 3) + 2 * apart * _chance(k, cells, 4)
    return Sharing(k * (k - 1) // 2, _count_pairs(columns), float(mean), float(square - mean * mean))


def share_outputs(rows: Indices, columns: Indices, n_rows: int) -> Sharing:
    """Compare pairs in one output dimension with masks of as many entries in each column; (k,) rows and columns."""
    k, held = len(rows), np.unique(columns, return_counts=True)[1].astype(float)
    expected = (held.sum() ** 2 - (held**2).sum()) / (2 * n_rows)
    spread = held * (n_rows - held)
    variance = (spread.sum() ** 2 - (spread**2).sum()) / (2 * n_rows**2 * max(1, n_rows - 1))
    return Sharing(k * (k - 1) // 2, _count_pairs(rows), float(expected), max(0.0, float(variance)))


def _count_pairs(dimensions: Indices) -> int:
    counts = np.unique(dimensions, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _chance(k: int, cells: int, m: int) -> Fraction:
    """Return the chance that m given cells are all among k drawn."""
    if k < m:
        return Fraction(0)
    drawn = Fraction(1)
    for i in range(m):
        drawn *= Fraction(k - i, cells - i)
    return drawn
