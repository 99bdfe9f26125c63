"""Single linkage over Jaccard similarities: the tree of all regions, and the clusters at a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Join:
    """A step of single linkage, in which two clusters become one.

    Attributes:
        left, right: the clusters: 0 ... m - 1 are the regions, m + j the cluster that join j made.
        similarity: the largest Jaccard similarity of a member of one with a member of the other, 0 to 1.
        size: regions in the new cluster.
    """

    left: int
    right: int
    similarity: float
    size: int


def single_linkage(similarity: Matrix) -> tuple[Join, ...]:
    """Build the tree of single linkage.

    Args:
        similarity: (m, m) symmetric, m >= 2.

    Returns:
        The m - 1 joins, most similar first; ties in the order of the regions.
    """
    from scipy.cluster.hierarchy import linkage

    pairs = similarity[np.triu_indices(len(similarity), 1)]  # (m (m - 1) / 2,) in the order of the regions
    # Single linkage looks at the order of the pairs alone, so that their ranks stand in for distances: ranks have no
    # ties, which scipy would break in an order of its own, and lead back to the similarity without rounding. With
    # similarities .2 .5 .2 of the pairs ab ac bc the ranks are 1 0 2, and the joins are a + c at rank 0, then
    # {a, c} + b at rank 1.
    order = np.argsort(-pairs, kind="stable")
    ranks = np.empty(len(pairs))
    ranks[order] = np.arange(len(pairs))
    return tuple(
        Join(int(left), int(right), float(pairs[order[int(rank)]]), int(size))
        for left, right, rank, size in linkage(ranks, "single")
    )


def to_linkage(joins: Sequence[Join]) -> Matrix:
    """Return the joins as scipy's (m - 1, 4) linkage matrix, with 1 - similarity as distance."""
    return np.array([(join.left, join.right, 1 - join.similarity, join.size) for join in joins], dtype=np.float64)


def clusters_at(joins: Sequence[Join], threshold: float) -> tuple[tuple[int, ...], ...]:
    """Return the connected components of "similar by at least the threshold", each and all in ascending order."""
    from scipy.cluster.hierarchy import fcluster

    labels = fcluster(to_linkage(joins), 1 - threshold, "distance")  # (m,)
    return tuple(sorted(tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)))


def leaf_order(joins: Sequence[Join]) -> tuple[int, ...]:
    """Return the regions in an order in which every cluster stands together."""
    from scipy.cluster.hierarchy import leaves_list

    return tuple(leaves_list(to_linkage(joins)).tolist())
