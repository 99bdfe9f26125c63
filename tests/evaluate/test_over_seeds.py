from __future__ import annotations

import pytest
from scipy import stats

from graft.evaluate.over_seeds import mean_interval


@pytest.mark.parametrize("n", range(2, 11))
def test_the_interval_is_student_s(n: int) -> None:
    values = [0.1 * i * i for i in range(n)]
    found = mean_interval(values)
    low, high = stats.t.interval(0.95, n - 1, loc=found["mean"], scale=stats.sem(values))
    assert found["mean"] == pytest.approx(sum(values) / n)
    assert found["half"] == pytest.approx((high - low) / 2, rel=1e-3)


def test_above_ten_seeds_the_interval_is_never_too_narrow() -> None:
    for n in (11, 15, 40):
        values = [float(i % 7) for i in range(n)]
        exact = stats.t.ppf(0.975, n - 1) * stats.sem(values)
        assert exact < mean_interval(values)["half"] < 1.2 * exact


def test_one_seed_has_no_interval_and_equal_seeds_one_of_zero() -> None:
    assert mean_interval([0.5]) == {"mean": 0.5, "half": None, "values": [0.5]}
    assert mean_interval([0.5, 0.5])["half"] == 0
