from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import BudgetError
from graft.localize.budget import allocate, resolve_budget
from graft.specs.localize import Allocation


@pytest.mark.parametrize(
    ("n", "density", "k"), [(1000, 1e-3, 1), (1500, 1e-3, 2), (2500, 1e-3, 3), (22_713_216, 1e-4, 2271), (10, 1, 10)]
)
def test_a_density_is_rounded_half_up(n: int, density: float, k: int) -> None:
    assert resolve_budget(n, density, None) == k == math.floor(density * n + 0.5)


@pytest.mark.parametrize(
    ("density", "budget", "said"),
    [
        (0.0, None, r"density 0 is not above 0"),
        (-0.1, None, r"density -0.1 is not above 0"),
        (1.01, None, r"density 1.01 is not above 0 and at most 1"),
        (float("nan"), None, r"density nan is not above 0"),
        (4e-4, None, r"density 0.0004 of 1,000 parameters keeps no entry"),
        (0.5, 0, r"budget 0 keeps no entry: a patch needs at least one"),
        (0.5, -3, r"budget -3 keeps no entry"),
    ],
)
def test_a_budget_of_nothing_is_refused(density: float, budget: int | None, said: str) -> None:
    assert resolve_budget(1000, 6e-4, None) == 1
    with pytest.raises(BudgetError, match=said):
        resolve_budget(1000, density, budget)


def test_more_than_there_is_is_refused() -> None:
    assert allocate(10, {"a": 4, "b": 6}, "global") == [(("a", "b"), 10)]
    with pytest.raises(BudgetError, match=r"a budget of 11 entries, but only 10 in scope changed"):
        allocate(11, {"a": 4, "b": 6}, "global")


def test_shares_by_hand() -> None:
    sizes = {"layer.0.w": 50, "layer.0.b": 6, "layer.1.w": 30, "norm": 14}
    per_tensor = allocate(7, sizes, "per-tensor")  # 3.5, .42, 2.1, .98: floors 3 0 2 0, then the largest remainders
    assert per_tensor == [(("layer.0.w",), 4), (("layer.1.w",), 2), (("norm",), 1)]
    assert allocate(7, sizes, "per-layer") == [(("layer.0.w", "layer.0.b"), 4), (("layer.1.w",), 2), (("norm",), 1)]


@settings(derandomize=True, deadline=None)
@given(
    st.dictionaries(st.from_regex(r"\Alayer\.[0-9]\.[a-z]\Z"), st.integers(1, 10**6), min_size=1),
    st.floats(1e-9, 1.0),
    st.sampled_from(["global", "per-tensor", "per-layer"]),
)
def test_shares_sum_to_the_budget_and_stay_within_one_of_proportion(
    sizes: dict[str, int], share: float, allocation: Allocation
) -> None:
    total = sum(sizes.values())
    k = max(1, int(share * total))
    groups = allocate(k, sizes, allocation)
    assert sum(part for _, part in groups) == k
    for names, part in groups:
        size = sum(sizes[name] for name in names)
        assert 0 < part <= size
        assert abs(part - Fraction(k * size, total)) < 1
