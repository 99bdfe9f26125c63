from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.evaluate.continual_metrics import follow_stages

TRIANGLE = [[0.8], [0.6, 0.9], [0.7, 0.5, 1.0]]


def test_by_hand() -> None:
    first, second, third = follow_stages(TRIANGLE)
    assert (first.average, first.transfer, first.forgetting) == (0.8, 0, 0)
    assert (second.average, second.transfer, second.forgetting) == pytest.approx((0.75, -0.2, 0.2))
    # the first task was best after its own stage, the second too
    assert (third.average, third.transfer, third.forgetting) == pytest.approx((2.2 / 3, -0.25, 0.25))


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(*(
    st.lists(st.floats(0, 1), min_size=s + 1, max_size=s + 1) for s in range(n)
))))  # fmt: skip
def test_forgetting_is_at_least_what_transfer_says_was_lost(accuracies: tuple[list[float], ...]) -> None:
    for after in follow_stages(accuracies):
        assert after.forgetting >= -after.transfer - 1e-12


def test_what_never_changes_is_not_forgotten() -> None:
    for after in follow_stages([[0.5], [0.5, 0.7], [0.5, 0.7, 0.9]]):
        assert (after.transfer, after.forgetting) == (0, 0)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="row s must hold"):
        follow_stages([[0.5], [0.5]])
