"""The null that keeps degrees, against all matrices with the margins, listed one by one."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.compose.degree_null import BURN_IN, DegreeNull, Edges
from graft.compose.region_overlap import measure_overlap
from graft.errors import ConfigError
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask

Matrix = np.ndarray


def with_margins(matrix: Matrix) -> list[Matrix]:
    """All 0-1 matrices with a matrix's row and column sums."""
    rows, columns = matrix.shape
    choices = [list(itertools.combinations(range(columns), int(row.sum()))) for row in matrix]
    found = []
    for picks in itertools.product(*choices):
        other = np.zeros((rows, columns), int)
        for row, pick in enumerate(picks):
            other[row, list(pick)] = 1
        if np.array_equal(other.sum(0), matrix.sum(0)):
            found.append(other)
    return found


A = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]])
B = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]])


def null_of(*matrices: Matrix) -> DegreeNull:
    null = DegreeNull(len(matrices))
    null.add((1, *matrices[0].shape), range(len(matrices)), [np.flatnonzero(matrix) for matrix in matrices])
    return null


@pytest.mark.parametrize("start", [A, A.T, B])
def test_every_matrix_with_the_margins_is_as_likely_as_any_other(start: Matrix) -> None:
    """Chi-square over the states after a few trades each; too few trades are seen."""
    rows, columns = np.nonzero(start)
    every = [tuple(np.flatnonzero(matrix).tolist()) for matrix in with_margins(start)]
    assert len(every) > 5
    draws = np.random.default_rng(0)

    def spread_after(trades: int, n: int = 2000) -> float:
        graphs = Edges.of([rows] * n, [columns] * n)  # n chains that start alike
        for _ in range(trades):
            graphs.trade(draws)
        flat = (graphs.node * start.shape[1] + graphs.other).reshape(n, -1)
        met = Counter(tuple(sorted(chain)) for chain in flat.tolist())
        assert set(met) <= set(every)
        expected = n / len(every)
        return sum((met[state] - expected) ** 2 / expected for state in every) / (len(every) - 1)

    assert spread_after(0) > 100
    assert spread_after(BURN_IN) < 1.8  # chi-square over its degrees of freedom: 1 where all are alike


def test_the_samples_have_the_mean_and_spread_of_all_pairs_of_matrices() -> None:
    shared = [int((a & b).sum()) for a in with_margins(A) for b in with_margins(B)]
    drawn = null_of(A, B).sample(1500, seed=1)[:, 0, 1]
    assert drawn.mean() == pytest.approx(np.mean(shared), abs=4 * np.std(shared) / 1500**0.5)
    assert drawn.std() == pytest.approx(np.std(shared), rel=0.08)
    assert np.mean(shared) > A.sum() * B.sum() / 16 * 1.1  # what both favor is no kinship of entries


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.floats(0.05, 0.9))
def test_trades_keep_every_degree_and_never_repeat_an_edge(seed: int, rows: int, columns: int, density: float) -> None:
    draws = np.random.default_rng(seed)
    nodes, others = np.nonzero(draws.random((rows, columns)) < density)
    if not len(nodes):
        return
    graphs = Edges.of([nodes, others], [others, nodes])  # the same, traded from either side
    for _ in range(5):
        graphs.trade(draws)
    for start, sides in ((0, (nodes, others)), (len(nodes), (others, nodes))):
        part = slice(start, start + len(nodes))
        assert Counter(graphs.node[part].tolist()) == Counter(sides[0].tolist())
        assert Counter(graphs.other[part].tolist()) == Counter(sides[1].tolist())
        assert len(set(zip(graphs.node[part].tolist(), graphs.other[part].tolist(), strict=True))) == len(nodes)


def test_vectors_keep_their_count_alone() -> None:
    null = DegreeNull(2)
    null.add_vector(30, [0, 1], [np.arange(10), np.arange(15)])
    drawn = null.sample(4000)[:, 0, 1]
    assert drawn.mean() == pytest.approx(5, abs=0.1)


def masks(*indices: list[int]) -> list[Mask]:
    specs = {"layers.0.w": TensorSpec("F32", (40, 30))}
    return [Mask.of(specs, {"layers.0.w": flat}) for flat in indices]


def test_masks_of_the_same_column_are_no_kin_and_equal_ones_are() -> None:
    draws = np.random.default_rng(0)
    spread = draws.choice(1200, 60, replace=False).tolist()
    column = [[int(row) * 30 + 7 for row in draws.choice(40, 20, replace=False)] for _ in range(2)]
    pair = measure_overlap(*masks(*column)).pairs[0]
    assert pair.intersection > 3 * pair.expected_by_tensor  # by tensor they look alike
    assert pair.expected_by_column == pytest.approx(10)
    assert pair.expected_by_degrees == pair.intersection  # one column: rows and column say all there is
    assert pair.z_by_degrees is None
    same = measure_overlap(*masks(spread, spread)).pairs[0]
    assert same.intersection == 60
    assert same.high_by_degrees is not None
    assert same.high_by_degrees < 40
    assert same.z_by_degrees is not None
    assert same.z_by_degrees > 5


def test_samples_follow_the_seed_and_can_be_left_out() -> None:
    draws = np.random.default_rng(1)
    parts = masks(*[draws.choice(1200, 80, replace=False).tolist() for _ in range(3)])
    assert measure_overlap(*parts) == measure_overlap(*parts)
    assert measure_overlap(*parts) != measure_overlap(*parts, seed=1)
    without = measure_overlap(*parts, samples=0)
    assert {pair.expected_by_degrees for pair in without.pairs} == {None}
    assert without.to_json()["pairs"][0]["z_by_degrees"] is None


def test_what_would_take_long_is_sampled_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = masks([1, 2, 45], [2, 31, 77])
    assert measure_overlap(*parts).pairs[0].expected_by_degrees is not None
    monkeypatch.setattr("graft.compose.region_overlap.MOST_ENTRIES", 5)
    assert measure_overlap(*parts).pairs[0].expected_by_degrees is None
    assert measure_overlap(*parts, samples=3).pairs[0].expected_by_degrees is not None
    with pytest.raises(ConfigError, match="1 samples have no spread"):
        measure_overlap(*parts, samples=1)
