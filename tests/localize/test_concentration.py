from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.localize.concentration import PART, Concentration, measure_concentration

# few values, so that ties are many: zeros of both signs, subnormals, neighbours, both signs
POOL = [0.0, -0.0, 1e-45, -1e-45, 1.0, 1.0000001, -1.0, -1.0000001, 1e18, -0.1, 3e-5]


def measure(tensors: list[list[float]] | list[torch.Tensor], ks: list[int]) -> Concentration:
    table = {str(i): partial(torch.as_tensor, values, dtype=torch.float32) for i, values in enumerate(tensors)}
    return measure_concentration(table, ks)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.sampled_from(POOL), st.floats(-(2.0**60), 2.0**60, width=32))), min_size=1, max_size=3
    ),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_sums_over_the_largest_are_those_of_a_sort(tensors: list[list[float]], ks: list[int]) -> None:
    found = measure(tensors, ks)
    sizes = np.sort(np.abs(np.array([x for values in tensors for x in values], np.float32)).astype(float))[::-1]
    assert found.n == len(sizes)
    assert found.absolute == pytest.approx(sizes.sum(), rel=1e-12)
    assert found.squared == pytest.approx((sizes**2).sum(), rel=1e-12)
    for k in ks:
        assert found.largest[k] == pytest.approx((sizes[:k].sum(), (sizes[:k] ** 2).sum()), rel=1e-12)


def test_a_tensor_of_several_parts_counts_whole() -> None:
    delta = torch.zeros(PART + 3)
    delta[torch.tensor([0, PART - 1, PART, PART + 2])] = torch.tensor([1.0, -2.0, 3.0, -4.0])
    found = measure([delta], [1, 3])
    assert (found.n, found.absolute, found.squared) == (PART + 3, 10.0, 30.0)
    assert found.largest == {1: (4.0, 16.0), 3: (9.0, 29.0)}


def test_kurtosis_tells_a_normal_movement_from_a_heavy_tailed_one() -> None:
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert measure([draws], [1]).excess_kurtosis == pytest.approx(0, abs=0.05)
    assert measure([draws + 5], [1]).excess_kurtosis == pytest.approx(0, abs=0.05)  # central moments
    assert measure([draws.sign() * draws.abs().log().abs()], [1]).excess_kurtosis > 1
    assert measure([draws[:0], torch.ones(9)], [1]).excess_kurtosis == 0  # no spread at all


def test_effective_numbers_count_what_moved_alike() -> None:
    alike = torch.zeros(1000)
    alike[:7] = torch.tensor([1.0, -1.0]).repeat(4)[:7]
    found = measure([alike], [7])
    assert found.participation == pytest.approx(7)
    assert found.participation_l1 == pytest.approx(7)
    alike[7:] = 1e-3  # dust: the lower the powers, the more it counts
    dusty = measure([alike], [7])
    assert 7 < dusty.participation < 9 < dusty.participation_l1 < 10
    still = measure([torch.zeros(5)], [1])
    assert (still.participation, still.participation_l1, still.largest[1]) == (0.0, 0.0, (0.0, 0.0))
