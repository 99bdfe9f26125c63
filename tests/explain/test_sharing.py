"""Mean and variance of shared dimensions are those of all masks, one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.explain.sharing import Sharing, share_inputs, share_outputs
from graft.patch.mask import Indices


def pairs_in(dimensions: Indices) -> int:
    return sum(a == b for a, b in itertools.combinations(dimensions.tolist(), 2))


def moments(counts: list[int]) -> tuple[float, float]:
    return float(np.mean(counts)), float(np.var(counts))


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_inputs_against_every_mask_of_as_many_entries(n_rows: int, n_columns: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, min(5, n_rows * n_columns)))
    masks = [np.array(mask) for mask in itertools.combinations(range(n_rows * n_columns), k)]
    columns = data.draw(st.sampled_from(masks)) % n_columns
    found = share_inputs(columns, n_rows, n_columns)
    assert found.shared == pairs_in(columns)
    assert found.pairs == k * (k - 1) // 2
    mean, variance = moments([pairs_in(mask % n_columns) for mask in masks])
    assert (found.expected, found.variance) == (pytest.approx(mean), pytest.approx(variance, abs=1e-12))


@given(st.integers(1, 4), st.lists(st.integers(0, 4), min_size=1, max_size=3))
def test_outputs_against_every_mask_with_the_counts_of_each_column(n_rows: int, counts: list[int]) -> None:
    counts = [min(n, n_rows) for n in counts]
    of_columns = [list(itertools.combinations(range(n_rows), n)) for n in counts]
    masks = [np.array([row for rows in mask for row in rows], int) for mask in itertools.product(*of_columns)]
    columns = np.repeat(np.arange(len(counts)), counts)
    found = share_outputs(masks[-1], columns, n_rows)
    assert found.shared == pairs_in(masks[-1])
    mean, variance = moments([pairs_in(mask) for mask in masks])
    assert (found.expected, found.variance) == (pytest.approx(mean), pytest.approx(variance, abs=1e-12))


def test_several_matrices_join_and_one_entry_has_no_pair() -> None:
    one = share_inputs(np.array([0, 0, 1]), 3, 3)
    both = one + share_inputs(np.array([2]), 3, 3)
    assert both == one + Sharing()
    assert one.index == pytest.approx(1 / 3)
    assert share_inputs(np.array([2]), 3, 3).to_json() == {}
    assert Sharing().ratio is None


def test_a_whole_matrix_is_what_chance_gives() -> None:
    rows, columns = np.divmod(np.arange(12), 4)
    for found in (share_inputs(columns, 3, 4), share_outputs(rows, columns, 3)):
        assert found.ratio == pytest.approx(1)
        assert "z" not in found.to_json()
