"""Single linkage over Jaccard similarities: which regions hang together at a threshold, and the tree of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Join:
    """Two clusters become one.

    Attributes:
        left, right: the clusters: 0 ... m - 1 are the regions, m + j the cluster that join j made.
        similarity: the largest Jaccard similarity of a member of one with a member of the other, 0 to 1.
        size: regions in the new cluster.
    """

    left: int
    right: int
    similarity: float
    size: int


def link_singly(similarity: Matrix) -> tuple[Join, ...]:
    """The m - 1 joins of single linkage, most similar first (Kruskal's algorithm); ties in order of the regions.

    Args:
        similarity: (m, m) symmetric.
    """
    m = len(similarity)
    rows, columns = np.triu_indices(m, 1)
    order = np.lexsort((columns, rows, -similarity[rows, columns]))
    cluster, size = list(range(m)), dict.fromkeys(range(m), 1)
    joins: list[Join] = []
    for place in order:
        i, j = int(rows[place]), int(columns[place])
        left, right = sorted((cluster[i], cluster[j]))
        if left == right:
            continue
        size[m + len(joins)] = size[left] + size[right]
        cluster = [m + len(joins) if item in (left, right) else item for item in cluster]
        joins.append(Join(left, right, float(similarity[i, j]), size[m + len(joins)]))
    return tuple(joins)


def clusters_at(joins: tuple[Join, ...], m: int, threshold: float) -> tuple[tuple[int, ...], ...]:
    """The connected components of "similar by at least the threshold", regions and clusters in ascending order."""
    members: dict[int, tuple[int, ...]] = {i: (i,) for i in range(m)}
    for number, join in enumerate(joins):
        if join.similarity >= threshold:
            members[m + number] = tuple(sorted(members.pop(join.left) + members.pop(join.right)))
    return tuple(sorted(members.values()))


def leaf_order(joins: tuple[Join, ...], m: int) -> tuple[int, ...]:
    """The regions in an order in which every cluster stands together."""
    members: dict[int, tuple[int, ...]] = {i: (i,) for i in range(m)}
    for number, join in enumerate(joins):
        members[m + number] = members.pop(join.left) + members.pop(join.right)
    return next(iter(members.values()))
