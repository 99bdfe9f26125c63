"""Minimal covers: as many lines as a maximum matching has edges, and no fewer would do."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.patch.vertex_cover import cover_entries, largest_rank, rank_of


def test_the_example_of_the_docstring() -> None:
    cover = cover_entries(np.array([0, 1, 2, 4, 7]), (3, 3))
    assert (cover.rows.tolist(), cover.columns.tolist(), cover.rank) == ([0], [1], 2)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_no_fewer_lines_hold_all_entries(data: st.DataObject) -> None:
    m, n = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    indices = np.array(sorted(data.draw(st.sets(st.integers(0, m * n - 1), min_size=1))))
    cover = cover_entries(indices, (m, n))
    rows, columns = np.divmod(indices, n)
    assert bool((np.isin(rows, cover.rows) | np.isin(columns, cover.columns)).all())
    assert cover.rank == rank_of(indices, (m, n))
    lines = [rows == i for i in range(m)] + [columns == j for j in range(n)]
    fewer = itertools.combinations(lines, cover.rank - 1)
    assert not any(np.logical_or.reduce([*some, np.zeros(len(rows), bool)]).all() for some in fewer)


def test_the_largest_rank_is_of_matrices_alone() -> None:
    specs = {"bias": TensorSpec("F32", (5,)), "w": TensorSpec("F32", (4, 5)), "v": TensorSpec("F32", (4, 5))}
    mask = Mask.of(specs, {"bias": [0, 1], "w": [0, 6, 12], "v": [0, 1, 2, 3]})
    assert largest_rank(mask) == 3
    assert largest_rank(Mask.of(specs, {"bias": [0]})) == 0
