"""Exact rank of a support: the fewest rows and columns of a matrix that hold all of a mask's entries.

Rows and columns are the two sides of a graph, entries are its edges. By König's theorem (1931) a minimal vertex cover
has as many lines as a maximum matching has edges, and follows from it: from the rows without a partner walk along any
edge to a column and along matching edges back to a row; the cover is the rows that are not reached and the columns
that are. A matrix that is zero outside c lines has rank c at most, so that a difference on the mask is a product B A of
inner dimension c; no smaller one holds every choice of values.

The mask (0, 0), (0, 1), (0, 2), (1, 1), (2, 1) of a 3 x 3 matrix: row 0 and column 1 hold its five entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graft.patch.mask import Indices, Mask
from graft.tensors.transposed import is_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Cover:
    """Lines of a matrix that hold a mask's entries.

    Attributes:
        rows: ascending row numbers.
        columns: ascending column numbers.
    """

    rows: Indices
    columns: Indices

    @property
    def rank(self) -> int:
        """Number of lines."""
        return len(self.rows) + len(self.columns)


def cover_entries(indices: Indices, shape: Shape) -> Cover:
    """Return a minimal cover of (k,) flat indices into a matrix of a shape."""
    graph = _graph_of(indices, shape)
    partners = _match_rows(graph)
    rows, columns = _reach(graph, partners)
    touched = np.diff(graph.indptr) > 0
    return Cover(np.flatnonzero(touched & ~rows), np.flatnonzero(columns))


def rank_of(indices: Indices, shape: Shape) -> int:
    """Return the number of lines of a minimal cover, without the cover itself."""
    return int((_match_rows(_graph_of(indices, shape)) >= 0).sum())


def largest_rank(mask: Mask) -> int:
    """Return the largest rank among a mask's matrices; 0 where it has none."""
    matrices = [(mask[name], spec.shape) for name, spec in mask.specs.items() if is_matrix(name, spec.shape)]
    return max((rank_of(indices, shape) for indices, shape in matrices), default=0)


def _graph_of(indices: Indices, shape: Shape) -> csr_array:
    from scipy.sparse import csr_array

    rows, columns = np.divmod(indices, shape[1])
    starts = np.searchsorted(rows, np.arange(shape[0] + 1))  # flat indices ascend, and so do their rows
    # int32, as scipy's graph routines want them: no line of a matrix has 2^31 entries of a mask
    parts = (np.ones(len(columns), np.int8), columns.astype(np.int32), starts.astype(np.int32))
    return csr_array(parts, shape=shape)


def _match_rows(graph: csr_array) -> Indices:
    """Return each row's column in a maximum matching, -1 where it has none."""
    from scipy.sparse.csgraph import maximum_bipartite_matching

    partners: Indices = maximum_bipartite_matching(graph, perm_type="column")
    return partners


def _reach(graph: csr_array, partners: Indices) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows and which columns lie on a walk from a row without a partner, as two bool arrays."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    n_rows, n_columns = graph.shape
    source = n_rows + n_columns  # a node of its own, before the rows without a partner
    matched, alone = np.flatnonzero(partners >= 0), np.flatnonzero(partners < 0)
    row_ends = np.repeat(np.arange(n_rows), np.diff(graph.indptr))
    tails = np.concatenate([row_ends, n_rows + partners[matched], np.full(len(alone), source)])
    heads = np.concatenate([n_rows + graph.indices, matched, alone])
    size = source + 1
    edges = csr_array((np.ones(len(tails), np.int8), (tails, heads)), shape=(size, size))
    reached = np.zeros(size, bool)
    reached[breadth_first_order(edges, source, return_predecessors=False)] = True
    return reached[:n_rows], reached[n_rows:source]
